//! Records programs that compute with ggml, without a change to them: `LD_PRELOAD=libbitnet_trace_preload.so`.
//!
//! The library interposes `ggml_backend_sched_set_eval_callback`, which libllama calls for every graph that it builds:
//! the scheduler gets a callback of ours that shows each node to an [`Observer`](bitnet_trace_ggml::Observer) and goes on
//! to the program's own ([`contexts`]). ggml's functions are those of the library that the caller would have called
//! ([`resolve`]); `ggml_tensor` is read in a layout that these functions confirm on tensors made for it ([`layout`]), and
//! where they disagree one line on stderr says so and the program is left alone. `ggml_backend_sched_free` ends a
//! context's run, and `ggml_backend_reg_get_proc_address` hands out the function that tells the number of threads
//! ([`threads`]).
//!
//! Without BITNET_TRACE_DIR every call goes straight on to ggml, and a program that makes none is not touched at all. A
//! program that has the recorder in it records itself, and this library stands down.
#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod contexts;
mod layout;
mod model;
#[path = "../../src/reserve.rs"]
mod reserve;
mod resolve;
mod threads;

use std::ffi::{CStr, c_char, c_void};

/// Goes on in a function that takes the arguments and, after them, the address that the call returns to: it lies in the
/// library that calls.
macro_rules! interpose {
    ($(#[$doc:meta])* $name:ident, $x86_64:literal, $aarch64:literal, $to:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the function of ggml.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!($x86_64, "jmp {to}", to = sym $to);
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!($aarch64, "b {to}", to = sym $to);
        }
    };
}

interpose! {
    /// Interposed: three arguments.
    ggml_backend_sched_set_eval_callback, "mov rcx, [rsp]", "mov x3, x30", contexts::set_eval_callback
}
interpose! {
    /// Interposed: one argument.
    ggml_backend_sched_free, "mov rsi, [rsp]", "mov x1, x30", contexts::sched_free
}
interpose! {
    /// Interposed: two arguments.
    ggml_backend_reg_get_proc_address, "mov rdx, [rsp]", "mov x2, x30", threads::get_proc_address
}

/// The program records itself: `libbitnet_trace` says so when a context's first node is asked for.
#[unsafe(no_mangle)]
pub extern "C" fn bitnet_trace_preload_stand_down() {
    contexts::stand_down();
}

/// A line on stderr that, unlike `eprintln!`, panics nowhere.
fn tell(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "bitnet-trace: {text}");
}

/// The C string's text; empty for null.
///
/// # Safety
/// `pointer` is null or a C string that lives as long as the result.
unsafe fn text<'a>(pointer: *const c_char) -> &'a str {
    if pointer.is_null() {
        return "";
    }
    // SAFETY: the caller's promise
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or("")
}

/// A function's address as a value that threads share.
type Address = *mut c_void;
