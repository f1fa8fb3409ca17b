//! Reads the bytes of a part, wherever they come from: the counterpart of [`PartEncoder`](super::PartEncoder).
//!
//! Nothing in a part is believed: every offset and count of the footer is compared with the file's
//! length before anything follows it.

mod error;
mod footer;
mod scalars;
mod values;

pub use error::PartError;

use crate::columns::{KEY_FORMAT_VERSION, KEY_RUN};
use crate::{FORMAT_VERSION, RecordMeta};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Where a row's elements are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Byte offset and number of f32 values, where they are kept.
    pub values: Option<(u64, u64)>,
    /// Length of the original bytes, where they are kept.
    pub raw_bytes: Option<u64>,
}

/// A part with its footer read and checked.
#[derive(Debug)]
pub struct Part {
    bytes: Bytes,
    meta: Arc<ParquetMetaData>,
    arrow: ArrowReaderMetadata,
}

/// More rows in a byte of file than any writer of records reaches: a row has 21 columns, one of them a
/// hash. It keeps a small file from claiming billions of rows.
const MAX_ROWS_PER_BYTE: u64 = 8;

impl Part {
    /// Reads the footer and checks it: version, run (`expected_run`), rows, and the place of every chunk.
    ///
    /// # Errors
    /// [`PartError`], for each way the bytes can be no part of the run.
    pub fn read(bytes: Bytes, expected_run: &str) -> Result<Self, PartError> {
        let (footer, footer_at) = footer::bytes(&bytes)?;
        let meta = guarded(|| ParquetMetaDataReader::decode_metadata(&footer))?;
        check_keys(&meta, expected_run)?;
        check_places(&meta, footer_at, bytes.len() as u64)?;
        let meta = Arc::new(meta);
        let arrow = scalars::metadata(&meta)?;
        let part = Self { bytes, meta, arrow };
        scalars::check_types(&part)?;
        values::check_type(&part)?;
        Ok(part)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.meta.file_metadata().num_rows().unsigned_abs()
    }

