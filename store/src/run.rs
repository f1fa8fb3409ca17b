use crate::index::{self, Place};
use crate::part::{Part, PartMap};
use crate::scan::{self, PartStat, RunFiles};
use crate::table::{Folder, Source, Table};
use crate::update::{self, Scope};
use crate::{At, Completeness, Database, Filter, Reason, Row, Rows, StoreError, TensorRef, records, tensor};
use bitnet_trace_schema::{Manifest, RunState, run_dir};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// One execution of one engine, opened for reading.
///
/// It is `Send` and `Sync`: tensors may be taken from several threads. What it shows is the run as it was
/// when it was opened; parts that a live recorder seals later are not seen.
#[derive(Debug)]
pub struct Run {
    name: String,
    path: PathBuf,
    manifest: Manifest,
    completeness: Completeness,
    parts: BTreeMap<u32, OpenPart>,
}

/// A part, mapped when a tensor of it is first asked for.
#[derive(Debug)]
struct OpenPart {
    source: Arc<Source>,
    map: OnceLock<PartMap>,
    /// Its footer, read when original bytes are first asked for.
    part: OnceLock<Part>,
    /// Its rows, where their table is kept in memory.
    table: OnceLock<Arc<Table>>,
}

/// Where the values of some records of a [`Run`] lie in its parts.
#[derive(Debug, Clone, Default)]
pub struct Stretches(Vec<(u32, Range<usize>)>);

impl Stretches {
    /// Bytes from the beginning to the end of each.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Adds others, and leaves none of them there.
    pub fn append(&mut self, others: &mut Self) {
        for (part, bytes) in others.0.drain(..) {
            self.push(part, bytes);
        }
    }

    /// Adds one, which may be one with the last.
    fn push(&mut self, part: u32, bytes: Range<usize>) {
        match self.0.last_mut() {
            Some((of, last))
                if *of == part
                    && bytes.start <= last.end.saturating_add(MOST_BETWEEN)
                    && last.start <= bytes.end.saturating_add(MOST_BETWEEN) =>
            {
                *last = last.start.min(bytes.start)..last.end.max(bytes.end);
            }
            _ => self.0.push((part, bytes)),
        }
    }

    /// Leaves none.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Where the f32 values of some records of a run are ([`Run::locate`]).
#[derive(Debug, Clone, Default)]
pub struct Located<'a> {
    /// The values of each, in the order of the records, where they lie in a mapped part; none where none are kept, or where
    /// [`Run::tensor`] has to copy them, or tells what is wrong.
    pub values: Vec<Option<&'a [f32]>>,
    /// All of them, as stretches of the parts.
    pub stretches: Stretches,
}

impl Located<'_> {
    /// Nothing of `count` records is found.
    pub fn none(count: usize) -> Self {
        Self {
            values: vec![None; count],
            stretches: Stretches::default(),
        }
    }
}

