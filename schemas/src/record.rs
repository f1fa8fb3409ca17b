use crate::{DType, Stats, Text};

/// Every scalar column of a record: all of it but `values` and `raw`.
///
/// A record is one token's slice of one tensor of one forward call.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordMeta {
    /// Token position in its sequence, from 0.
    pub seq: i64,
    /// Layer from 0; [`crate::LAYER_MODEL`] or [`crate::LAYER_ALL`] where there is none.
    pub layer: i32,
    /// Word of the stage vocabulary, or one of the user's.
    pub stage: Text,
    /// The engine's own name of the tensor (may be empty).
    pub name: Text,
    /// The engine's name of the operation that made it (may be empty).
    pub op: Text,
    /// Order of execution in the run; the tokens of a batch share it.
    pub op_index: i64,
    /// Which sequence of a batch; 0 where there is one.
    pub request: i32,
    /// Which forward call of the run, from 0.
    pub pass: i32,
    /// How many records of the same pass and key came before this one.
    pub occurrence: i32,
    /// Shape of the slice, row-major (C order).
    pub shape: Vec<i64>,
    /// Element type before any conversion.
    pub dtype: DType,
    /// Number of elements: the product of `shape`.
    pub num_elements: i64,
    /// BLAKE3 of the slice's original bytes (contiguous, row-major, little-endian): 64 hex digits, or empty in an
    /// imported run that does not know it.
    pub blake3: String,
    /// Statistics of the elements.
    pub stats: Stats,
}

impl RecordMeta {
    /// A record to be filled in, whose texts can be used again and again.
    pub const fn empty() -> Self {
        Self {
            seq: 0,
            layer: 0,
            stage: Text::new(),
            name: Text::new(),
            op: Text::new(),
            op_index: 0,
            request: 0,
            pass: 0,
            occurrence: 0,
            shape: Vec::new(),
            dtype: DType::F32,
            num_elements: 0,
            blake3: String::new(),
            stats: Stats::of_nothing(),
        }
    }
}
