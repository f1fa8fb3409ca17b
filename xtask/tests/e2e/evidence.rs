//! Short versions of `make corpus` and `make honest`.

use crate::support::*;
use std::process::Command;

fn xtask(args: &[&str]) -> Done {
    run(Command::new(env!("CARGO_BIN_EXE_xtask")).args(args))
}

/// Four classes, one of which no end metric sees at position 0.
const CLASSES: [&str; 8] = [
    "--class",
    "gelu",
    "--class",
    "cache-q8",
    "--class",
    "attn-scale",
    "--class",
    "logits-roll",
];

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn the_corpus_tells_that_every_fault_is_named_on_f32_weights() {
    let db = Db::new();
    let file = db.path().join("FAULTS.md");
    let file = file.to_string_lossy();
    let corpus = [
        "corpus", "--model", "f32", "--short", "--rel-l2", "1e-4", "--write",
    ];
    let done = xtask(&[&corpus[..], &[&file], &CLASSES].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stdout
            .contains("Named exactly: 4 of 4 in all layers, 9 of 9 in one layer"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout.contains("| `attn-scale=1.5` | attn_probs | ✓"),
        "{}",
        done.stdout
    );
    assert_eq!(std::fs::read_to_string(file.as_ref()).ok(), Some(done.stdout));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn the_corpus_fails_and_lists_what_a_tolerance_is_too_wide_for() {
    let corpus = [
        "corpus", "--model", "f32", "--short", "--rel-l2", "0.05", "--class", "cache-q8",
    ];
    let done = xtask(&corpus);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout.contains("| `cache-q8` | k_cache | ✗"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout
            .contains("| `cache-q8@layer=0,from=0` | 0, 0, k_cache |"),
        "{}",
        done.stdout
    );
}