impl Run {
    /// Opens a run's directory (`…/run=NAME`), or the newest run of a database: [`Run::name`] tells which.
    ///
    /// A run of a database uses the database's index, and brings only its own rows up to date. A run's
    /// directory of another name (a copy somewhere) is read without one.
    ///
    /// # Errors
    /// [`StoreError`] if the path is neither, or if the run cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let given = path.as_ref();
        // The last component of `.` or of a path relative to the working directory is wanted, too.
        let path = std::path::absolute(given).map_err(|e| StoreError::io("find", given, e))?;
        if !path.try_exists().map_err(|e| StoreError::io("find", given, e))? {
            return Err(StoreError::NotFound { path: given.into() });
        }
        if !path.is_dir() {
            return Err(StoreError::NotADirectory { path: given.into() });
        }
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(run_dir::run_of_dir);
        if let (Some(name), Some(database)) = (name, path.parent()) {
            return Self::open_in(Place::in_database(database), given, name);
        }
        if path.join(run_dir::MANIFEST).exists() {
            let (manifest, _) = scan::manifest(given)?;
            return Self::open_in(Place::Memory, given, &manifest.run);
        }
        Self::open_newest(given)
    }

    /// The newest run of a folder. Its siblings are not indexed, so that none of them can stand in its way.
    fn open_newest(dir: &Path) -> Result<Self, StoreError> {
        let age = |name: &String| {
            (
                scan::created_unix_ms(&dir.join(run_dir::dir_name(name))),
                name.clone(),
            )
        };
        let Some(name) = scan::run_names(dir)?.into_iter().max_by_key(age) else {
            return Err(Database::no_runs(dir));
        };
        Self::open_in(
            Place::in_database(dir),
            &dir.join(run_dir::dir_name(&name)),
            &name,
        )
    }

    /// Opens the run `name` in the directory `path`, indexed at `place`.
    pub(crate) fn open_in(place: Place, path: &Path, name: &str) -> Result<Self, StoreError> {
        let files = scan::run(path, name)?;
        let tables = place.tables();
        let indexed = index::in_file(&place, |sql| index_run(sql, tables.as_ref(), &files)).transpose()?;
        let folder = tables.filter(|_| indexed.is_some());
        let source = |(&number, stat): (&u32, &PartStat)| {
            let source = Source {
                name: files.name.clone(),
                dir: files.path.clone(),
                run: files.manifest.run.clone(),
                number,
                stat: stat.clone(),
                folder: folder.clone(),
            };
            (number, OpenPart::new(source))
        };
        let mut run = Self {
            completeness: Completeness::Complete,
            name: files.name.clone(),
            path: files.path.clone(),
            manifest: files.manifest.clone(),
            parts: files.parts.iter().map(source).collect(),
        };
        let rows = match indexed {
            Some((_, rows)) => rows,
            None => run.rows_in_memory(&files)?,
        };
        run.completeness = completeness(&files, rows);
        Ok(run)
    }

    /// Reads the rows of every part, and counts them.
    fn rows_in_memory(&self, files: &RunFiles) -> Result<u64, StoreError> {
        let mut rows = 0;
        for open in self.parts.values() {
            let found = Self::table(open)?.len() as u64;
            update::check_rows(files, &open.source.stat, found)?;
            rows += found;
        }
        Ok(rows)
    }

    /// The run's name: that of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The run's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `run.json`.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether all that the engine offered is there.
    pub fn completeness(&self) -> &Completeness {
        &self.completeness
    }

    /// The records that `filter` takes, ordered by request, seq, op_index, pass and occurrence, as copies:
    /// [`Run::rows`] takes less room.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if parts were replaced since the run was opened, or what else is wrong with them, where their
    /// rows have to be read again.
    pub fn records(&self, filter: &Filter) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows()?;
        let taken = (0..rows.len()).filter(|&row| filter.takes(rows.meta(row)));
        Ok(taken.map(|row| Row::of(&rows, row)).collect())
    }

    /// All records, ordered by request, seq, op_index, pass and occurrence.
    ///
    /// # Errors
    /// As [`Run::records`].
    pub fn rows(&self) -> Result<Rows, StoreError> {
        let mut tables = Vec::with_capacity(self.parts.len());
        for open in self.parts.values() {
            let table = Self::table(open)?;
            if self.parts.len() > 1 {
                table.release();
            }
            tables.push(table);
        }
        Ok(Rows::new(tables))
    }

    /// The rows of a part. A table that is missing or spoiled is made again.
    fn table(open: &OpenPart) -> Result<Arc<Table>, StoreError> {
        if let Some(table) = open.table.get() {
            return Ok(Arc::clone(table));
        }
        if let Some(table) = Table::find(&open.source) {
            return Ok(Arc::new(table));
        }
        let table = Arc::new(Table::make(open.part()?, &open.source)?);
        // The part was read for this alone.
        if let Some(map) = open.map.get() {
            map.release(0..map.bytes.len());
        }
        if table.is_kept() {
            return Ok(Arc::clone(open.table.get_or_init(|| table)));
        }
        Ok(table)
    }

    /// The elements of a record of this run.
    ///
    /// Values are borrowed from the mapped part; original bytes (`raw`) are decoded and copied.
    ///
    /// # Errors
    /// [`StoreError`] if the part changed since it was indexed, or if `record` is of another run.
    pub fn tensor(&self, record: impl Into<At>) -> Result<TensorRef, StoreError> {
        let at = record.into();
        let foreign = || self.foreign(at);
        if !at.has_elements() {
            return Ok(TensorRef::new(at.dtype, None, None));
        }
        let open = self.parts.get(&at.part).ok_or_else(foreign)?;
        let values = self.values_of(at)?.map(|(map, place)| map.bytes.slice(place));
        let mut raw = None;
        if at.raw_bytes.is_some() {
            let bytes = open.part()?.raw(at.part_row)?;
            let bytes = bytes.filter(|r| Some(r.len() as u64) == at.raw_bytes);
            raw = Some(bytes.ok_or_else(foreign)?.into());
        }
        Ok(TensorRef::new(at.dtype, values, raw))
    }

    /// Finds the f32 values of these records where they lie in the mapped parts.
    pub fn locate(&self, records: impl ExactSizeIterator<Item = At>) -> Located<'_> {
        let mut located = Located::default();
        located.values.reserve_exact(records.len());
        let all = &mut located.stretches;
        // Most records are in the part of the one before.
        let mut last_map = None;
        for at in records {
            let place = at.values.and_then(|values| {
                let map = last_map.filter(|(part, _)| *part == at.part);
                let (_, map) = *last_map.insert(match map {
                    Some(map) => map,
                    None => (at.part, self.map_of(at.part)?.ok()?),
                });
                Some((map, map.place(values)?))
            });
            let values = place
                .as_ref()
                .and_then(|(map, place)| tensor::floats(&map.bytes[place.clone()]));
            located.values.push(values);
            let Some((_, place)) = place else {
                continue;
            };
            all.push(at.part, place);
        }
        located
    }

    /// Says that the values in these stretches are going to be read: their pages are mapped at once.
    pub fn ahead(&self, stretches: &Stretches) {
        self.each(stretches, PartMap::populate);
    }

    /// Says that the values in these stretches were read: their pages no longer count as this process's memory.
    pub fn done(&self, stretches: &Stretches) {
        self.each(stretches, PartMap::release);
    }

    fn each(&self, stretches: &Stretches, f: fn(&PartMap, Range<usize>)) {
        for (part, bytes) in &stretches.0 {
            if let Some(map) = self.parts.get(part).and_then(|part| part.map.get()) {
                f(map, bytes.start..bytes.end.min(map.bytes.len()));
            }
        }
    }

    /// The part of a row that keeps values, and where they are in it.
    fn values_of(&self, at: At) -> Result<Option<(&PartMap, Range<usize>)>, StoreError> {
        let Some(values) = at.values else {
            return Ok(None);
        };
        let foreign = || self.foreign(at);
        let map = self.map_of(at.part).ok_or_else(foreign)??;
        let place = map.place(values).ok_or_else(foreign)?;
        Ok(Some((map, place)))
    }

    /// The map of a part; none where the run has no such part.
    fn map_of(&self, part: u32) -> Option<Result<&PartMap, StoreError>> {
        Some(self.parts.get(&part)?.map())
    }

    fn foreign(&self, at: At) -> StoreError {
        StoreError::ForeignRow {
            path: self.path.clone(),
            part: at.part,
            row: at.part_row,
        }
    }
}

