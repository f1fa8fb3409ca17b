//! Paths into runs and databases.

use super::{args::Filters, output::Failure};
use bitnet_diff::{
    Error,
    compare::describe,
    mapping::{Mapped, Mapping, Which},
    records::{Records, Side, StoredRecords, TraceRecords, at_once},
    report::Note,
};
use bitnet_trace_schema::{StageGraph, run_dir, selection::Selection};
use bitnet_trace_store::{Database, Filter, Run, StoreError, Traces};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Where runs are looked for when no database is given, after `BITNET_TRACE_DIR`.
const DEFAULT_DATABASES: [&str; 2] = ["traces", "target/demo/traces"];

/// A run or `.trace` files that a path names, with those of its records that the filters take, under the names
/// that aliases and a mapping give them.
pub struct Opened {
    records: Source,
    /// Which run was taken, where the path was that of a database.
    note: Option<Note>,
}

/// Where the records are.
enum Source {
    Run(Box<Mapped<StoredRecords>>),
    Traces(Box<Mapped<TraceRecords>>),
}

impl Opened {
    /// The records as a side of a comparison.
    pub fn side(&self) -> Side<'_> {
        match &self.records {
            Source::Run(mapped) => Side {
                records: &**mapped,
                ..mapped.inner().side()
            },
            Source::Traces(mapped) => Side {
                records: &**mapped,
                ..mapped.inner().side()
            },
        }
    }

    /// Entries of the mapping that match some of its records.
    fn used(&self) -> &HashSet<usize> {
        match &self.records {
            Source::Run(mapped) => mapped.used(),
            Source::Traces(mapped) => mapped.used(),
        }
    }
}

/// How records are looked for.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// Which records.
    pub filters: &'a Filters,
    /// The vocabulary.
    pub graph: &'a StageGraph,
    /// Other names for them.
    pub mapping: Option<&'a Mapping>,
}

impl Names<'_> {
    /// What a reader should know of how the runs were opened.
    pub fn notes(&self, runs: &[&Opened]) -> Vec<Note> {
        let newest = runs.iter().filter_map(|r| r.note.clone());
        let used = runs.iter().flat_map(|r| r.used()).copied().collect();
        let mapping = self.mapping.map(|m| m.notes(&used));
        newest.chain(mapping.into_iter().flatten()).collect()
    }
}

/// Opens both runs of a comparison, at once.
pub fn both(left: &Path, right: &Path, names: Names<'_>) -> Result<(Opened, Opened), Failure> {
    let (left, right) = at_once(
        || run(left, Which::Left, names),
        || run(right, Which::Right, names),
    );
    Ok((left?, right?))
}

/// Opens a run, the newest run of a database, or `.trace` files.
pub fn run(path: &Path, which: Which, names: Names<'_>) -> Result<Opened, Failure> {
    if Traces::are_at(path) {
        return traces(path, which, names);
    }
    let filters = names.filters;
    let open = |of_run: &Filters, rest| {
        let (records, note) = stored(path, of_run, None)?;
        Ok::<_, Failure>((mapped(records, which, names, rest)?, note))
    };
    // The filters take names, which the run itself may not know.
    let wide = || open(&Filters::default(), true);
    let named = filters.stage.is_some() || filters.layer.is_some();
    let (mapped, note) = if names.mapping.is_some() {
        wide()?
    } else {
        match open(filters, false) {
            Err(error) if named => wide().ok().filter(|(m, _)| !m.is_empty()).ok_or(error)?,
            opened => opened?,
        }
    };
    if mapped.is_empty() {
        return Err(no_records(filters, &mapped.inner().side()).into());
    }
    Ok(Opened {
        records: Source::Run(Box::new(mapped)),
        note,
    })
}

/// The records under their other names; `filter` says whether the filters are still to be applied.
fn mapped(
    records: StoredRecords,
    which: Which,
    names: Names<'_>,
    filter: bool,
) -> Result<Mapped<StoredRecords>, Failure> {
    let engine = records.run().manifest().engine.name.clone();
    let mut mapped = Mapped::new(records, which, &engine, names.mapping, names.graph).map_err(Error::from)?;
    if filter {
        mapped.retain(&names.filters.filter());
    }
    Ok(mapped)
}

/// Opens a run, or the newest run of a database: at least one of its records is taken by the filters and the
/// selection.
pub fn stored(
    path: &Path,
    filters: &Filters,
    selection: Option<&Selection>,
) -> Result<(StoredRecords, Option<Note>), Failure> {
    let run = Run::open(path).map_err(|error| unknown_run(path, error))?;
    let note = is_database(path).then(|| Note {
        kind: "newest",
        message: format!(
            "{} is a database; its newest run is {}",
            path.display(),
            run.name()
        ),
    });
    let mut records = StoredRecords::new(run, &filters.filter());
    if let Some(selection) = selection {
        records.retain(|m| selection.tokens(m.stage, m.layer).wants(m.seq, m.request));
    }
    if !records.is_empty() {
        return Ok((records, note));
    }
    let all = StoredRecords::new(Run::open(records.run().path())?, &Filter::default());
    let mut error = no_records(filters, &all.side());
    if let (Error::NoRecords { filters, .. }, Some(selection)) = (&mut error, selection) {
        let select = format!("--select '{selection}'");
        *filters = format!("{filters} {select}").trim_start().to_owned();
    }
    Err(error.into())
}

/// Whether a path is that of a folder of runs, and not of one run.
pub fn is_database(path: &Path) -> bool {
    name_of(path).and_then(run_dir::run_of_dir).is_none() && !path.join(run_dir::MANIFEST).exists()
}

/// `.trace` files, with at least one record that the filters take.
fn traces(path: &Path, which: Which, names: Names<'_>) -> Result<Opened, Failure> {
    let traces = Traces::read(&[path], names.graph.clone())?;
    let name = trace_name(path);
    let all = TraceRecords::new(traces, path.display().to_string(), &name, &Filter::default());
    let engine = all.side().manifest.engine.name.clone();
    let mut mapped = Mapped::new(all, which, &engine, names.mapping, names.graph).map_err(Error::from)?;
    mapped.retain(&names.filters.filter());
    if mapped.is_empty() {
        return Err(no_records(names.filters, &mapped.inner().side()).into());
    }
    Ok(Opened {
        records: Source::Traces(Box::new(mapped)),
        note: None,
    })
}

/// The name of a run of `.trace` files: that of their folder, or of the file.
pub fn trace_name(path: &Path) -> String {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let last = if full.is_dir() {
        full.file_name()
    } else {
        full.file_stem()
    };
    let last = last.map_or_else(|| "traces".into(), |n| n.to_string_lossy().into_owned());
    run_dir::sanitize_run_name(&last)
}

/// The error of a run in which the filters found nothing; `all` has all of its records.
pub fn no_records(filters: &Filters, all: &Side<'_>) -> Error {
    let empty = all.records.is_empty();
    let known = match (empty, all.incomplete.is_empty()) {
        (true, true) => "nothing was recorded into it".to_owned(),
        (true, false) => format!("it is incomplete: {}", all.incomplete.join("; ")),
        (false, _) => format!("it has {}", describe(all.records)),
    };
    Error::NoRecords {
        run: all.name.to_owned(),
        filters: if empty { String::new() } else { filters.text() },
        known,
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// For a run that does not exist beside others that do: the error that lists those.
pub fn unknown_run(path: &Path, error: StoreError) -> StoreError {
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
