//! Tracepoints of one stage: `bnt_site`.

use crate::abi::{bnt_tap, bnt_tensor, code, text};
use crate::{bnt_recorder, guard, handle, record};
use bitnet_trace::Site;
use std::ffi::{c_char, c_int};

/// A tracepoint of one stage. The C header reads the mask that it begins with.
#[repr(transparent)]
pub struct bnt_site(Site);

/// The site behind a handle.
///
/// # Safety
/// `site` is NULL or a site that has not been freed.
unsafe fn site_of<'a>(site: *const bnt_site) -> Option<&'a bnt_site> {
    // SAFETY: the caller's promise
    unsafe { site.as_ref() }
}

/// A tracepoint of a stage.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `stage` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_site_make(recorder: *mut bnt_recorder, stage: *const c_char) -> *mut bnt_site {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's promise
        let (recorder, stage) = unsafe { (handle(recorder), text(stage)) };
        match recorder.filter(|recorder| recorder.is_on()) {
            Some(recorder) => Box::into_raw(Box::new(bnt_site(recorder.site(&stage)))),
            None => std::ptr::null_mut(),
        }
    })
}

/// Whether the recorder takes tensors of the stage in this layer.
///
/// # Safety
/// `site` is NULL or a site that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_site_confirm(site: *const bnt_site, layer: i32) -> c_int {
    guard(0, || {
        // SAFETY: the caller's promise
        unsafe { site_of(site) }.is_some_and(|s| s.0.wants(layer)).into()
    })
}

/// Records a tensor of the site's stage.
///
/// # Safety
/// `site` is NULL or a site that has not been freed; `tap` and `tensor` are as for `bnt_record`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_site_record(
    site: *const bnt_site,
    tap: *const bnt_tap,
    tensor: *const bnt_tensor,
) -> c_int {
    // SAFETY: the caller's promise
    unsafe {
        site_of(site).map_or(code::OK, |s| {
            record(s.0.recorder(), Some(s.0.stage()), tap, tensor)
        })
    }
}

/// Ends a site's life.
///
/// # Safety
/// `site` is NULL or a site that has not been freed, and that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_site_free(site: *mut bnt_site) {
    if !site.is_null() {
        // SAFETY: made by Box::into_raw in `bnt_site_make`, and by the caller's promise not freed before
        guard((), || drop(unsafe { Box::from_raw(site) }));
    }
}
