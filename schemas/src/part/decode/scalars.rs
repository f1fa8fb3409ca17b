//! Reads the scalar columns through the arrow reader, a projection at a time.

use super::{Part, PartError, guarded};
use crate::columns::{RAW, scalar_fields};
use crate::{DType, RecordMeta, Stats};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ListArray, PrimitiveArray, RecordBatch, StringViewArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::ParquetMetaData;
use std::sync::Arc;

/// Rows decoded at a time.
const BATCH: usize = 1024;
/// About how many bytes of `raw` are decoded at a time.
const RAW_BATCH: u64 = 32 << 20;
/// Longest text of a column, in bytes.
const MAX_TEXT: usize = 4096;
/// Most dimensions of a tensor that are read, on the average of a row group.
const MAX_DIMS: u64 = 64;

/// The part's columns as arrow sees them, with text and bytes as views: views of a dictionary page share
/// its bytes, so that a small page cannot unfold into gigabytes of repeated text.
pub(super) fn metadata(meta: &Arc<ParquetMetaData>) -> Result<ArrowReaderMetadata, PartError> {
    guarded(|| {
        // The footer's ARROW:schema is not needed, and would be one more thing to distrust.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let plain = ArrowReaderMetadata::try_new(Arc::clone(meta), options)?;
        let views = plain.schema().fields().iter().map(|f| match f.data_type() {
            DataType::Utf8 => Field::new(f.name(), DataType::Utf8View, f.is_nullable()),
            DataType::Binary => Field::new(f.name(), DataType::BinaryView, f.is_nullable()),
            _ => f.as_ref().clone(),
        });
        let schema = Arc::new(Schema::new(views.collect::<Vec<_>>()));
        ArrowReaderMetadata::try_new(Arc::clone(meta), ArrowReaderOptions::new().with_schema(schema))
    })
}

fn column_error(column: &str, problem: impl Into<String>) -> PartError {
    PartError::Column {
        column: column.into(),
        problem: problem.into(),
    }
}

/// Every column of the format is there and has its type. Other columns are let be.
pub(super) fn check_types(part: &Part) -> Result<(), PartError> {
    let metadata = &part.arrow;
    for wanted in scalar_fields() {
        let name = wanted.name();
        let Ok(found) = metadata.schema().field_with_name(name) else {
            return Err(column_error(name, "is missing"));
        };
        // The name of a list's element differs between writers.
        let same = match (wanted.data_type(), found.data_type()) {
            (DataType::List(a), DataType::List(b)) => a.data_type() == b.data_type(),
            (DataType::Utf8, DataType::Utf8View) | (DataType::Binary, DataType::BinaryView) => true,
            (a, b) => a == b,
        };
        if !same {
            let problem = format!("has the type {}, not {}", found.data_type(), wanted.data_type());
            return Err(column_error(name, problem));
        }
    }
    Ok(())
}

fn reader(
    part: &Part,
    row_group: usize,
    keep: impl Fn(&str) -> bool,
    batch: usize,
    rows: Option<(usize, usize)>,
) -> Result<ParquetRecordBatchReader, PartError> {
    let metadata = &part.arrow;
    guarded(|| {
        let fields = metadata.schema().fields().iter().enumerate();
        let roots = fields.filter(|(_, f)| keep(f.name())).map(|(i, _)| i);
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(part.bytes.clone(), metadata.clone())
                .with_row_groups(vec![row_group])
                .with_projection(mask)
                .with_batch_size(batch);
        if let Some((offset, limit)) = rows {
            builder = builder.with_offset(offset).with_limit(limit);
        }
        builder.build()
    })
}

/// The next batch; the library's errors and panics as ours.
fn next(reader: &mut ParquetRecordBatchReader) -> Result<Option<RecordBatch>, PartError> {
    guarded(|| Ok(reader.next().transpose()?))
}

