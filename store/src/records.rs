use bitnet_trace_schema::RecordMeta;
use std::ops::RangeInclusive;

/// Which records of a run to take; what is `None` takes all.
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

/// A record as the index holds it: everything but its elements, and where those are.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The record's scalar columns.
    pub meta: RecordMeta,
    /// `records.id` in the index, as long as the index is not rebuilt.
    pub id: i64,
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
    /// Whether the run keeps the record's elements (as values or as original bytes), and not
    /// statistics only.
    pub fn has_elements(&self) -> bool {
        self.values_offset.is_some() || self.raw_bytes.is_some()
    }
}
