//! Where records come from: a stored run, or memory.

use crate::mapping::{Convention, Naming};
use bitnet_trace_schema::{DType, Manifest, RecordMeta, Text, quant};
use bitnet_trace_store::{
    Columns, Filter, Located, Meta, PartValues, Position, Rows, Run, Standing, StoreError, Stretches,
    TensorRef, Traces,
};
use std::{borrow::Cow, collections::BTreeSet, num::NonZeroU64, ops::Range, panic::resume_unwind, thread};

/// What tells most about a pair of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// A number that records of a run have in common only if their shape, dtype and numbers of elements are the same; none
    /// where that is not known without looking.
    pub form: Option<u64>,
    /// The beginning of the record's hash: of records of other beginnings, the original bytes differ.
    pub hash: Option<NonZeroU64>,
}

impl Head {
    /// The beginning of a hash.
    fn hash(hash: Option<&[u8; 32]>) -> Option<NonZeroU64> {
        NonZeroU64::new(u64::from_le_bytes(*hash?.first_chunk()?))
    }
}

/// The records of one run, or those of them that a filter takes.
///
/// Rows are numbered from 0, in any order: what follows from execution stands in their metadata.
pub trait Records: Sync {
    /// Number of records.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scalar columns of record `row`.
    fn meta(&self, row: usize) -> Meta<'_>;

    /// Number of elements of record `row`, as its metadata have it.
    fn num_elements(&self, row: usize) -> i64 {
        self.meta(row).num_elements
    }

    /// Whether the rows are known to be numbered by request and position.
    fn is_by_position(&self) -> bool {
        false
    }

    /// The elements of record `row`.
    ///
    /// # Errors
    /// [`StoreError`] where they are there and cannot be read.
    fn elements(&self, row: usize) -> Result<Elements, StoreError>;

    /// The scalar columns of record `row` as its run has them, whatever [`Records::meta`] calls it.
    fn recorded(&self, row: usize) -> Meta<'_> {
        self.meta(row)
    }

    /// How record `row` came by its stage and layer.
    fn naming(&self, _row: usize) -> Naming {
        Naming::Recorded
    }

    /// The order in which the run held the elements of record `row`, where they were put into another.
    fn convention(&self, _row: usize) -> Option<&Convention> {
        None
    }

    /// Where record `row` stands among the others.
    fn standing(&self, row: usize) -> Standing<'_> {
        self.meta(row).into()
    }

    /// The position of record `row`, and the row behind those that follow it and are of the same.
    fn position(&self, row: usize) -> Position {
        let Standing { request, seq, .. } = self.standing(row);
        let is_here = |&row: &usize| {
            let at = self.standing(row);
            (at.request, at.seq) == (request, seq)
        };
        let end = (row + 1..self.len()).find(|row| !is_here(row));
        Position {
            request,
            seq,
            end: end.unwrap_or(self.len()),
        }
    }

    /// The columns of these records, where the run keeps such, and they are read as they were recorded.
    fn columns(&self, rows: Range<usize>) -> Option<Columns<'_>> {
        let _ = rows;
        None
    }

    /// The f32 values of the part that columns are of; none where its records' elements have to be asked for one by one.
    fn values(&self, part: u32) -> Option<PartValues<'_>> {
        let _ = part;
        None
    }

    /// Layers and stages, each pair once. There may be some of which a filter left no record.
    fn places(&self) -> BTreeSet<(i32, &Text)> {
        let all = (0..self.len()).map(|row| self.standing(row));
        all.map(|at| (at.layer, at.stage)).collect()
    }

    /// Element types of the records, before any conversion.
    fn dtypes(&self) -> BTreeSet<DType> {
        (0..self.len()).map(|row| self.meta(row).dtype).collect()
    }

    /// Request and seq of every position that has a record.
    fn positions(&self) -> BTreeSet<(i32, i64)> {
        let mut all = BTreeSet::new();
        let mut row = 0;
        while row < self.len() {
            let at = self.position(row);
            all.insert((at.request, at.seq));
            row = at.end;
        }
        all
    }

    /// What tells most about record `row`, without a look at all of its metadata.
    fn head(&self, row: usize) -> Head {
        Head {
            form: None,
            hash: Head::hash(self.meta(row).hash().as_ref()),
        }
    }

    /// Whether the record holds NaN.
    fn has_nan(&self, row: usize) -> bool {
        self.meta(row).stats().nan_count > 0
    }

    /// Finds the elements of these records as f32 where they lie in a mapped file as they are; none where
    /// [`Records::elements`] has to make them, or tells what is wrong. In place of what was located before.
    fn locate<'a>(&'a self, rows: &[usize], located: &mut Located<'a>) {
        located.none(rows.len());
    }

    /// Whether the elements of record `row` have its hash; none where that cannot be told.
    ///
    /// # Errors
    /// [`StoreError`] where they are there and cannot be read.
    fn has_hash(&self, row: usize) -> Result<Option<bool>, StoreError> {
        let _ = row;
        Ok(None)
    }

    /// Says that the elements in these stretches are going to be read: all at once, that costs less.
    fn ahead(&self, stretches: &Stretches) {
        let _ = stretches;
    }

    /// Says that the elements in these stretches, and the metadata of their records, were read and need not stay in memory.
    fn done(&self, stretches: &Stretches) {
        let _ = stretches;
    }
}

