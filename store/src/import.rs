//! Makes a run of files that no recorder of ours wrote.

use crate::{StoreError, Traces};
use bitnet_trace_schema::part::{EncodeError, PartEncoder, Row};
use bitnet_trace_schema::{Layout, PartEntry, RecordMeta, run_dir};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A run that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name, which is another than the wanted one where that was taken.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// Makes a run of `traces` in the folder `database`, which is created where it is missing. Where the name is
/// taken, `-2`, `-3`, ... is appended.
///
/// # Errors
/// [`StoreError`] if `name` is not a run's name, or if something cannot be written; then nothing is left.
pub fn import(traces: &Traces, database: &Path, name: &str) -> Result<Imported, StoreError> {
    if !run_dir::is_run_name(name) {
        return Err(StoreError::RunName { name: name.into() });
    }
    std::fs::create_dir_all(database).map_err(|e| StoreError::io("create", database, e))?;
    let (name, path) = claim(database, name)?;
    fill(traces, &path, &name).map_err(|source| {
        let _ = std::fs::remove_dir_all(&path);
        StoreError::io("write", &path, source)
    })?;
    Ok(Imported { name, path })
}

/// Creates the run's directory, which nobody else has: `mkdir` succeeds for one process only.
fn claim(database: &Path, wanted: &str) -> Result<(String, PathBuf), StoreError> {
    for n in 1u32.. {
        let suffix = if n == 1 { String::new() } else { format!("-{n}") };
        let keep = run_dir::MAX_RUN_NAME - suffix.len();
        let name: String = wanted.chars().take(keep).chain(suffix.chars()).collect();
        let path = database.join(run_dir::dir_name(&name));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok((name, path)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("create", path, e)),
        }
    }
    unreachable!("four thousand million runs of one name")
}

/// Writes part and manifest, each whole before it has its name.
fn fill(traces: &Traces, dir: &Path, name: &str) -> io::Result<()> {
    let mut manifest = traces.manifest(name);
    manifest.command_line = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let file = run_dir::part_name(0);
    let writer = format!("{} version {}", manifest.writer.name, manifest.writer.version);
    let bytes = encode(name, &writer, &traces.records).map_err(io::Error::other)?;
    put(dir, &file, &bytes)?;
    manifest.parts.push(PartEntry {
        file,
        rows: traces.records.len() as u64,
        bytes: bytes.len() as u64,
    });
    put(dir, run_dir::MANIFEST, manifest.to_json().as_bytes())
}

/// A part of records without elements.
fn encode(run: &str, writer: &str, records: &[RecordMeta]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    let mut part = PartEncoder::new(run, writer, Layout::default())?;
    for meta in records {
        let row = Row {
            meta,
            values: None,
            raw: None,
        };
        part.push(&row, &mut bytes)?;
    }
    part.finish(&mut bytes)?;
    Ok(bytes)
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}
