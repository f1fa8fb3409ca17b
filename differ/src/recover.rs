//! What `recover` did with runs whose process died.

use bitnet_trace_schema::RunState;
use bitnet_trace_store::{RecoverOutcome, RecoverReport, StoreError};
use serde::Serialize;
use std::path::Path;

/// What was done with each run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoveriesReport {
    /// The runs, in the order of their paths.
    pub runs: Vec<RecoverLine>,
}

/// What was done with one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoverLine {
    /// The run's name; its path where that cannot be read.
    pub run: String,
    /// Its directory.
    pub path: String,
    /// What was done.
    pub outcome: Outcome,
    /// The run's state now; null where `run.json` cannot be read.
    pub state: Option<RunState>,
    /// Why it was not recovered, or is not in need of it.
    pub cause: Option<String>,
    /// The parts that were open.
    pub recovered: Vec<PartLine>,
    /// Files that were left as they are, and why.
    pub notes: Vec<String>,
    /// Records of the run now.
    pub records: u64,
    /// Sealed parts of the run now.
    pub parts: usize,
}

/// What was saved of a part that was open.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartLine {
    /// Its file name.
    pub file: String,
    /// Records that were saved.
    pub records: u64,
    /// Bytes at its end that were cut off.
    pub cut_bytes: u64,
    /// Why not all that its journal has was used.
    pub problem: Option<String>,
}

/// What was done with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What its journal kept was sealed.
    Recovered,
    /// Nothing: it ended, or was recovered before.
    Ended,
    /// Nothing: its process lives.
    Live,
    /// It could not be recovered.
    Failed,
}

impl RecoverLine {
    /// The line of a run in the directory `path`.
    pub fn of(path: &Path, result: Result<RecoverReport, StoreError>) -> Self {
        let mut line = Self {
            run: path.display().to_string(),
            path: path.display().to_string(),
            outcome: Outcome::Failed,
            state: None,
            cause: None,
            recovered: Vec::new(),
            notes: Vec::new(),
            records: 0,
            parts: 0,
        };
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                line.cause = Some(error.to_string());
                return line;
            }
        };
        line.run = report.name;
        line.notes = report.notes;
        line.records = report.records;
        line.parts = report.parts;
        let recording = RunState::Recording;
        let (outcome, state, cause) = match report.outcome {
            RecoverOutcome::Recovered { recovery } => {
                line.recovered = (recovery.parts.into_iter())
                    .map(|p| PartLine {
                        file: p.file,
                        records: p.records,
                        cut_bytes: p.cut_bytes,
                        problem: p.problem,
                    })
                    .collect();
                (Outcome::Recovered, RunState::Recovered, None)
            }
            RecoverOutcome::Ended { state } => (Outcome::Ended, state, None),
            RecoverOutcome::Live { pid } => {
                let cause = format!("process {pid} is still recording");
                (Outcome::Live, recording, Some(cause))
            }
            RecoverOutcome::Blocked { cause } => (Outcome::Failed, recording, Some(cause)),
        };
        Self {
            outcome,
            state: Some(state),
            cause,
            ..line
        }
    }
}
