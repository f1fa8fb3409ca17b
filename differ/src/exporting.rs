//! What was exported.

use crate::{
    compare::Status,
    plan::Key,
    records::StoredRecords,
    report::{Note, RunView},
};
use bitnet_trace_store::{Meta, export::Exported};
use serde::Serialize;

/// What `export` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// Always [`Status::Ok`].
    pub status: Status,
    /// The run that was exported from.
    pub run: RunView,
    /// Records that were exported.
    pub records: u64,
    /// The files, in the order of their records.
    pub files: Vec<ExportedFile>,
    /// What a reader should know.
    pub notes: Vec<Note>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportedFile {
    /// Where it is.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// NumPy's name of the element type; null for a `.trace` file.
    pub numpy: Option<&'static str>,
    /// The record in an `.npy` file; null for a `.trace` file.
    pub record: Option<ExportedRecord>,
}

/// The record in an `.npy` file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportedRecord {
    /// Its key.
    #[serde(flatten)]
    pub key: Key,
    /// Forward call.
    pub pass: i32,
    /// Which record of the same pass and key.
    pub occurrence: i32,
    /// Element type in the engine.
    pub dtype: &'static str,
    /// Shape, row-major.
    pub shape: Vec<i64>,
}

impl ExportReport {
    /// The report of files that hold these rows of a run: a file for each row, or one for all.
    pub fn of(records: &StoredRecords, files: &[Exported]) -> Self {
        let side = records.side();
        let mut rows = records.rows().iter();
        let files = files.iter().map(|file| ExportedFile {
            path: file.path.display().to_string(),
            bytes: file.bytes,
            numpy: file.numpy,
            record: file.numpy.and_then(|_| rows.next()).map(ExportedRecord::of),
        });
        Self {
            status: Status::Ok,
            records: records.rows().len() as u64,
            files: files.collect(),
            notes: crate::notes::incomplete(&side, side.name).into_iter().collect(),
            run: RunView::of(&side),
        }
    }
}

impl ExportedRecord {
    fn of(meta: Meta<'_>) -> Self {
        Self {
            key: Key::of(meta),
            pass: meta.pass,
            occurrence: meta.occurrence,
            dtype: meta.dtype.name(),
            shape: meta.shape.to_vec(),
        }
    }
}
