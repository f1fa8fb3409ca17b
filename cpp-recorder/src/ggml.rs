//! The part of the ABI behind `bitnet_trace_ggml.h`: the header reads ggml's tensors, the library follows the graph.

use crate::{abi, bnt_recorder, guard, handle, reserve};
use bitnet_trace::Tap;
use bitnet_trace_ggml::{Host, Node, Observer, Raw};
use std::ffi::{c_int, c_void};

/// `bnt_ggml_host`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bnt_ggml_host {
    struct_size: u32,
    node_size: u32,
    node: unsafe extern "C" fn(*const c_void, *mut Node),
    bytes: unsafe extern "C" fn(*const c_void, *mut usize) -> *const c_void,
    copy: unsafe extern "C" fn(*const c_void, *mut c_void, usize),
    write: unsafe extern "C" fn(*const c_void, *const c_void, usize),
}

// SAFETY: the promise of `bnt_ggml_follow`'s caller
unsafe impl Host for bnt_ggml_host {
    fn node(&self, tensor: Raw) -> Node {
        let mut node = Node::default();
        // SAFETY: the header fills the struct, whose size was compared; `tensor` is ggml's
        unsafe { (self.node)(tensor, &raw mut node) };
        node
    }

    fn bytes(&self, tensor: Raw) -> (*const u8, usize) {
        let mut size = 0;
        // SAFETY: as above
        let data = unsafe { (self.bytes)(tensor, &raw mut size) };
        (data.cast(), size)
    }

    fn copy(&self, tensor: Raw, to: &mut [u8]) {
        // SAFETY: as above; `to` takes so many bytes
        unsafe { (self.copy)(tensor, to.as_mut_ptr().cast(), to.len()) }
    }

    fn write(&self, tensor: Raw, from: &[u8]) {
        // SAFETY: as above; `from` holds so many bytes, as many as the tensor has
        unsafe { (self.write)(tensor, from.as_ptr().cast(), from.len()) }
    }
}

/// `bnt_ggml_follower`.
pub struct bnt_ggml_follower(Observer<bnt_ggml_host>);

/// Tells the preload library, if it is there, that this program records itself.
fn stand_alone() {
    // SAFETY: the symbol is the preload library's, of this type
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"bitnet_trace_preload_stand_down".as_ptr());
        if !symbol.is_null() {
            std::mem::transmute::<*mut c_void, extern "C" fn()>(symbol)();
        }
    }
}

/// Follows the graphs of one context.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `host` is NULL or points to a struct whose sizes tell its
/// size and that of what it fills, whose functions do as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_ggml_follow(
    recorder: *mut bnt_recorder,
    host: *const bnt_ggml_host,
) -> *mut bnt_ggml_follower {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's promise
        let (recorder, host) = unsafe { (handle(recorder), abi::field(host, "bnt_ggml_host")) };
        let Some(recorder) = recorder else {
            return std::ptr::null_mut();
        };
        stand_alone();
        match host {
            Ok(host) if host.node_size as usize == size_of::<Node>() => {
                let observer = Observer::new(*host, recorder.clone(), reserve::starving);
                Box::into_raw(Box::new(bnt_ggml_follower(observer)))
            }
            _ => {
                let reason = "bitnet_trace_ggml.h and the library do not belong together";
                recorder.drop_tensor(Tap::new("", 0, -1), reason);
                std::ptr::null_mut()
            }
        }
    })
}

/// Ends a follower's life.
///
/// # Safety
/// `follower` is NULL, or was made by [`bnt_ggml_follow`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_ggml_unfollow(follower: *mut bnt_ggml_follower) {
    if !follower.is_null() {
        // SAFETY: made by Box::into_raw, and by the caller's promise not freed before
        guard((), || drop(unsafe { Box::from_raw(follower) }));
    }
}

/// The request of each token of the following forward calls.
///
/// # Safety
/// `follower` is NULL or in life, and used by nobody else now; `requests` is NULL or holds `n` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_ggml_requests(follower: *mut bnt_ggml_follower, requests: *const i32, n: usize) {
    guard((), || {
        // SAFETY: the caller's promise
        let (follower, requests) = unsafe { (follower.as_mut(), abi::slice(requests, n)) };
        if let (Some(follower), Ok(requests)) = (follower, requests) {
            follower.0.set_requests(requests.unwrap_or_default());
        }
    });
}

/// Whether the data of a tensor is wanted. NULL says that the graph's computation ends before its last node.
///
/// # Safety
/// `follower` is NULL or in life, and used by nobody else now; `tensor` is NULL or a tensor of the host's ggml.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_ggml_ask(follower: *mut bnt_ggml_follower, tensor: *const c_void) -> c_int {
    // SAFETY: the caller's promise
    unsafe { with(follower, false, |observer| observer.ask(tensor)) }.into()
}

/// Records a tensor that is computed now.
///
/// # Safety
/// As for [`bnt_ggml_ask`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_ggml_data(follower: *mut bnt_ggml_follower, tensor: *const c_void) {
    // SAFETY: the caller's promise
    unsafe { with(follower, (), |observer| observer.data(tensor)) }
}

/// Runs `f`; a panic loses its tensor only.
///
/// # Safety
/// `follower` is NULL or in life, and used by nobody else now.
unsafe fn with<T: Copy>(
    follower: *mut bnt_ggml_follower,
    otherwise: T,
    f: impl FnOnce(&mut Observer<bnt_ggml_host>) -> T,
) -> T {
    // SAFETY: the caller's promise
    let Some(follower) = (unsafe { follower.as_mut() }) else {
        return otherwise;
    };
    guard(None, || Some(f(&mut follower.0))).unwrap_or_else(|| {
        let recorder = follower.0.recorder();
        guard((), || recorder.drop_tensor(Tap::new("", 0, -1), crate::PANICKED));
        otherwise
    })
}
