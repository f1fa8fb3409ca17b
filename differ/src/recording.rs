//! What a program recorded.

use crate::{compare::Status, report::ErrorView, runs::RunLine};
use bitnet_trace_store::{Database, Filter, StoreError};
use serde::Serialize;
use std::{collections::BTreeSet, ffi::OsStr, path::Path};

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
    /// Positions whose token ids are known.
    pub tokens: u64,
    /// Number of different stages.
    #[serde(rename = "stages", serialize_with = "count")]
    pub stages: BTreeSet<String>,
    /// With how many threads it computed, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// First and last layer; none without records.
    #[serde(skip)]
    pub layers: Option<(i64, i64)>,
    /// First and last position; none without records.
    #[serde(skip)]
    pub seqs: Option<(i64, i64)>,
}

fn count<S: serde::Serializer>(all: &BTreeSet<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(all.len() as u64)
}

impl RecordedRun {
    /// The runs of a database whose directory `is_new` takes, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] where the database or the records of a run cannot be read.
    pub fn all(database: &Path, is_new: &dyn Fn(&OsStr) -> bool) -> Result<Vec<Self>, StoreError> {
        let database = Database::open(database)?;
        let new = |path: &Path| path.file_name().is_some_and(is_new);
        let mut runs = Vec::new();
        for summary in database.runs().iter().filter(|r| new(&r.path)) {
            let mut recorded = Self {
                run: RunLine::of(summary),
                tokens: 0,
                stages: BTreeSet::new(),
                threads: None,
                layers: None,
                seqs: None,
            };
            if summary.error.is_none() {
                let run = database.run(&summary.name)?;
                recorded.threads = run.manifest().settings.threads;
                let ids = run.manifest().sequences.iter().flat_map(|s| &s.ids);
                recorded.tokens = ids.filter(|id| id.is_some()).count() as u64;
                for row in run.records(&Filter::default()) {
                    widen(&mut recorded.layers, row.meta.layer.into());
                    widen(&mut recorded.seqs, row.meta.seq);
                    if !recorded.stages.contains(row.meta.stage.as_str()) {
                        recorded.stages.insert(row.meta.stage.into());
                    }
                }
            }
            runs.push(recorded);
        }
        Ok(runs)
    }
}

fn widen(range: &mut Option<(i64, i64)>, to: i64) {
    let (first, last) = range.unwrap_or((to, to));
    *range = Some((first.min(to), last.max(to)));
}
