//! Signals that are the host's alone.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// What the kernel sends to a thread because of what it wrote: by default they end the process, and here
/// the error code says the same.
const OF_WRITING: [i32; 2] = [libc::SIGXFSZ, libc::SIGPIPE];
/// Signals of a fault in the code that runs: blocking them would only hide which handler should see them.
const OF_FAULTS: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// Runs `f` with this thread's signals blocked. A file size limit or a closed pipe is then an error of the
/// write and not the end of the process, and a thread that `f` starts never runs a handler of the host.
pub(crate) fn blocked<T>(f: impl FnOnce() -> T) -> T {
    let _unblock = block();
    f()
}

/// The signals that were blocked before; they are again when this is dropped.
struct Unblock(Option<libc::sigset_t>);

fn block() -> Unblock {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset and pthread_sigmask fill the sets that they are given; these live until they return
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for signal in OF_FAULTS {
            libc::sigdelset(all.as_mut_ptr(), signal);
        }
        let done = libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        Unblock((done == 0).then(|| before.assume_init()))
    }
}

impl Drop for Unblock {
    fn drop(&mut self) {
        let Some(before) = &self.0 else { return };
        // SAFETY: every set is filled before it is read, and lives until the call returns; `sigwait` returns
        // at once as it waits for a signal that is pending and blocked
        unsafe {
            let mut pending = MaybeUninit::uninit();
            if libc::sigpending(pending.as_mut_ptr()) == 0 {
                let pending = pending.assume_init();
                for signal in OF_WRITING {
                    if libc::sigismember(&pending, signal) == 1 && libc::sigismember(before, signal) == 0 {
                        let (mut one, mut taken) = (MaybeUninit::uninit(), 0);
                        libc::sigemptyset(one.as_mut_ptr());
                        libc::sigaddset(one.as_mut_ptr(), signal);
                        libc::sigwait(one.as_ptr(), &mut taken);
                    }
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, before, null_mut());
        }
    }
}
