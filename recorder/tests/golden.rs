//! The golden trace of format v1 is what this version writes, to the byte.
#![cfg(feature = "trace")]

mod common;
#[path = "../examples/golden.rs"]
mod golden;

use std::path::Path;

#[test]
fn the_golden_run_is_written_to_the_byte() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/golden/v1/run=golden");
    let dir = tempfile::tempdir().expect("a directory");
    golden::write(dir.path()).expect("written");
    let written = dir.path().join("run=golden");
    let names = |dir: &Path| {
        let mut names: Vec<_> = (std::fs::read_dir(dir).expect("a directory"))
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&written), names(&kept));
    for name in names(&kept) {
        let (new, old) = (
            std::fs::read(written.join(&name)),
            std::fs::read(kept.join(&name)),
        );
        assert!(
            new.expect("written") == old.expect("kept"),
            "{} differs from the golden one. If the format is meant to change, it needs a new version; if only \
             the encoder of the scalar columns did, write the golden run anew",
            name.display()
        );
    }
    let size: u64 = names(&kept)
        .iter()
        .map(|n| std::fs::metadata(kept.join(n)).expect("a file").len())
        .sum();
    assert!(size < 64 << 10, "{size} bytes");
}

#[test]
fn the_golden_run_holds_what_its_readme_says() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/golden/v1/run=golden");
    let records = common::read(&kept);
    assert!(common::parts(&kept).len() >= 2);
    let odd: Vec<_> = records.iter().filter(|r| r.meta.stage == "odd").collect();
    let named = |name: &str| odd.iter().find(|r| r.meta.name == name).expect("a record");
    assert_eq!(named("no elements").values.as_deref(), Some(&[][..]));
    assert_eq!(named("only nan").meta.stats.rms, None);
    assert!(named("no dimensions").meta.shape.is_empty());
    for raw in ["f64", "i32", "i64"] {
        assert!(named(raw).values.is_none() && named(raw).raw.is_some());
    }
    let occurrences: Vec<i32> = odd
        .iter()
        .filter(|r| r.meta.request == 0)
        .map(|r| r.meta.occurrence)
        .collect();
    assert_eq!(occurrences, (0..14).collect::<Vec<_>>());
}
