//! One at a time.
//!
//! A recorder holds a shared lock (`flock`) on the run's directory for as long as it lives, a reader that
//! recovers an exclusive one. The system takes them away from a process that died.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a reader waits for another that recovers the run.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) enum Lock {
    /// Nobody else writes into the directory until this is dropped.
    Held(#[allow(dead_code)] File),
    /// A recorder has it: its process lives, even if it cannot be seen.
    Recorder,
}

/// Locks a run's directory, and waits for another reader that has it.
pub(super) fn exclusive(dir: &Path) -> io::Result<Lock> {
    let file = File::open(dir)?;
    let begin = Instant::now();
    // Whoever can share the lock shares it with a recorder, or came just as a reader let it go.
    let mut shared = 0;
    while begin.elapsed() < PATIENCE {
        match file.try_lock() {
            Ok(()) => return Ok(Lock::Held(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match file.try_lock_shared() {
            Ok(()) => {
                file.unlock()?;
                shared += 1;
                if shared == 3 {
                    return Ok(Lock::Recorder);
                }
            }
            Err(TryLockError::WouldBlock) => shared = 0,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        std::thread::sleep(PAUSE);
    }
    let waited = "another process that recovers it takes too long";
    Err(io::Error::new(io::ErrorKind::TimedOut, waited))
}