/// Calls `row` with the scalars of every row of a row group, whose first is row `first` of the part.
pub(super) fn for_each<E: From<PartError>>(
    part: &Part,
    row_group: usize,
    first: u64,
    mut row: impl FnMut(RecordMeta) -> Result<(), E>,
) -> Result<(), E> {
    let group = part.meta.row_group(row_group);
    let rows = group.num_rows().unsigned_abs();
    for column in group.columns() {
        if column.column_path().parts().first().is_some_and(|p| p == "shape")
            && column.num_values().unsigned_abs() > rows.saturating_mul(MAX_DIMS)
        {
            return Err(column_error("shape", "has more dimensions than tensors have").into());
        }
    }
    let wanted = scalar_fields();
    let keep = |name: &str| name != RAW && wanted.iter().any(|f| f.name() == name);
    let mut reader = reader(part, row_group, keep, BATCH, None)?;
    let mut read = 0u64;
    while let Some(batch) = next(&mut reader)? {
        let columns = Columns::of(&batch)?;
        for i in 0..batch.num_rows() {
            row(columns.row(i).map_err(|(column, problem)| {
                column_error(column, format!("{problem} in row {}", first + read))
            })?)?;
            read += 1;
        }
        if read > rows {
            break;
        }
    }
    if read == rows {
        return Ok(());
    }
    let problem = format!("row group {row_group} has {rows} rows, its columns {read}");
    Err(PartError::Footer { problem }.into())
}

/// The columns of a batch, by their types.
struct Columns<'a> {
    seq: &'a PrimitiveArray<Int64Type>,
    layer: &'a PrimitiveArray<Int32Type>,
    stage: &'a StringViewArray,
    name: &'a StringViewArray,
    op: &'a StringViewArray,
    op_index: &'a PrimitiveArray<Int64Type>,
    request: &'a PrimitiveArray<Int32Type>,
    pass: &'a PrimitiveArray<Int32Type>,
    occurrence: &'a PrimitiveArray<Int32Type>,
    shape: &'a ListArray,
    dims: &'a PrimitiveArray<Int64Type>,
    dtype: &'a StringViewArray,
    num_elements: &'a PrimitiveArray<Int64Type>,
    blake3: &'a StringViewArray,
    moments: [&'a PrimitiveArray<Float64Type>; 5],
    nan_count: &'a PrimitiveArray<Int64Type>,
    inf_count: &'a PrimitiveArray<Int64Type>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, PartError> {
        let required = |name: &str| match batch.column_by_name(name) {
            Some(c) if c.null_count() == 0 => Ok(c),
            Some(_) => Err(column_error(name, "has nulls")),
            None => Err(column_error(name, "is missing")),
        };
        let wrong = |name: &str| column_error(name, "has another type than the footer says");
        let int64 = |name: &str| required(name)?.as_primitive_opt().ok_or_else(|| wrong(name));
        let int32 = |name: &str| required(name)?.as_primitive_opt().ok_or_else(|| wrong(name));
        let text = |name: &str| required(name)?.as_string_view_opt().ok_or_else(|| wrong(name));
        let moment = |name: &str| {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| column_error(name, "is missing"))?;
            column.as_primitive_opt().ok_or_else(|| wrong(name))
        };
        let shape = required("shape")?
            .as_list_opt::<i32>()
            .ok_or_else(|| wrong("shape"))?;
        if shape.values().null_count() > 0 {
            return Err(column_error("shape", "has nulls"));
        }
        Ok(Self {
            seq: int64("seq")?,
            layer: int32("layer")?,
            stage: text("stage")?,
            name: text("name")?,
            op: text("op")?,
            op_index: int64("op_index")?,
            request: int32("request")?,
            pass: int32("pass")?,
            occurrence: int32("occurrence")?,
            shape,
            dims: shape.values().as_primitive_opt().ok_or_else(|| wrong("shape"))?,
            dtype: text("dtype")?,
            num_elements: int64("num_elements")?,
            blake3: text("blake3")?,
            moments: [
                moment("rms")?,
                moment("mean")?,
                moment("min")?,
                moment("max")?,
                moment("abs_max")?,
            ],
            nan_count: int64("nan_count")?,
            inf_count: int64("inf_count")?,
        })
    }

    /// Row `i`, or the column and what is wrong with it.
    fn row(&self, i: usize) -> Result<RecordMeta, (&'static str, String)> {
        let text = |column: &'static str, array: &'a StringViewArray| {
            let value = array.value(i);
            if value.len() > MAX_TEXT {
                return Err((column, format!("has a text of {} bytes", value.len())));
            }
            Ok(value)
        };
        let count = |column: &'static str, array: &PrimitiveArray<Int64Type>| {
            u64::try_from(array.value(i)).map_err(|_| (column, "is negative".to_owned()))
        };
        let blake3 = text("blake3", self.blake3)?.to_owned();
        // An imported run may not know it.
        let hex = blake3.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !matches!(blake3.len(), 0 | 64) || !hex {
            return Err(("blake3", "does not hold 64 hex digits".into()));
        }
        let offsets = self.shape.value_offsets();
        let dims = offsets[i] as usize..offsets[i + 1] as usize;
        let moment = |m: usize| {
            let column = self.moments[m];
            column.is_valid(i).then(|| column.value(i))
        };
        Ok(RecordMeta {
            seq: self.seq.value(i),
            layer: self.layer.value(i),
            stage: text("stage", self.stage)?.into(),
            name: text("name", self.name)?.into(),
            op: text("op", self.op)?.into(),
            op_index: self.op_index.value(i),
            request: self.request.value(i),
            pass: self.pass.value(i),
            occurrence: self.occurrence.value(i),
            shape: self.dims.values()[dims].to_vec(),
            dtype: text("dtype", self.dtype)?
                .parse::<DType>()
                .map_err(|e| ("dtype", format!("holds an {e}")))?,
            num_elements: self.num_elements.value(i),
            blake3,
            stats: Stats {
                rms: moment(0),
                mean: moment(1),
                min: moment(2),
                max: moment(3),
                abs_max: moment(4),
                nan_count: count("nan_count", self.nan_count)?,
                inf_count: count("inf_count", self.inf_count)?,
            },
        })
    }
}

