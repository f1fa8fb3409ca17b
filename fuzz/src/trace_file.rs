//! `.trace` files of the older tracing crate; a byte 0 divides files of one run.

use bitnet_trace_schema::trace_file::{TraceFileError, TraceFiles, TraceRecord};
use bitnet_trace_schema::{RecordMeta, StageGraph};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Bytes are records that have keys of their own and come back from a file that was written of them, or an error
/// that tells its line.
pub fn check(data: &[u8]) {
    let files: Vec<&[u8]> = data.split(|&b| b == 0).collect();
    let records = match read(&files) {
        Ok(records) => records,
        Err((file, error)) => {
            let lines = file.iter().filter(|&&b| b == b'\n').count() as u64 + 1;
            assert!((1..=lines).contains(&error.line), "{error:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    };
    let keys: BTreeSet<_> = records.iter().map(key).collect();
    assert_eq!(keys.len(), records.len());
    assert!(records.is_sorted_by_key(|r| r.op_index));
    let lines: Vec<String> = records.iter().map(|r| TraceRecord::from(r).to_line()).collect();
    let mut again = read(&[lines.join("\n").as_bytes()]).expect("what was written can be read");
    for (before, after) in records.iter().zip(&mut again) {
        if before.name.is_empty() {
            after.name.set(""); // a file has a name for everything
        }
    }
    assert_eq!(again, records);
}

/// It is slow to read, and the same for all.
static GRAPH: LazyLock<StageGraph> = LazyLock::new(StageGraph::builtin);

fn read<'a>(files: &[&'a [u8]]) -> Result<Vec<RecordMeta>, (&'a [u8], TraceFileError)> {
    let mut all = TraceFiles::new(GRAPH.clone());
    for &file in files {
        all.add(file).map_err(|error| (file, error))?;
    }
    Ok(all.records())
}

fn key(r: &RecordMeta) -> (i32, i32, i64, i32, &str, i32) {
    (r.pass, r.request, r.seq, r.layer, &r.stage, r.occurrence)
}
