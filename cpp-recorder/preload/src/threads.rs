//! How many threads compute, and how many should.
//!
//! libllama sets the number before every graph, by a function that it asks the backend's registry for.

use crate::{Address, contexts, resolve, text};
use std::{
    cell::Cell,
    ffi::{c_char, c_int, c_void},
    sync::{
        LazyLock,
        atomic::{AtomicPtr, Ordering},
    },
};

type SetThreads = unsafe extern "C" fn(*mut c_void, c_int);

/// The functions that ours stand for: one a kind of backend.
static REAL: [AtomicPtr<c_void>; 4] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 4];
const OURS: [SetThreads; 4] = [set::<0>, set::<1>, set::<2>, set::<3>];

/// What the user asks for.
static HINT: LazyLock<Option<c_int>> = LazyLock::new(|| {
    let value = std::env::var("BITNET_TRACE_THREADS").ok()?;
    value.parse().ok().filter(|&n| n > 0)
});

thread_local! {
    static NOW: Cell<(c_int, bool)> = const { Cell::new((0, false)) };
}

/// With how many threads this thread computes, if it is known, and whether that is not what the program asked for.
pub fn now() -> Option<(u32, bool)> {
    let (threads, changed) = NOW.try_with(Cell::get).ok()?;
    Some((u32::try_from(threads).ok().filter(|&n| n > 0)?, changed))
}

unsafe extern "C" fn set<const SLOT: usize>(backend: *mut c_void, asked: c_int) {
    let threads = HINT.unwrap_or(asked);
    let _ = NOW.try_with(|now| now.set((threads, threads != asked)));
    let real = REAL[SLOT].load(Ordering::Acquire);
    if !real.is_null() {
        // SAFETY: the function that the registry gave under this name, with its arguments
        unsafe { std::mem::transmute::<Address, SetThreads>(real)(backend, threads) }
    }
}

/// Stands for `ggml_backend_reg_get_proc_address`.
pub unsafe extern "C" fn get_proc_address(
    reg: *mut c_void,
    name: *const c_char,
    caller: *const c_void,
) -> Address {
    let Some(real) = resolve::real(c"ggml_backend_reg_get_proc_address", caller) else {
        return std::ptr::null_mut();
    };
    type Get = unsafe extern "C" fn(*mut c_void, *const c_char) -> Address;
    // SAFETY: ggml's function with its arguments
    let found = unsafe { std::mem::transmute::<Address, Get>(real)(reg, name) };
    // SAFETY: a C string, which ggml has just read
    if found.is_null() || !contexts::enabled() || unsafe { text(name) } != "ggml_backend_set_n_threads" {
        return found;
    }
    for (slot, ours) in REAL.iter().zip(OURS) {
        let free = slot.compare_exchange(std::ptr::null_mut(), found, Ordering::AcqRel, Ordering::Acquire);
        if free.is_ok() || free == Err(found) {
            return ours as Address;
        }
    }
    found
}
