//! A record's scalar columns, borrowed from wherever they are kept.

use crate::table::{self, Table};
use bitnet_trace_schema::{DType, RecordMeta, Stats, Text};

/// Every scalar column of a record, as [`RecordMeta`] has them, borrowed: cheap to make and to copy, however many records
/// a run has.
///
/// ```
/// use bitnet_trace_store::{Meta, schema::RecordMeta};
/// let record = RecordMeta { seq: 3, stage: "q_proj".into(), ..RecordMeta::empty() };
/// let meta = Meta::from(&record);
/// assert_eq!((meta.seq, meta.stage.as_str(), meta.hash()), (3, "q_proj", None));
/// assert_eq!(meta.to_record(), record);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a> {
    /// Token position in its sequence, from 0.
    pub seq: i64,
    /// Layer from 0; -1 or -2 where there is none.
    pub layer: i32,
    /// Word of the stage vocabulary, or one of the user's.
    pub stage: &'a Text,
    /// The engine's own name of the tensor (may be empty).
    pub name: &'a Text,
    /// The engine's name of the operation that made it (may be empty).
    pub op: &'a Text,
    /// Order of execution in the run; the tokens of a batch share it.
    pub op_index: i64,
    /// Which sequence of a batch; 0 where there is one.
    pub request: i32,
    /// Which forward call of the run, from 0.
    pub pass: i32,
    /// How many records of the same pass and key came before this one.
    pub occurrence: i32,
    /// Shape of the slice, row-major (C order).
    pub shape: &'a [i64],
    /// Element type before any conversion.
    pub dtype: DType,
    /// Number of elements: the product of `shape`.
    pub num_elements: i64,
    pub(crate) rest: Rest<'a>,
}

/// What the order of a record among the others follows from: a part of its [`Meta`], and cheaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Which sequence of a batch; 0 where there is one.
    pub request: i32,
    /// Token position in its sequence, from 0.
    pub seq: i64,
    /// Layer from 0; -1 or -2 where there is none.
    pub layer: i32,
    /// Word of the stage vocabulary, or one of the user's.
    pub stage: &'a Text,
    /// Order of execution in the run; the tokens of a batch share it.
    pub op_index: i64,
    /// Which forward call of the run, from 0.
    pub pass: i32,
    /// How many records of the same pass and key came before this one.
    pub occurrence: i32,
}

impl<'a> From<Meta<'a>> for Standing<'a> {
    fn from(meta: Meta<'a>) -> Self {
        Self {
            request: meta.request,
            seq: meta.seq,
            layer: meta.layer,
            stage: meta.stage,
            op_index: meta.op_index,
            pass: meta.pass,
            occurrence: meta.occurrence,
        }
    }
}

/// Where hash and statistics are: they are made when they are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rest<'a> {
    Record(&'a RecordMeta),
    Table { table: &'a Table, row: usize },
}

impl<'a> Meta<'a> {
    /// BLAKE3 of the slice's original bytes; none in an imported run that does not know it, and where the part's row table
    /// was spoiled and the part cannot be read any more.
    pub fn hash(&self) -> Option<[u8; 32]> {
        match self.rest {
            Rest::Record(record) => table::bytes_of(&record.blake3),
            Rest::Table { table, row } => table.hash(row).copied(),
        }
    }

    /// The same as 64 hex digits; empty where it is not known.
    pub fn blake3(&self) -> String {
        let hash = self.hash().map(|bytes| blake3::Hash::from_bytes(bytes).to_hex());
        hash.map(|hex| hex.to_string()).unwrap_or_default()
    }

    /// Statistics of the elements; no moments where hashes are lost in that way, too.
    pub fn stats(&self) -> Stats {
        match self.rest {
            Rest::Record(record) => record.stats,
            Rest::Table { table, row } => table.stats(row),
        }
    }

    /// A copy that borrows nothing.
    pub fn to_record(&self) -> RecordMeta {
        RecordMeta {
            seq: self.seq,
            layer: self.layer,
            stage: self.stage.clone(),
            name: self.name.clone(),
            op: self.op.clone(),
            op_index: self.op_index,
            request: self.request,
            pass: self.pass,
            occurrence: self.occurrence,
            shape: self.shape.to_vec(),
            dtype: self.dtype,
            num_elements: self.num_elements,
            blake3: self.blake3(),
            stats: self.stats(),
        }
    }
}

impl<'a> From<&'a RecordMeta> for Meta<'a> {
    fn from(record: &'a RecordMeta) -> Self {
        Self {
            seq: record.seq,
            layer: record.layer,
            stage: &record.stage,
            name: &record.name,
            op: &record.op,
            op_index: record.op_index,
            request: record.request,
            pass: record.pass,
            occurrence: record.occurrence,
            shape: &record.shape,
            dtype: record.dtype,
            num_elements: record.num_elements,
            rest: Rest::Record(record),
        }
    }
}
