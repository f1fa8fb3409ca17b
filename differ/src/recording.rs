//! What a program recorded.

use crate::{compare::Status, report::ErrorView, runs::RunLine};
use bitnet_trace_schema::Manifest;
use serde::Serialize;

/// What `record` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordReport {
    /// `ok`, or `error` where the program failed or nothing whole was recorded.
    pub status: Status,
    /// The database.
    pub database: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The program's exit code; null where a signal ended it.
    pub exit_code: Option<i32>,
    /// The runs that the program recorded, oldest first.
    pub runs: Vec<RecordedRun>,
    /// Why the status is `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

/// One recorded run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedRun {
    /// The run.
    #[serde(flatten)]
    pub run: RunLine,
    /// Which records were kept, if not all of them.
    pub selection: Option<String>,
    /// Positions whose token ids are known.
    pub tokens: u64,
    /// Number of different stages.
    pub stages: u64,
    /// Tensors that were offered and not recorded.
    pub dropped: u64,
}

impl RecordedRun {
    /// A run, its manifest and the number of its stages, where it can be read.
    pub fn of(run: RunLine, manifest: Option<&Manifest>, stages: u64) -> Self {
        let ids = manifest.iter().flat_map(|m| &m.sequences).flat_map(|s| &s.ids);
        Self {
            selection: manifest.and_then(|m| m.selection.clone()),
            tokens: ids.filter(|id| id.is_some()).count() as u64,
            stages,
            dropped: manifest.map_or(0, |m| m.dropped.total),
            run,
        }
    }
}