/// Bytes between two rows' values that are mapped with them: what stands between pages, or a few other rows.
const MOST_BETWEEN: usize = 64 << 10;

impl OpenPart {
    fn new(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            map: OnceLock::new(),
            part: OnceLock::new(),
            table: OnceLock::new(),
        }
    }

    fn part(&self) -> Result<&Part, StoreError> {
        if let Some(part) = self.part.get() {
            return Ok(part);
        }
        let part = Part::read(self.map()?.clone(), &self.source.run)?;
        Ok(self.part.get_or_init(|| part))
    }

    fn map(&self) -> Result<&PartMap, StoreError> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = self.source.map()?;
        Ok(self.map.get_or_init(|| map))
    }
}

/// Brings an index up to date for one run, and counts its records.
fn index_run(
    sql: &mut Connection,
    tables: Option<&Folder>,
    files: &RunFiles,
) -> rusqlite::Result<Result<u64, StoreError>> {
    let outcomes = update::update(sql, tables, std::slice::from_ref(files), Scope::Runs)?;
    if let Some(error) = outcomes.into_values().find_map(Result::err) {
        return Ok(Err(error));
    }
    let rows = sql.query_row(
        "SELECT coalesce(sum(rows), 0) FROM parts JOIN runs ON runs.id = run_id WHERE name = ?",
        [&files.name],
        |r| records::unsigned(r, 0),
    )?;
    Ok(Ok(rows))
}

/// Completeness of a run whose parts hold `rows` records.
pub(crate) fn completeness(files: &RunFiles, rows: u64) -> Completeness {
    let mut reasons = files.reasons.clone();
    let listed = files.manifest.records;
    let missing = reasons.iter().any(|r| matches!(r, Reason::MissingPart { .. }));
    if files.manifest.state != RunState::Recording && listed != rows && !missing {
        reasons.push(Reason::Records { listed, found: rows });
    }
    if reasons.is_empty() {
        Completeness::Complete
    } else {
        Completeness::Incomplete { reasons }
    }
}
