//! A part, in a run whose manifest says nothing of it.

use super::read;

const MANIFEST: &str = r#"{"format_version": 1, "run": "golden", "state": "failed", "created_unix_ms": 1,
    "owner": {"pid": 4294967295}, "writer": {"name": "w", "version": "1"}, "engine": {"name": "e"}, "values": "full"}"#;

/// Bytes are a part of which every tensor can be read, or an error.
pub fn check(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    // Not `run=golden`: a run beside no others gets neither an index nor row tables.
    std::fs::write(dir.path().join("run.json"), MANIFEST).expect("written");
    std::fs::write(dir.path().join("part-00000.parquet"), data).expect("written");
    let _ = read::all(dir.path());
}
