//! Where the row tables of a database are kept.

use bitnet_trace_schema::run_dir;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Beside the index. Readers of Parquet pass over what begins with `_`.
const FOLDER: &str = "_index";
/// Ending of a table.
const SUFFIX: &str = "rows";
/// Ending of a table that is being written.
const TEMPORARY: &str = ".new";
/// What is being written for so long, nobody writes any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The folder of the row tables of a database, which need not exist.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// That of the database `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.join(FOLDER))
    }

    /// Opens the table of a part; none where there is none, or a link or anything else in its place.
    pub(super) fn open(&self, run: &str, part: u32) -> Option<File> {
        let dir = self.run(run);
        if !is_dir(&self.0) || !is_dir(&dir) {
            return None;
        }
        // A pipe is not waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(dir.join(name(part)));
        file.ok()
            .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
    }

    /// Writes the table of a part in place of the one that is there, and opens it.
    ///
    /// # Errors
    /// Whatever keeps the system from it; and a link in place of the folder or the run's folder in it.
    pub(crate) fn write(&self, run: &str, part: u32, table: &[u8]) -> Result<File> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = self.run(run);
        make_dir(&self.0)?;
        make_dir(&dir)?;
        remove_abandoned(&dir);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = dir.join(format!(".{}.{}.{n}{TEMPORARY}", name(part), std::process::id()));
        let written = || {
            let options = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&new);
            let mut file = options?;
            file.write_all(table)?;
            // Not synchronised: a table that a crash spoiled is not what its checksum says.
            std::fs::rename(&new, dir.join(name(part)))?;
            Ok(file)
        };
        written().inspect_err(|_| drop(std::fs::remove_file(&new)))
    }

    /// Removes the table of a part that is gone.
    pub(crate) fn forget_part(&self, run: &str, part: u32) {
        if run_dir::is_run_name(run) && is_dir(&self.0) && is_dir(&self.run(run)) {
            // Where this fails, it is not used all the same: it tells which part it is of.
            let _ = std::fs::remove_file(self.run(run).join(name(part)));
        }
    }

    /// Removes the tables of a run that is gone.
    pub(crate) fn forget_run(&self, run: &str) {
        if run_dir::is_run_name(run) && is_dir(&self.0) && is_dir(&self.run(run)) {
            let _ = std::fs::remove_dir_all(self.run(run));
        }
    }

    /// Removes the tables of all runs but these, whose names are sorted.
    pub(crate) fn keep(&self, runs: &[String]) {
        if !is_dir(&self.0) {
            return;
        }
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let file = entry.file_name();
            if let Some(run) = file.to_str().and_then(run_dir::run_of_dir)
                && runs.binary_search_by(|known| known.as_str().cmp(run)).is_err()
            {
                self.forget_run(run);
            }
        }
    }

    fn run(&self, run: &str) -> PathBuf {
        self.0.join(run_dir::dir_name(run))
    }
}

/// The file name of a part's table.
fn name(part: u32) -> String {
    Path::new(&run_dir::part_name(part))
        .with_extension(SUFFIX)
        .to_string_lossy()
        .into_owned()
}

/// Whether this is a folder, and no link to one.
fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// Makes a folder where there is nothing.
fn make_dir(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Err(_) if !is_dir(path) => Err(Error::from(ErrorKind::NotADirectory)),
        _ => Ok(()),
    }
}

/// Removes what a process left that ended while it wrote.
fn remove_abandoned(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_new = entry.file_name().to_str().is_some_and(|n| n.ends_with(TEMPORARY));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_new && age().is_some_and(|age| age > ABANDONED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
