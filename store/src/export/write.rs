//! Files that appear whole or not at all.

use super::{Existing, ExportError};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

pub(super) fn error(action: &'static str, path: &Path, source: std::io::Error) -> ExportError {
    let path = path.into();
    ExportError::Io { action, path, source }
}

/// Writes a file and returns its size. A link that has its name is replaced or refused, and never followed.
pub(super) fn file(
    path: &Path,
    existing: Existing,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<u64, ExportError> {
    // Whoever asks for a file in a folder that is not there yet wants the folder.
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| error("create", parent, e))?;
    }
    let to = match existing {
        Existing::Keep => path.to_owned(),
        Existing::Replace => beside(path),
    };
    let file = OpenOptions::new().write(true).create_new(true).open(&to);
    let file = file.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists if existing == Existing::Keep => ExportError::Exists { path: path.into() },
        _ => error("create", &to, e),
    })?;
    let written = written(file, fill).and_then(|bytes| {
        if existing == Existing::Replace {
            std::fs::rename(&to, path)?;
        }
        Ok(bytes)
    });
    written.map_err(|e| {
        let _ = std::fs::remove_file(&to);
        error("write", path, e)
    })
}

fn written(
    file: File,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut out = BufWriter::new(file);
    fill(&mut out)?;
    out.flush()?;
    out.stream_position()
}

/// A name in the same folder, for a file that is not whole yet.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}
