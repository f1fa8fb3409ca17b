//! The files of a run that is recovered. Nothing outside its directory is touched: links are not followed,
//! and a file that has a second name is not changed.

use bitnet_trace_schema::run_dir;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A run's directory.
pub(super) struct Files<'a> {
    dir: &'a Path,
}

/// Part numbers, by what there is of them.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sealed: BTreeSet<u32>,
    pub(super) open: BTreeSet<u32>,
    pub(super) journals: BTreeSet<u32>,
}

impl<'a> Files<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    /// Looks at every name in the directory.
    pub(super) fn list(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in std::fs::read_dir(self.dir)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue; // none of ours
            };
            let (part, numbers) = match (
                name.strip_suffix(run_dir::OPEN_SUFFIX),
                name.strip_suffix(run_dir::JOURNAL_SUFFIX),
            ) {
                (Some(part), _) => (part, &mut found.open),
                (_, Some(part)) => (part, &mut found.journals),
                _ => (name.as_str(), &mut found.sealed),
            };
            numbers.extend(run_dir::part_index(part).filter(|&n| run_dir::part_name(n) == part));
        }
        Ok(found)
    }

    pub(super) fn sealed(&self, number: u32) -> PathBuf {
        self.dir.join(run_dir::part_name(number))
    }

    fn open_path(&self, number: u32) -> PathBuf {
        let (part, open) = (run_dir::part_name(number), run_dir::OPEN_SUFFIX);
        self.dir.join(format!("{part}{open}"))
    }

    fn journal_path(&self, number: u32) -> PathBuf {
        let (part, journal) = (run_dir::part_name(number), run_dir::JOURNAL_SUFFIX);
        self.dir.join(format!("{part}{journal}"))
    }

    /// Opens a part's journal for reading.
    pub(super) fn journal(&self, number: u32) -> io::Result<File> {
        regular(&self.journal_path(number), OpenOptions::new().read(true))
    }

    /// Opens an open part for reading.
    pub(super) fn read_open(&self, number: u32) -> io::Result<File> {
        regular(&self.open_path(number), OpenOptions::new().read(true))
    }

    /// Opens an open part for writing.
    pub(super) fn write_open(&self, number: u32) -> io::Result<File> {
        let path = self.open_path(number);
        let file = regular(&path, OpenOptions::new().read(true).write(true))?;
        if file.metadata()?.nlink() > 1 {
            return Err(other(
                &path,
                "has a second name (a hard link), so it is not changed",
            ));
        }
        Ok(file)
    }

    /// Size of an open part; `None` where it is no file.
    pub(super) fn open_bytes(&self, number: u32) -> Option<u64> {
        let metadata = self.open_path(number).symlink_metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Whether there is an open part of this number.
    pub(super) fn is_open(&self, number: u32) -> bool {
        self.open_path(number).symlink_metadata().is_ok()
    }

    /// Gives a part its name. There is no part of that name: its number was looked for under the lock.
    pub(super) fn rename_open(&self, number: u32) -> io::Result<()> {
        std::fs::rename(self.open_path(number), self.sealed(number))?;
        self.sync()
    }

    pub(super) fn remove_open(&self, number: u32) -> io::Result<()> {
        gone(std::fs::remove_file(self.open_path(number)))
    }

    pub(super) fn remove_journal(&self, number: u32) -> io::Result<()> {
        gone(std::fs::remove_file(self.journal_path(number)))
    }

    /// Replaces the manifest.
    pub(super) fn write_manifest(&self, text: &[u8]) -> io::Result<()> {
        let new = self.dir.join(format!("{}.new", run_dir::MANIFEST));
        // One that the recorder left, or whatever has its name.
        gone(std::fs::remove_file(&new))?;
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text)?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&new, self.dir.join(run_dir::MANIFEST)));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written?;
        self.sync()
    }

    /// Makes names survive a power loss.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(self.dir)?.sync_all()
    }
}

/// Opens a file that is one, and not a link, a directory or a pipe (which would be waited for).
fn regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = (options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path))
    .map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => other(path, "is a link, which is not followed"),
        _ => e,
    })?;
    if !file.metadata()?.is_file() {
        return Err(other(path, "is not a file"));
    }
    Ok(file)
}

fn other(path: &Path, problem: &str) -> io::Error {
    let name = path.file_name().unwrap_or_default();
    io::Error::other(format!("{} {problem}", name.display()))
}

/// What is not there need not be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