impl<R: Records + ?Sized> Records for &R {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        (**self).meta(row)
    }

    fn num_elements(&self, row: usize) -> i64 {
        (**self).num_elements(row)
    }

    fn is_by_position(&self) -> bool {
        (**self).is_by_position()
    }

    fn elements(&self, row: usize) -> Result<Elements, StoreError> {
        (**self).elements(row)
    }

    fn recorded(&self, row: usize) -> Meta<'_> {
        (**self).recorded(row)
    }

    fn naming(&self, row: usize) -> Naming {
        (**self).naming(row)
    }

    fn convention(&self, row: usize) -> Option<&Convention> {
        (**self).convention(row)
    }

    fn standing(&self, row: usize) -> Standing<'_> {
        (**self).standing(row)
    }

    fn position(&self, row: usize) -> Position {
        (**self).position(row)
    }

    fn columns(&self, rows: Range<usize>) -> Option<Columns<'_>> {
        (**self).columns(rows)
    }

    fn values(&self, part: u32) -> Option<PartValues<'_>> {
        (**self).values(part)
    }

    fn places(&self) -> BTreeSet<(i32, &Text)> {
        (**self).places()
    }

    fn dtypes(&self) -> BTreeSet<DType> {
        (**self).dtypes()
    }

    fn head(&self, row: usize) -> Head {
        (**self).head(row)
    }

    fn has_nan(&self, row: usize) -> bool {
        (**self).has_nan(row)
    }

    fn locate<'a>(&'a self, rows: &[usize], located: &mut Located<'a>) {
        (**self).locate(rows, located);
    }

    fn has_hash(&self, row: usize) -> Result<Option<bool>, StoreError> {
        (**self).has_hash(row)
    }

    fn ahead(&self, stretches: &Stretches) {
        (**self).ahead(stretches);
    }

    fn done(&self, stretches: &Stretches) {
        (**self).done(stretches);
    }
}

/// The elements of a record, row-major.
#[derive(Debug, Clone)]
pub enum Elements {
    /// From a stored run; borrowed from its mapped part where that is possible.
    Stored(TensorRef),
    /// As f32, for the dtypes that f32 holds exactly.
    Values(Vec<f32>),
    /// Little-endian bytes of packed dtypes and those that f32 does not hold exactly.
    Raw(Vec<u8>),
    /// Not recorded.
    Absent,
    /// Never there: the record was imported, with a hash and an rms, by which it is compared.
    Hashed,
}

impl Elements {
    /// The elements as f32, for the dtypes that f32 holds exactly.
    pub fn values(&self) -> Option<&[f32]> {
        match self {
            Self::Stored(tensor) => tensor.values(),
            Self::Values(values) => Some(values),
            Self::Raw(_) | Self::Absent | Self::Hashed => None,
        }
    }

    /// The original bytes, for the other dtypes.
    pub fn raw(&self) -> Option<&[u8]> {
        match self {
            Self::Stored(tensor) => tensor.raw(),
            Self::Raw(bytes) => Some(bytes),
            Self::Values(_) | Self::Absent | Self::Hashed => None,
        }
    }

    /// The elements as f32: [`Elements::values`], or the dequantised ones of a packed dtype.
    pub fn to_f32(&self, dtype: DType) -> Option<Cow<'_, [f32]>> {
        let packed = || quant::dequantized(dtype, self.raw()?).map(Cow::Owned);
        self.values().map(Cow::Borrowed).or_else(packed)
    }

    /// The elements as f64, from either; none where they were not recorded or the bytes do not divide
    /// into elements. 64-bit integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self, dtype: DType) -> Option<Vec<f64>> {
        if let Some(values) = self.to_f32(dtype) {
            return Some(values.iter().map(|&x| f64::from(x)).collect());
        }
        let raw = self.raw()?;
        match dtype {
            DType::F64 => fixed(raw, f64::from_le_bytes),
            DType::I64 => fixed(raw, |b| i64::from_le_bytes(b) as f64),
            DType::I32 => fixed(raw, |b| f64::from(i32::from_le_bytes(b))),
            _ => None,
        }
    }
}

fn fixed<const N: usize>(raw: &[u8], f: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
    let (elements, rest) = raw.as_chunks::<N>();
    rest.is_empty().then(|| elements.iter().map(|&b| f(b)).collect())
}

/// Does two things at once, such as opening both runs of a comparison. A panic of one of them is one here.
pub fn at_once<L: Send, R>(left: impl FnOnce() -> L + Send, right: impl FnOnce() -> R) -> (L, R) {
    thread::scope(|scope| {
        let left = scope.spawn(left);
        let right = right();
        (left.join().unwrap_or_else(|panic| resume_unwind(panic)), right)
    })
}

/// The records of a stored run that a filter takes.
#[derive(Debug)]
pub struct StoredRecords {
    run: Run,
    rows: Rows,
}