    /// Calls `row` with every row in order: its number, its scalars, and where its elements are.
    ///
    /// # Errors
    /// [`PartError`] where the part is damaged, or what `row` returns, which ends the reading.
    pub fn for_each_row<E: From<PartError>>(
        &self,
        mut row: impl FnMut(u64, RecordMeta, Place) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut number = 0;
        for group in 0..self.meta.num_row_groups() {
            let values = values::locate(self, group)?;
            let raw = scalars::raw_lengths(self, group)?;
            let mut at = 0;
            scalars::for_each::<E>(self, group, number, |meta| {
                // Both were filled to the row group's row count, and the reader of scalars checks its own.
                let place = Place {
                    values: values.get(at).copied().flatten(),
                    raw_bytes: raw.get(at).copied().flatten(),
                };
                check_row(&meta, place).map_err(|problem| PartError::Row { row: number, problem })?;
                row(number, meta, place)?;
                at += 1;
                number += 1;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The original bytes of row `row`.
    ///
    /// # Errors
    /// [`PartError`] where they cannot be decoded, or the part has no such row.
    pub fn raw(&self, row: u64) -> Result<Option<Vec<u8>>, PartError> {
        let mut first = 0;
        for group in 0..self.meta.num_row_groups() {
            let rows = self.meta.row_group(group).num_rows().unsigned_abs();
            if row < first + rows {
                return scalars::raw(self, group, (row - first) as usize);
            }
            first += rows;
        }
        Err(PartError::NoSuchRow { row })
    }
}

/// Runs the Parquet library on bytes that anyone may have written.
///
/// It returns errors for most malformed input, but has assertions and index expressions that a hostile
/// footer or page can reach; such a panic means the same to us as its error.
fn guarded<T>(f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, PartError> {
    let problem = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the Parquet library could not make sense of it".to_owned(),
    };
    Err(PartError::Decode { problem })
}

fn check_keys(meta: &ParquetMetaData, expected_run: &str) -> Result<(), PartError> {
    let key = |name: &str| {
        let pairs = meta.file_metadata().key_value_metadata()?;
        pairs.iter().find(|kv| kv.key == name)?.value.clone()
    };
    let version = key(KEY_FORMAT_VERSION);
    if version.as_deref() != Some(FORMAT_VERSION.to_string().as_str()) {
        return Err(PartError::Version {
            found: version.map_or("of no version (it is not a part of a run)".into(), |v| {
                format!("{v:?}")
            }),
        });
    }
    let run = key(KEY_RUN).unwrap_or_default();
    if run != expected_run {
        return Err(PartError::OtherRun {
            found: run,
            expected: expected_run.into(),
        });
    }
    Ok(())
}

/// Every chunk lies between the magic and the footer, and row counts agree and fit the file.
fn check_places(meta: &ParquetMetaData, end: u64, size: u64) -> Result<(), PartError> {
    let damaged = |problem: String| PartError::Footer { problem };
    let columns = meta.file_metadata().schema_descr().num_columns();
    let mut rows = 0u64;
    for (i, group) in meta.row_groups().iter().enumerate() {
        let in_group = u64::try_from(group.num_rows())
            .map_err(|_| damaged(format!("row group {i} has {} rows", group.num_rows())))?;
        rows = rows.saturating_add(in_group);
        if group.columns().len() != columns {
            return Err(damaged(format!("row group {i} lacks columns")));
        }
        for column in group.columns() {
            let start = column
                .dictionary_page_offset()
                .unwrap_or(column.data_page_offset());
            let place = u64::try_from(start)
                .ok()
                .zip(u64::try_from(column.compressed_size()).ok());
            let fits = place
                .and_then(|(s, n)| s.checked_add(n))
                .is_some_and(|e| e <= end);
            if !fits || start < 4 || column.num_values() < 0 || column.uncompressed_size() < 0 {
                return Err(damaged(format!(
                    "the chunk of {} in row group {i} lies outside the file",
                    column.column_path().string()
                )));
            }
        }
    }
    let stated = meta.file_metadata().num_rows();
    if u64::try_from(stated) != Ok(rows) {
        return Err(damaged(format!("it counts {stated} rows, its row groups {rows}")));
    }
    if rows > size.saturating_mul(MAX_ROWS_PER_BYTE) {
        return Err(damaged(format!("it counts {rows} rows in {size} bytes")));
    }
    Ok(())
}

/// The columns of a row agree with each other.
fn check_row(meta: &RecordMeta, place: Place) -> Result<(), String> {
    let elements = meta
        .shape
        .iter()
        .try_fold(1i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) });
    if elements != Some(meta.num_elements) {
        let (n, shape) = (meta.num_elements, &meta.shape);
        return Err(format!("num_elements is {n} and the shape {shape:?}"));
    }
    let odd = meta.stats.nan_count.checked_add(meta.stats.inf_count);
    if odd.is_none_or(|n| n > meta.num_elements.unsigned_abs()) {
        return Err("nan_count and inf_count exceed num_elements".into());
    }
    let (n, dtype) = (meta.num_elements.unsigned_abs(), meta.dtype);
    if let Some((_, count)) = place.values {
        // of a packed dtype, dequantised ones may stand beside the original bytes
        if !dtype.fits_f32() && (!dtype.is_packed() || place.raw_bytes.is_none()) {
            return Err(format!(
                "`values` are kept of the dtype {dtype}, which f32 does not hold"
            ));
        }
        if count != n {
            return Err(format!("num_elements is {n}, `values` holds {count}"));
        }
    }
    if let Some(bytes) = place.raw_bytes {
        if dtype.fits_f32() {
            return Err(format!(
                "`raw` is kept of the dtype {dtype}, which belongs in `values`"
            ));
        }
        if dtype.bytes(n) != Some(bytes) {
            return Err(format!("`raw` holds {bytes} bytes for {n} elements of {dtype}"));
        }
    }
    Ok(())
}
