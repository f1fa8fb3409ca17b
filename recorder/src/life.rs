//! Shows readers that the recorder lives.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

/// A shared lock on the run's directory, held for as long as the process lives or the recorder is used: a
/// reader that would finish the run of a dead process must have it alone. Where a reader cannot see this process
/// (another container), the lock is all that it can tell by.
#[derive(Debug)]
pub(crate) struct Life {
    /// Held, not read.
    _dir: File,
    /// Where its descriptor stands in [`HELD`]: beyond the end where that was full.
    slot: usize,
}

/// Descriptors that hold locks, -1 where there is none. A forked child has them too, and would hold the locks for as
/// long as it lives.
static HELD: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];

impl Life {
    /// `None` where the file system has no locks.
    pub fn show(dir: &Path) -> Option<Self> {
        let dir = File::open(dir).ok()?;
        dir.try_lock_shared().ok()?;
        let fd = dir.as_raw_fd();
        let free =
            |slot: &AtomicI32| (slot.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed)).is_ok();
        let slot = HELD.iter().position(free).unwrap_or(HELD.len());
        Some(Self { _dir: dir, slot })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // before the descriptor is closed, and may become another file's
        if let Some(slot) = HELD.get(self.slot) {
            slot.store(-1, Ordering::Relaxed);
        }
    }
}

/// Lets the parent's locks go. Runs in a child before `fork` returns there: it may touch atomics, and call what may be
/// called in a signal handler.
pub(crate) fn in_child() {
    if HELD.iter().all(|slot| slot.load(Ordering::Relaxed) < 0) {
        return;
    }
    // SAFETY: system calls alone. The descriptors stay open, on another file, so that whoever closes them in this
    // process closes nothing else.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if null < 0 {
            return;
        }
        for held in HELD.iter().map(|slot| slot.swap(-1, Ordering::Relaxed)) {
            if held >= 0 {
                libc::dup2(null, held);
                libc::fcntl(held, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
        libc::close(null);
    }
}
