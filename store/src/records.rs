use crate::meta::Meta;
use crate::rows::{At, Rows};
use bitnet_trace_schema::{RecordMeta, selection::glob};
use std::ops::RangeInclusive;

/// Which records of a run to take; what is `None` takes all.
///
/// ```
/// let filter = bitnet_trace_store::Filter {
///     seq: Some(3..=3),
///     stage: Some("attn_*".into()),
///     ..Default::default()
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Token positions.
    pub seq: Option<RangeInclusive<i64>>,
    /// Layers (-1 and -2 as in the `layer` column).
    pub layer: Option<RangeInclusive<i32>>,
    /// Stage: a word, or a pattern with `*` (any text) and `?` (any character).
    pub stage: Option<String>,
    /// Request.
    pub request: Option<i32>,
}

impl Filter {
    /// Whether it takes a record.
    pub fn takes(&self, meta: Meta<'_>) -> bool {
        self.seq.as_ref().is_none_or(|r| r.contains(&meta.seq))
            && self.layer.as_ref().is_none_or(|r| r.contains(&meta.layer))
            && self.stage.as_ref().is_none_or(|s| glob(s, meta.stage))
            && self.request.is_none_or(|r| r == meta.request)
    }
}

/// A record as a copy: everything but its elements, and where those are.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The record's scalar columns.
    pub meta: RecordMeta,
    /// Number of the part that holds it.
    pub part: u32,
    /// Row in the part, from 0.
    pub part_row: u64,
    /// Byte offset of the f32 values in the part; `None` where no values are kept.
    pub values_offset: Option<u64>,
    /// Number of f32 values; `None` where no values are kept.
    pub values_count: Option<u64>,
    /// Length of the original bytes; `None` where they are not kept.
    pub raw_bytes: Option<u64>,
}

impl Row {
    /// Row `row` of `rows`, as a copy.
    pub(crate) fn of(rows: &Rows, row: usize) -> Self {
        let at = rows.at(row);
        Self {
            meta: rows.meta(row).to_record(),
            part: at.part,
            part_row: at.part_row,
            values_offset: at.values.map(|(offset, _)| offset),
            values_count: at.values.map(|(_, count)| count),
            raw_bytes: at.raw_bytes,
        }
    }

    /// Whether the run keeps the record's elements (as values or as original bytes), and not
    /// statistics only.
    pub fn has_elements(&self) -> bool {
        At::from(self).has_elements()
    }
}

impl From<&Row> for At {
    fn from(row: &Row) -> Self {
        Self {
            part: row.part,
            part_row: row.part_row,
            dtype: row.meta.dtype,
            values: row.values_offset.zip(row.values_count),
            raw_bytes: row.raw_bytes,
        }
    }
}

/// A count or offset: SQLite's integers are signed.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
