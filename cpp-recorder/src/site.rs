//! Tracepoints of one stage: `bnt_site`.

use crate::abi::{bnt_tap, bnt_tensor, code, text};
use crate::{bnt_recorder, guard, handle, record};
use bitnet_trace::{Recorder, Tap};
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bit of the layers that have none of their own: it is always set while tensors are taken.
const DEEP: i32 = 63;

/// A tracepoint of one stage.
#[repr(C)]
pub struct bnt_site {
    /// Bit layer + 2 says whether anything of the layer may be wanted. The C header reads it.
    layers: AtomicU64,
    stage: String,
    recorder: Recorder,
}

impl bnt_site {
    fn new(recorder: &Recorder, stage: String) -> Self {
        let wanted = (0..DEEP).filter(|bit| recorder.wants(&Tap::new(&stage, bit - 2, -1)));
        Self {
            layers: AtomicU64::new(wanted.fold(1 << DEEP, |layers, bit| layers | 1 << bit)),
            stage,
            recorder: recorder.clone(),
        }
    }

    /// What the header's mask can't tell: whether the recorder still takes tensors, and of a deep layer.
    fn wants(&self, layer: i32) -> bool {
        if !self.recorder.is_on() {
            self.layers.store(0, Ordering::Relaxed); // it does not come back
        }
        self.recorder.wants(&Tap::new(&self.stage, layer, -1))
    }
}

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
            Some(recorder) => Box::into_raw(Box::new(bnt_site::new(recorder, stage.into_owned()))),
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
        unsafe { site_of(site) }.is_some_and(|s| s.wants(layer)).into()
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
    unsafe { site_of(site).map_or(code::OK, |s| record(&s.recorder, Some(&s.stage), tap, tensor)) }
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
