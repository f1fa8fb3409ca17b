//! The runs of a database.

use bitnet_trace_schema::{Observation, RunState};
use bitnet_trace_store::{Database, RunSummary};
use serde::Serialize;

/// The runs of a database, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunsReport {
    /// The database.
    pub database: String,
    /// The runs.
    pub runs: Vec<RunLine>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunLine {
    /// The run's name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// The engine's name.
    pub engine: String,
    /// The engine's version.
    pub engine_version: String,
    /// `recording`, `complete` or `failed`; null where `run.json` cannot be read.
    pub state: Option<RunState>,
    /// Whether all that the engine offered is there.
    pub complete: bool,
    /// Why it is incomplete.
    pub incomplete: Vec<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
    /// Start, Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// Records.
    pub records: u64,
    /// Parts.
    pub parts: usize,
    /// Size of the parts in bytes.
    pub bytes: u64,
    /// Which records were kept, if not all of them.
    pub selection: Option<String>,
    /// Tensors that were offered and not recorded.
    pub dropped: u64,
    /// How recording may have touched the engine's numbers.
    pub observation: Observation,
}

impl RunsReport {
    /// The runs of an open database.
    pub fn of(database: &Database) -> Self {
        Self {
            database: database.path().display().to_string(),
            runs: database.runs().iter().map(RunLine::of).collect(),
        }
    }
}

impl RunLine {
    /// The line of one run.
    pub fn of(run: &RunSummary) -> Self {
        Self {
            name: run.name.clone(),
            path: run.path.display().to_string(),
            engine: run.engine.name.clone(),
            engine_version: run.engine.version.clone(),
            state: run.state,
            complete: run.completeness.is_complete() && run.error.is_none(),
            incomplete: run.completeness.reasons().iter().map(|r| r.to_string()).collect(),
            error: run.error.clone(),
            created_unix_ms: run.created_unix_ms,
            records: run.records,
            parts: run.parts,
            bytes: run.bytes,
            selection: run.selection.clone(),
            dropped: run.dropped,
            observation: run.observation.clone(),
        }
    }

    /// What is wrong with the run: why it cannot be read, or else why it is incomplete.
    pub(crate) fn problems(&self) -> &[String] {
        self.error.as_ref().map_or(&self.incomplete, std::slice::from_ref)
    }
}
