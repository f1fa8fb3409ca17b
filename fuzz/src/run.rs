//! A run's directory: manifest, parts, and whatever else.

use super::{archive, read};
use bitnet_trace_store::{RecoverOptions, RecoverOutcome, recover};
use std::collections::BTreeMap;
use std::path::Path;

/// An archive is a run that can be read, after recovery where it was being written, or an error. Reading it once more
/// says the same and changes no byte, and nothing is written beside it.
pub fn check(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("alone");
    std::fs::create_dir(&run).expect("a folder");
    for (name, bytes) in archive::unpack(data) {
        std::fs::write(run.join(name), bytes).expect("written");
    }
    let recovered = is_recovered(&run);
    let first = read::all(&run);
    let left = files(&run);
    assert!(!(recovered && is_recovered(&run)), "recovered twice");
    let second = read::all(&run);
    assert_eq!(first.map(|r| r.len()).ok(), second.map(|r| r.len()).ok());
    assert!(left == files(&run), "reading it again changed a file");
    let beside = std::fs::read_dir(dir.path()).expect("a folder");
    assert_eq!(beside.count(), 1, "something was written beside the run");
}

/// Recovers a run that was being written, whatever machine its process was on.
fn is_recovered(run: &Path) -> bool {
    let options = RecoverOptions {
        other_machine: true,
        ..RecoverOptions::default()
    };
    recover(run, options).is_ok_and(|report| matches!(report.outcome, RecoverOutcome::Recovered { .. }))
}

fn files(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(run).expect("a folder");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        (
            entry.file_name().to_string_lossy().into_owned(),
            std::fs::read(entry.path()).expect("a file"),
        )
    };
    entries.map(file).collect()
}
