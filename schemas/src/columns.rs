//! The columns of a part, format v1.
//!
//! `values` holds each element as f32 for every dtype that f32 holds exactly
//! ([`DType::fits_f32`](crate::DType::fits_f32)); `raw` holds the original bytes of the others. Of a
//! packed dtype, `values` may hold the dequantised elements beside `raw`. Both are null in a run that keeps statistics
//! only.

use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// Name of the column of values.
pub const VALUES: &str = "values";
/// Name of the column of original bytes.
pub const RAW: &str = "raw";
/// Footer key of the format version.
pub const KEY_FORMAT_VERSION: &str = "bitnet_trace.format_version";
/// Footer key of the run's name.
pub const KEY_RUN: &str = "bitnet_trace.run";

/// The Arrow schema of a part: `values`, then [`scalar_fields`].
pub fn arrow_schema() -> Schema {
    let element = Arc::new(Field::new("element", DataType::Float32, false));
    let mut fields = vec![Field::new(VALUES, DataType::List(element), true)];
    fields.extend(scalar_fields());
    Schema::new(fields)
}

/// Every column but `values`, in file order.
pub fn scalar_fields() -> Vec<Field> {
    use DataType::{Binary, Float64, Int32, Int64, Utf8};
    let required = |name: &str, t: DataType| Field::new(name, t, false);
    let nullable = |name: &str, t: DataType| Field::new(name, t, true);
    let dim = Arc::new(Field::new("element", Int64, false));
    vec![
        nullable(RAW, Binary),
        required("seq", Int64),
        required("layer", Int32),
        required("stage", Utf8),
        required("name", Utf8),
        required("op", Utf8),
        required("op_index", Int64),
        required("request", Int32),
        required("pass", Int32),
        required("occurrence", Int32),
        required("shape", DataType::List(dim)),
        required("dtype", Utf8),
        required("num_elements", Int64),
        required("blake3", Utf8),
        nullable("rms", Float64),
        nullable("mean", Float64),
        nullable("min", Float64),
        nullable("max", Float64),
        nullable("abs_max", Float64),
        required("nan_count", Int64),
        required("inf_count", Int64),
    ]
}
