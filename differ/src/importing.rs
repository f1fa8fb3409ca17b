//! What was imported.

use crate::compare::Status;
use bitnet_trace_schema::RecordMeta;
use bitnet_trace_store::{Traces, import::Imported};
use serde::Serialize;
use std::collections::BTreeSet;

/// What `import` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportReport {
    /// Always [`Status::Ok`].
    pub status: Status,
    /// The run's name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// The files it was made from, in the order in which they were read.
    pub files: Vec<String>,
    /// Records.
    pub records: u64,
    /// Number of different stages.
    pub stages: u64,
    /// Records without a hash.
    pub without_hash: u64,
    /// Records without an rms.
    pub without_rms: u64,
}

impl ImportReport {
    /// The report of a run that was made of files.
    pub fn of(traces: &Traces, run: &Imported) -> Self {
        let count = |of: &dyn Fn(&RecordMeta) -> bool| traces.records.iter().filter(|m| of(m)).count() as u64;
        let stages: BTreeSet<&str> = traces.records.iter().map(|m| m.stage.as_str()).collect();
        Self {
            status: Status::Ok,
            name: run.name.clone(),
            path: run.path.display().to_string(),
            files: traces.files.iter().map(|f| f.display().to_string()).collect(),
            records: traces.records.len() as u64,
            stages: stages.len() as u64,
            without_hash: count(&|m| m.blake3.is_empty()),
            without_rms: count(&|m| m.stats.rms.is_none()),
        }
    }
}