/// Length of `raw` in every row of a row group; `None` for null.
pub(super) fn raw_lengths(part: &Part, row_group: usize) -> Result<Vec<Option<u64>>, PartError> {
    let rows = part.meta.row_group(row_group).num_rows().unsigned_abs();
    let group = part.meta.row_group(row_group);
    let is_raw = |path: &[String]| path.first().is_some_and(|p| p == RAW);
    let size = group.columns().iter().filter(|c| is_raw(c.column_path().parts()));
    let size = size.map(|c| c.uncompressed_size().unsigned_abs()).sum::<u64>();
    // A batch holds the decompressed pages of its rows: fewer rows at a time where they are large.
    let batch = (RAW_BATCH.saturating_mul(rows) / size.max(1)).clamp(1, BATCH as u64) as usize;
    let mut reader = reader(part, row_group, |name| name == RAW, batch, None)?;
    let mut lengths = Vec::new();
    while let Some(batch) = next(&mut reader)? {
        let column = batch.column_by_name(RAW).and_then(|c| c.as_binary_view_opt());
        let column = column.ok_or_else(|| column_error(RAW, "is missing"))?;
        lengths.extend(column.iter().map(|v| v.map(|v| v.len() as u64)));
        if lengths.len() as u64 > rows {
            break;
        }
    }
    if lengths.len() as u64 == rows {
        return Ok(lengths);
    }
    Err(column_error(RAW, "has not as many rows as its row group"))
}

/// The bytes of `raw` in one row of a row group.
pub(super) fn raw(part: &Part, row_group: usize, row: usize) -> Result<Option<Vec<u8>>, PartError> {
    let mut reader = reader(part, row_group, |name| name == RAW, 1, Some((row, 1)))?;
    let batch = next(&mut reader)?;
    let column = batch
        .as_ref()
        .and_then(|b| b.column_by_name(RAW))
        .and_then(|c| c.as_binary_view_opt());
    let column = column.ok_or_else(|| column_error(RAW, "ends before this row"))?;
    Ok((column.len() == 1 && column.is_valid(0)).then(|| column.value(0).to_vec()))
}
