//! Paths into runs and databases.

use super::{args::Filters, output::Failure};
use bitnet_diff::{
    Error,
    compare::describe,
    records::{Records, StoredRecords},
    report::Note,
};
use bitnet_trace_schema::run_dir;
use bitnet_trace_store::{Database, Filter, Run, StoreError};
use std::path::{Path, PathBuf};

/// Where runs are looked for when no database is given, after `BITNET_TRACE_DIR`.
const DEFAULT_DATABASES: [&str; 2] = ["traces", "target/demo/traces"];

/// A run that a path names, with those of its records that the filters take.
pub struct Opened {
    /// The records.
    pub records: StoredRecords,
    /// Which run was taken, where the path was that of a database.
    pub note: Option<Note>,
}

/// Opens a run, or the newest run of a database.
pub fn run(path: &Path, filters: &Filters) -> Result<Opened, Failure> {
    let run = Run::open(path).map_err(|error| unknown_run(path, error))?;
    let is_database =
        name_of(path).and_then(run_dir::run_of_dir).is_none() && !path.join(run_dir::MANIFEST).exists();
    let note = is_database.then(|| Note {
        kind: "newest",
        message: format!(
            "{} is a database; its newest run is {}",
            path.display(),
            run.name()
        ),
    });
    Ok(Opened {
        records: records(run, filters)?,
        note,
    })
}

/// The records of a run that the filters take: at least one.
fn records(run: Run, filters: &Filters) -> Result<StoredRecords, Failure> {
    let records = StoredRecords::new(run, &filters.filter())?;
    if !records.is_empty() {
        return Ok(records);
    }
    let all = StoredRecords::new(Run::open(records.run().path())?, &Filter::default())?;
    Err(no_records(records.run().name(), filters, &all).into())
}

/// The error of a run in which the filters found nothing.
pub fn no_records(run: &str, filters: &Filters, all: &StoredRecords) -> Error {
    let incomplete = all.side().incomplete;
    let known = match (all.is_empty(), incomplete.is_empty()) {
        (true, true) => "nothing was recorded into it".to_owned(),
        (true, false) => format!("it is incomplete: {}", incomplete.join("; ")),
        (false, _) => format!("it has {}", describe(all)),
    };
    Error::NoRecords {
        run: run.to_owned(),
        filters: if all.is_empty() {
            String::new()
        } else {
            filters.text()
        },
        known,
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// For a run that does not exist beside others that do: the error that lists those.
fn unknown_run(path: &Path, error: StoreError) -> StoreError {
    let name = name_of(path).and_then(run_dir::run_of_dir);
    let (StoreError::NotFound { .. }, Some(name), Some(parent)) = (&error, name, path.parent()) else {
        return error;
    };
    // The parent of `run=NAME` is the empty path.
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    match Database::open(parent).map(|d| d.run(name)) {
        Ok(Err(unknown)) => unknown,
        _ => error,
    }
}

/// The database of a command: the one given, or `BITNET_TRACE_DIR`, or the first default that exists.
pub fn database_path(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path);
    }
    if let Some(path) = std::env::var_os("BITNET_TRACE_DIR").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let found = DEFAULT_DATABASES
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.is_dir());
    found.ok_or_else(|| {
        let message = format!(
            "no database: BITNET_TRACE_DIR is not set, and there is neither ./{}; give the folder that holds the runs",
            DEFAULT_DATABASES.join(" nor ./")
        );
        Failure::new("no_database", message)
    })
}
