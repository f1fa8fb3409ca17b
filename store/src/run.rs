use crate::part::{LARGE_PAGE, Part, PartMap};
use crate::scan::{self, RunFiles};
use crate::table::{Folder, Source, Table};
use crate::update::check_rows;
use crate::{At, Completeness, Database, Filter, Reason, Row, Rows, StoreError, TensorRef, tensor};
use bitnet_trace_schema::{Manifest, RunState, run_dir};
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
    /// Its rows.
    table: Arc<Table>,
    map: OnceLock<PartMap>,
    /// Its footer, read when original bytes are first asked for.
    part: OnceLock<Part>,
}

/// Where the values of some records of a [`Run`] lie in its parts.
#[derive(Debug, Clone, Default)]
pub struct Stretches(Vec<(u32, Range<usize>)>);

impl Stretches {
    /// Bytes from the beginning to the end of each.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Adds others, and leaves none of them there. What lies between is taken with them, where that is less than a large
    /// page: to give back half of one takes it apart, which disturbs all threads.
    pub fn append(&mut self, others: &mut Self) {
        for (part, bytes) in others.0.drain(..) {
            self.push(part, bytes, LARGE_PAGE);
        }
    }

    /// Adds one, which may be one with the last, if not more than `between` lies between them.
    #[inline]
    fn push(&mut self, part: u32, bytes: Range<usize>, between: usize) {
        match self.0.last_mut() {
            Some((of, last))
                if *of == part
                    && bytes.start <= last.end.saturating_add(between)
                    && last.start <= bytes.end.saturating_add(between) =>
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
    /// Leaves none, and room for others.
    pub fn clear(&mut self) {
        self.values.clear();
        self.stretches.clear();
    }

    /// Nothing of `count` records is found.
    pub fn none(&mut self, count: usize) {
        self.clear();
        self.values.resize(count, None);
    }
}

/// The f32 values that a part of a [`Run`] holds.
#[derive(Debug, Clone, Copy)]
pub struct PartValues<'a> {
    number: u32,
    map: &'a PartMap,
}

impl<'a> PartValues<'a> {
    /// So many values from this byte on, where they lie in the mapped file, which are added to `stretches`; none where they
    /// do not lie in the part, or not as this machine reads them.
    #[inline]
    pub fn at(self, values: (u64, u64), stretches: &mut Stretches) -> Option<&'a [f32]> {
        let place = self.map.place(values)?;
        stretches.push(self.number, place.clone(), MOST_BETWEEN);
        tensor::floats(&self.map.bytes[place])
    }
}

impl Run {
    /// Opens a run's directory (`…/run=NAME`), or the newest run of a database: [`Run::name`] tells which.
    ///
    /// A run of a database uses the database's row tables, and makes those of its own parts that are not there; its index
    /// is left to [`Database::open`]. A run's directory of another name (a copy somewhere) is read without tables.
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
            return Self::open_in(Some(Folder::of(database)), given, name);
        }
        if path.join(run_dir::MANIFEST).exists() {
            let (manifest, _) = scan::manifest(given)?;
            return Self::open_in(None, given, &manifest.run);
        }
        Self::open_newest(given)
    }

    /// The newest run of a folder. Its siblings are not read, so that none of them can stand in its way.
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
        let path = dir.join(run_dir::dir_name(&name));
        Self::open_in(Some(Folder::of(dir)), &path, &name)
    }

    /// Opens the run `name` in the directory `path`, with row tables in `folder`.
    pub(crate) fn open_in(folder: Option<Folder>, path: &Path, name: &str) -> Result<Self, StoreError> {
        let files = scan::run(path, name)?;
        let (mut parts, mut rows) = (BTreeMap::new(), 0);
        for (&number, stat) in &files.parts {
            let part = OpenPart::open(Source {
                name: files.name.clone(),
                dir: files.path.clone(),
                run: files.manifest.run.clone(),
                number,
                stat: stat.clone(),
                is_alone: files.parts.len() == 1,
                folder: folder.clone(),
            })?;
            let found = part.table.len() as u64;
            check_rows(&files, stat, found)?;
            rows += found;
            if files.parts.len() > 1 {
                part.table.release();
            }
            parts.insert(number, part);
        }
        Ok(Self {
            completeness: completeness(&files, rows),
            name: files.name,
            path: files.path,
            manifest: files.manifest,
            parts,
        })
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
    pub fn records(&self, filter: &Filter) -> Vec<Row> {
        let rows = self.rows();
        let taken = (0..rows.len()).filter(|&row| filter.takes(rows.meta(row)));
        taken.map(|row| Row::of(&rows, row)).collect()
    }

    /// All records, ordered by request, seq, op_index, pass and occurrence.
    pub fn rows(&self) -> Rows {
        let rows = Rows::new(self.parts.values().map(|part| Arc::clone(&part.table)).collect());
        // To put them in order took a look at all of their positions.
        rows.release();
        rows
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

    /// Finds the f32 values of these records where they lie in the mapped parts, in place of what was located before.
    pub fn locate<'a>(&'a self, records: impl ExactSizeIterator<Item = At>, located: &mut Located<'a>) {
        located.clear();
        located.values.reserve(records.len());
        // Most records are in the part of the one before.
        let mut last: Option<PartValues<'_>> = None;
        for at in records {
            let values = at.values.and_then(|values| {
                let part = match last.filter(|part| part.number == at.part) {
                    Some(part) => part,
                    None => *last.insert(self.values(at.part)?),
                };
                part.at(values, &mut located.stretches)
            });
            located.values.push(values);
        }
    }

    /// The f32 values of a part; none where the run has no such part, or where it cannot be read: [`Run::tensor`] tells.
    pub fn values(&self, part: u32) -> Option<PartValues<'_>> {
        let map = self.map_of(part)?.ok()?;
        Some(PartValues { number: part, map })
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
    /// Opens the part's table; makes it, where it is missing or spoiled.
    fn open(source: Source) -> Result<Self, StoreError> {
        let source = Arc::new(source);
        let table = match Table::find(&source) {
            Some(table) => table,
            None => Table::make(&source)?,
        };
        Ok(Self {
            source,
            table: Arc::new(table),
            map: OnceLock::new(),
            part: OnceLock::new(),
        })
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
