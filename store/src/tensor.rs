use bitnet_trace_schema::DType;

/// The elements of one record, borrowed from the mapped part wherever that is possible.
///
/// Row-major (C order), in the shape of the record's `shape` column.
#[derive(Debug, Clone)]
pub struct TensorRef {
    dtype: DType,
    values: Option<Vec<f32>>,
    raw: Option<Vec<u8>>,
}

impl TensorRef {
    /// Element type before the elements were widened to f32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements as f32, for the dtypes that f32 holds exactly; `None` for the others and in runs
    /// that keep statistics only.
    pub fn values(&self) -> Option<&[f32]> {
        self.values.as_deref()
    }

    /// The original bytes (little-endian, contiguous), for the dtypes that f32 does not hold exactly;
    /// `None` for the others and in runs that keep statistics only.
    pub fn raw(&self) -> Option<&[u8]> {
        self.raw.as_deref()
    }

    /// The elements as f64, from `values` or `raw`; `None` in runs that keep statistics only.
    /// 64-bit integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        None
    }

    /// Whether [`TensorRef::values`] lie in the mapped file and were not copied.
    pub fn is_zero_copy(&self) -> bool {
        false
    }
}