impl StoredRecords {
    /// Reads the metadata of the records that `filter` takes.
    pub fn new(run: Run, filter: &Filter) -> Self {
        let mut rows = run.rows();
        if *filter != Filter::default() {
            rows.retain(|meta| filter.takes(meta));
        }
        Self { run, rows }
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Keeps those records that `keep` takes.
    pub fn retain(&mut self, keep: impl Fn(Meta<'_>) -> bool) {
        self.rows.retain(keep);
    }

    /// The records, as the store has them.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The run as a side of a comparison.
    pub fn side(&self) -> Side<'_> {
        Side {
            name: self.run.name(),
            path: self.run.path().display().to_string(),
            manifest: self.run.manifest(),
            records: self,
            incomplete: self
                .run
                .completeness()
                .reasons()
                .iter()
                .map(|r| r.to_string())
                .collect(),
        }
    }
}

impl Records for StoredRecords {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        self.rows.meta(row)
    }

    fn num_elements(&self, row: usize) -> i64 {
        self.rows.num_elements(row)
    }

    fn is_by_position(&self) -> bool {
        true
    }

    fn elements(&self, row: usize) -> Result<Elements, StoreError> {
        if self.run.manifest().imported.is_some() {
            return Ok(Elements::Hashed);
        }
        self.run.tensor(self.rows.at(row)).map(Elements::Stored)
    }

    fn standing(&self, row: usize) -> Standing<'_> {
        self.rows.standing(row)
    }

    fn position(&self, row: usize) -> Position {
        self.rows.position(row)
    }

    fn columns(&self, rows: Range<usize>) -> Option<Columns<'_>> {
        self.rows.columns(rows)
    }

    fn values(&self, part: u32) -> Option<PartValues<'_>> {
        // The elements of an imported run are known by their hash alone.
        let is_recorded = self.run.manifest().imported.is_none();
        is_recorded.then(|| self.run.values(part))?
    }

    fn places(&self) -> BTreeSet<(i32, &Text)> {
        self.rows.places().collect()
    }

    fn dtypes(&self) -> BTreeSet<DType> {
        self.rows.dtypes()
    }

    fn head(&self, row: usize) -> Head {
        Head {
            form: Some(self.rows.form(row)),
            hash: NonZeroU64::new(self.rows.hash_start(row)),
        }
    }

    fn has_nan(&self, row: usize) -> bool {
        self.rows.has_nan(row)
    }

    fn locate<'a>(&'a self, rows: &[usize], located: &mut Located<'a>) {
        if self.run.manifest().imported.is_some() {
            return located.none(rows.len());
        }
        self.run
            .locate(rows.iter().map(|&row| self.rows.at(row)), located);
    }

    fn has_hash(&self, row: usize) -> Result<Option<bool>, StoreError> {
        let tensor = self.run.tensor(self.rows.at(row))?;
        Ok(tensor.has_hash(&self.rows.meta(row).blake3()))
    }

    fn ahead(&self, stretches: &Stretches) {
        self.run.ahead(stretches);
    }

    fn done(&self, stretches: &Stretches) {
        self.run.done(stretches);
        self.rows.release();
    }
}

/// The records of `.trace` files that a filter takes.
#[derive(Debug)]
pub struct TraceRecords {
    path: String,
    manifest: Manifest,
    rows: Vec<RecordMeta>,
}

impl TraceRecords {
    /// The records of `traces`, found at `path`, as a run of this name.
    pub fn new(traces: Traces, path: String, name: &str, filter: &Filter) -> Self {
        let manifest = traces.manifest(name);
        let mut rows = traces.records;
        rows.retain(|meta| filter.takes(meta.into()));
        Self { path, manifest, rows }
    }

    /// The files as a side of a comparison.
    pub fn side(&self) -> Side<'_> {
        Side {
            name: &self.manifest.run,
            path: self.path.clone(),
            manifest: &self.manifest,
            records: self,
            incomplete: Vec::new(),
        }
    }
}

impl Records for TraceRecords {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        (&self.rows[row]).into()
    }

    fn elements(&self, _row: usize) -> Result<Elements, StoreError> {
        Ok(Elements::Hashed)
    }
}

/// One side of a comparison.
#[derive(Clone)]
pub struct Side<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Where it is, for people; empty for a run in memory.
    pub path: String,
    /// What is known of it beside its records.
    pub manifest: &'a Manifest,
    /// Its records.
    pub records: &'a dyn Records,
    /// Why it is incomplete, as sentences; empty for a complete run.
    pub incomplete: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;
    use std::sync::mpsc;

    #[test]
    fn two_things_run_at_once_and_a_panic_of_either_is_passed_on() {
        let (send, receive) = mpsc::channel();
        // Neither ends before the other has begun.
        let done = at_once(move || receive.recv(), || send.send(7).is_ok());
        assert_eq!(done, (Ok(7), true));
        for fails in [0, 1] {
            let one = |n: i32| move || assert_ne!(n, fails, "side {n}");
            let panic = catch_unwind(|| at_once(one(0), one(1))).expect_err("a panic");
            let message = panic.downcast_ref::<String>().expect("its message");
            assert!(message.contains(&format!("side {fails}")), "{message}");
        }
    }
}
