//! Shows readers that the recorder lives.

use std::fs::File;
use std::path::Path;

/// A shared lock on the run's directory, held for as long as the process lives or the recorder is used: a
/// reader that would finish the run of a dead process must have it alone. Where a reader cannot see this process
/// (another container), the lock is all that it can tell by.
///
/// `None` where the file system has no locks.
pub(crate) fn show(dir: &Path) -> Option<File> {
    let dir = File::open(dir).ok()?;
    dir.try_lock_shared().ok()?;
    Some(dir)
}
