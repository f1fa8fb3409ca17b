//! Takes records out of a run: as `.npy` files for NumPy, or as a `.trace` file.
//!
//! Nothing is written but under the path that the caller gives, whatever an engine calls its tensors, and no
//! file is replaced unless that is asked for.

mod names;
mod npy;
mod write;

use crate::{Row, Run, StoreError};
use bitnet_trace_schema::trace_file::TraceRecord;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What exporting does with a file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// An error, before anything is written.
    #[default]
    Keep,
    /// It is replaced.
    Replace,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// NumPy's name of the elements' type (`float32`, `float16`, `int64`, ...); `None` for a `.trace` file.
    pub numpy: Option<&'static str>,
}

/// Why records could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The run could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that exists.
    #[error("{} exists; give another path, or pass --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A record without elements.
    #[error("{key} of the run {run} has no values: it was recorded with statistics only, or imported")]
    NoValues {
        /// The run.
        run: String,
        /// The record.
        key: String,
    },
}

/// Writes one record as an `.npy` file: a C-contiguous, little-endian array of the record's shape and dtype,
/// where NumPy has that dtype (BF16 becomes float32, which holds it exactly).
///
/// # Errors
/// [`ExportError`]; then no file is left.
pub fn npy(run: &Run, row: &Row, path: &Path, existing: Existing) -> Result<Exported, ExportError> {
    let array = array(run, row)?;
    let bytes = write::file(path, existing, |out| {
        out.write_all(&array.header(&row.meta.shape))?;
        out.write_all(&array.bytes())
    })?;
    Ok(Exported {
        path: path.to_owned(),
        bytes,
        numpy: Some(array.numpy()),
    })
}

/// Writes each record as an `.npy` file in the folder `dir`, which is created where it is missing:
/// `seq00003_layer006_attn_out.npy`, and what else tells records of one key apart. The files are in the order
/// of `rows`.
///
/// # Errors
/// [`ExportError`]. Values that are missing and files that exist are found before the first file is written;
/// after another error, the files before it stay.
pub fn npy_files(
    run: &Run,
    rows: &[Row],
    dir: &Path,
    existing: Existing,
) -> Result<Vec<Exported>, ExportError> {
    if let Some(row) = rows.iter().find(|row| !row.has_elements()) {
        return Err(no_values(run, row));
    }
    let paths: Vec<PathBuf> = names::of(rows).into_iter().map(|name| dir.join(name)).collect();
    if existing == Existing::Keep
        && let Some(path) = paths.iter().find(|p| p.symlink_metadata().is_ok())
    {
        return Err(ExportError::Exists { path: path.clone() });
    }
    std::fs::create_dir_all(dir).map_err(|e| write::error("create", dir, e))?;
    rows.iter()
        .zip(paths)
        .map(|(row, path)| npy(run, row, &path, existing))
        .collect()
}

/// Writes records as the lines of a `.trace` file, in the order of `rows`.
///
/// # Errors
/// [`ExportError`]; then no file is left.
pub fn trace(rows: &[Row], path: &Path, existing: Existing) -> Result<Exported, ExportError> {
    let bytes = write::file(path, existing, |out| {
        rows.iter()
            .try_for_each(|row| out.write_all(line(row).as_bytes()))
    })?;
    Ok(Exported {
        path: path.to_owned(),
        bytes,
        numpy: None,
    })
}

/// A record as a line of a `.trace` file, with its end.
pub fn line(row: &Row) -> String {
    let mut line = TraceRecord::from(&row.meta).to_line();
    line.push('\n');
    line
}

fn array(run: &Run, row: &Row) -> Result<npy::Array, ExportError> {
    npy::Array::of(run.tensor(row)?).ok_or_else(|| no_values(run, row))
}

fn no_values(run: &Run, row: &Row) -> ExportError {
    let m = &row.meta;
    ExportError::NoValues {
        run: run.name().to_owned(),
        key: format!("seq={}, layer={}, stage={}", m.seq, m.layer, m.stage),
    }
}
