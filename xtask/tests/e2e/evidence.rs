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

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn honest_pairs_match_by_a_floor_from_other_prompts() {
    let honest = ["honest", "--model", "SmolLM2-F32", "--prompts", "1"];
    let pairs = ["cpp|rust", "cpp|cpp, 2 threads", "cpp|cpp, F16 cache"];
    let pairs: Vec<&str> = pairs.iter().flat_map(|pair| ["--pair", pair]).collect();
    let done = xtask(&[&honest[..], &pairs].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stdout.contains("3 pairs, 0 of them called different"),
        "{}",
        done.stdout
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_pair_that_nobody_knows_is_refused_with_those_there_are() {
    let done = xtask(&["honest", "--pair", "cpp|abacus"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("cpp|rust"), "{}", done.stderr);
}
