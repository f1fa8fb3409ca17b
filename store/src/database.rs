use crate::index::{self, Index, Place};
use crate::records::unsigned;
use crate::table::Folder;
use crate::update;
use crate::{Completeness, Reason, Run, StoreError, run, scan};
use bitnet_trace_schema::{Engine, Observation, RunState, run_dir};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder of runs and its index, which is up to date from [`Database::open`] on.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    index: Index,
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
    /// Records in the parts; 0 where the run cannot be read.
    pub records: u64,
    /// Size of the parts in bytes.
    pub bytes: u64,
    /// Number of parts.
    pub parts: usize,
    /// Which records were kept, if not all of them.
    pub selection: Option<String>,
    /// Tensors that were offered and not recorded, as `run.json` counts them.
    pub dropped: u64,
    /// How recording may have touched the engine's numbers.
    pub observation: Observation,
    /// Whether all that the engine offered is there.
    pub completeness: Completeness,
    /// Why the run cannot be read; such a run is not in the index.
    pub error: Option<String>,
}

impl Database {
    /// Opens a folder of `run=NAME` directories and brings its index up to date.
    ///
    /// A run that cannot be read does not hide the others: it is listed with its error. Where nothing
    /// changed, this reads run.json and the footer of each part, and no record.
    ///
    /// # Errors
    /// [`StoreError`] if `dir` is not a directory, is itself a run, or cannot be listed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = dir.as_ref();
        if !path.try_exists().map_err(|e| StoreError::io("find", path, e))? {
            return Err(StoreError::NotFound { path: path.into() });
        }
        if !path.is_dir() {
            return Err(StoreError::NotADirectory { path: path.into() });
        }
        let names = scan::run_names(path)?;
        if names.is_empty() && path.join(run_dir::MANIFEST).exists() {
            return Err(StoreError::IsARun { path: path.into() });
        }
        let place = Place::in_database(path);
        // A folder that is not a database yet does not get an index.
        let place = match place.file() {
            Some(file) if names.is_empty() && !file.exists() => Place::Memory,
            _ => place,
        };
        let (mut files, mut errors) = (Vec::new(), BTreeMap::new());
        for name in &names {
            match scan::run(&path.join(run_dir::dir_name(name)), name) {
                Ok(run) => files.push(run),
                Err(error) => {
                    errors.insert(name.clone(), error);
                }
            }
        }
        let (index, (outcomes, rows)) = index::with(place, |sql, tables| {
            let outcomes = update::update(sql, tables, &files)?;
            tables.inspect(|tables| tables.keep(&names));
            Ok((outcomes, row_counts(sql)?))
        })?;
        errors.extend(
            outcomes
                .into_iter()
                .filter_map(|(name, outcome)| Some((name, outcome.err()?))),
        );

        let mut files: BTreeMap<&str, _> = files.iter().map(|f| (f.name.as_str(), f)).collect();
        let mut runs: Vec<RunSummary> = names
            .iter()
            .map(|name| {
                let run_path = path.join(run_dir::dir_name(name));
                let error = errors.get(name).map(StoreError::to_string);
                let records = rows.get(name).copied().unwrap_or(0);
                let found = files.remove(name.as_str());
                RunSummary {
                    name: name.clone(),
                    state: found.map(|f| f.manifest.state),
                    engine: found.map_or_else(|| Engine::new("", ""), |f| f.manifest.engine.clone()),
                    created_unix_ms: found.map_or_else(
                        || scan::created_unix_ms(&run_path),
                        |f| f.manifest.created_unix_ms,
                    ),
                    records,
                    bytes: found.map_or(0, |f| f.parts.values().map(|p| p.bytes).sum()),
                    parts: found.map_or(0, |f| f.parts.len()),
                    selection: found.and_then(|f| f.manifest.selection.clone()),
                    dropped: found.map_or(0, |f| f.manifest.dropped.total),
                    observation: found.map_or_else(Observation::default, |f| f.manifest.observation.clone()),
                    completeness: match (&error, found) {
                        (None, Some(f)) => run::completeness(f, records),
                        (error, _) => Completeness::Incomplete {
                            reasons: vec![Reason::Unreadable {
                                error: error.clone().unwrap_or_default(),
                            }],
                        },
                    },
                    path: run_path,
                    error,
                }
            })
            .collect();
        runs.sort_by(|a, b| (a.created_unix_ms, &a.name).cmp(&(b.created_unix_ms, &b.name)));
        Ok(Self {
            path: path.into(),
            index,
            runs,
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
        let Some(run) = self.runs.iter().find(|r| r.name == name) else {
            let names: Vec<String> = self.runs.iter().map(|r| r.name.clone()).collect();
            return Err(StoreError::UnknownRun {
                path: self.path.clone(),
                name: name.into(),
                known: if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                },
            });
        };
        Run::open_in(Some(Folder::of(&self.path)), &run.path, name)
    }

    /// The run that was created last.
    ///
    /// # Errors
    /// [`StoreError::NoRuns`], or why that run cannot be read.
    pub fn newest(&self) -> Result<Run, StoreError> {
        match self.runs.last() {
            Some(run) => self.run(&run.name),
            None => Err(Self::no_runs(&self.path)),
        }
    }

    pub(crate) fn no_runs(dir: &Path) -> StoreError {
        StoreError::NoRuns {
            path: dir.into(),
            found: scan::describe(dir),
        }
    }

    /// The index, for SQL of one's own: the tables are in `schemas/index.sql`, and in
    /// [`INDEX_DDL`](bitnet_trace_schema::INDEX_DDL).
    pub fn sql(&self) -> &Connection {
        &self.index.sql
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index's file; `None` where it is kept in memory, because the folder cannot be written or holds
    /// no run.
    pub fn index_path(&self) -> Option<&Path> {
        self.index.place.file()
    }
}

/// Records of each run in the index.
fn row_counts(sql: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut statement =
        sql.prepare_cached("SELECT name, sum(rows) FROM parts JOIN runs ON runs.id = run_id GROUP BY name")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, unsigned(r, 1)?)))?;
    rows.collect()
}
