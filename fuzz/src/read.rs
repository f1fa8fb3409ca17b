//! Opens a run and touches everything in it.

use bitnet_trace_store::{Filter, Row, Run, StoreError};
use std::path::Path;

/// Every record of a run, each with its elements read.
///
/// # Errors
/// Whatever the store says of the run: a message of one line.
pub fn all(run: &Path) -> Result<Vec<Row>, StoreError> {
    let rows = records(run);
    if let Err(error) = &rows {
        let message = error.to_string();
        assert!(!message.is_empty() && message.len() < 10_000, "{message}");
    }
    rows
}

fn records(run: &Path) -> Result<Vec<Row>, StoreError> {
    let run = Run::open(run)?;
    let _ = run.completeness();
    let rows = run.records(&Filter::default());
    for row in &rows {
        let tensor = run.tensor(row)?;
        let n = row.meta.num_elements as usize;
        if let Some(values) = tensor.values() {
            assert_eq!(values.len(), n);
            std::hint::black_box(values.iter().fold(0, |all, x| all ^ x.to_bits()));
        }
        if let Some(raw) = tensor.raw() {
            assert_eq!(row.meta.dtype.bytes(n as u64), Some(raw.len() as u64));
        }
        assert!(tensor.to_f64().is_none_or(|v| v.len() == n));
    }
    Ok(rows)
}
