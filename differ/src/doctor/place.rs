use super::{Check, Health};
use crate::num;
use bitnet_trace_store::Database;
use std::{
    io,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Below this, a run of a small model fills the file system.
const LITTLE: u64 = 1 << 30;
/// Below this, nothing can be recorded.
const NOTHING: u64 = 1 << 20;

/// A directory for the doctor's own runs, inside the one where runs are recorded (so on the same file system), or in
/// the system's temporary one where that cannot be written. It is removed with this value.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Makes a directory in `database`, which is created; says what was found there.
    ///
    /// # Errors
    /// Where neither `database` nor the system's temporary directory can be written.
    pub fn new(database: &Path) -> io::Result<(Self, Vec<Check>)> {
        let made = std::fs::create_dir_all(database).and_then(|()| make(database));
        match made {
            Ok(dir) => {
                let checks = look(database);
                Ok((Self { dir }, checks))
            }
            Err(error) => {
                let dir = make(&std::env::temp_dir())?;
                let message = format!(
                    "cannot write into {}: {error}; give another directory with --into. What follows was tried \
                     in {}",
                    database.display(),
                    dir.path().display()
                );
                Ok((
                    Self { dir },
                    vec![Check::new("directory", Health::Problem, message)],
                ))
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A directory in it, for runs of their own.
    pub(super) fn sub(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

fn make(dir: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(".bitnet-diff-doctor-")
        .tempdir_in(dir)
}

/// What a directory that can be written offers.
fn look(dir: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |status, message| checks.push(Check::new("directory", status, message));
    let shown = dir.display();
    let free = rustix::fs::statvfs(dir).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    let room = match free {
        Ok(bytes) => format!("{} free", num::bytes(bytes)),
        Err(error) => format!("free space not known: {error}"),
    };
    match free {
        Ok(bytes) if bytes < NOTHING => add(
            Health::Problem,
            format!("{shown} is full: {room}; free some, or give another directory with --into"),
        ),
        Ok(bytes) if bytes < LITTLE => add(
            Health::Note,
            format!("{shown} can be written, but there is little room: {room}; --select keeps less"),
        ),
        _ => add(Health::Ok, format!("{shown} can be written, {room}")),
    }
    if is_in_memory(dir) {
        let message = format!("{shown} is in memory (tmpfs): runs take RAM and are gone after a restart");
        add(Health::Note, message);
    }
    let incomplete = incomplete_runs(dir);
    if !incomplete.is_empty() {
        let message = format!(
            "it holds {}: {}; `bitnet-diff runs {shown}` says why",
            num::plural(incomplete.len() as u64, "incomplete run"),
            incomplete.join(", ")
        );
        add(Health::Note, message);
    }
    checks
}

/// Whether the file system is tmpfs (statfs(2)).
fn is_in_memory(dir: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(dir).is_ok_and(|s| s.f_type as u64 == TMPFS_MAGIC)
}

fn incomplete_runs(dir: &Path) -> Vec<String> {
    let has_runs = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("run="));
    if !has_runs {
        return Vec::new(); // and no index is made of it
    }
    let Ok(database) = Database::open(dir) else {
        return Vec::new();
    };
    let runs = database.runs().iter();
    runs.filter(|r| r.error.is_some() || !r.completeness.is_complete())
        .map(|r| r.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_the_directory_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("new");
        let (place, checks) = Place::new(&database).expect("writable");
        assert!(checks.iter().all(|c| c.status < Health::Problem), "{checks:?}");
        assert_eq!(place.path().parent(), Some(&*database));
        std::fs::write(place.sub("x"), "").expect("written");
        drop(place);
        assert_eq!(std::fs::read_dir(&database).expect("read").count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_a_problem_and_the_rest_is_tried_elsewhere() {
        let (place, checks) = Place::new(Path::new("/proc/nowhere")).expect("a temporary directory");
        assert!(place.path().starts_with(std::env::temp_dir()));
        assert_eq!(checks[0].status, Health::Problem);
        assert!(checks[0].message.contains("/proc/nowhere") && checks[0].message.contains("--into"));
    }
}
