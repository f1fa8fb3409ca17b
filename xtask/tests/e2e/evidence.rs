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
        "corpus",
        "--model",
        "SmolLM2-F32",
        "--short",
        "--rel-l2",
        "1e-4",
        "--write",
    ];
    let done = xtask(&[&corpus[..], &[&file], &CLASSES].concat());
    assert_eq!(done.code, 0, "{done:?}");
    for expected in [
        "| propagated (P) | 13 of 13 | 4 of 4 | 9 of 9 | can't tell | 0 of 1 |",
        "| emulated (E) | 13 of 13 | 4 of 4 | 9 of 9 | 13 of 13 | 0 of 2 |",
        "| replayed (R) | 13 of 13 | 4 of 4 | 9 of 9 | can't tell | 0 of 1 |",
        "| first (F) | 13 of 13 | 4 of 4 | 9 of 9 | can't tell | 0 of 1 |",
        "| `attn-scale=1.5` | attn_probs | PERF ",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    assert_eq!(std::fs::read_to_string(file.as_ref()).ok(), Some(done.stdout));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn each_rule_but_propagation_names_what_quantised_weights_hide() {
    let done = xtask(&[
        "corpus",
        "--model",
        "SmolLM2-Q4_1",
        "--short",
        "--class",
        "cache-q8",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    for expected in [
        "| propagated (P) | 2 of 4 | 1 of 1 | 1 of 3 | can't tell | 0 of 1 |",
        "| emulated (E) | 4 of 4 | 1 of 1 | 3 of 3 | 4 of 4 | 0 of 14 |",
        "| replayed (R) | 4 of 4 | 1 of 1 | 3 of 3 | can't tell | 0 of 7 |",
        "| first (F) | 4 of 4 | 1 of 1 | 3 of 3 | can't tell | 0 of 1 |",
        "| `cache-q8` | k_cache | PLERF ",
        " | ··ERF ",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    assert!(!done.stdout.contains("**missed**"), "{}", done.stdout);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn honest_runs_are_clean_by_the_mathematics_of_their_model() {
    let models = [
        "tiny-qwen2-Q4_1",
        "tiny-qwen3-F32",
        "tiny-gemma3-Q4_1",
        "Gemma-3-270M-Q4_K_M",
    ];
    let models: Vec<&str> = models.iter().flat_map(|model| ["--model", model]).collect();
    let done = xtask(&[&["honest"][..], &models].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stdout.contains("17 runs, 0 of them called off"),
        "{}",
        done.stdout
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn the_corpus_fails_and_lists_what_a_tolerance_is_too_wide_for() {
    let corpus = [
        "corpus",
        "--model",
        "SmolLM2-F32",
        "--short",
        "--rel-l2",
        "0.05",
        "--class",
        "cache-q8",
    ];
    let done = xtask(&corpus);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout.contains("| `cache-q8` | k_cache | ·ER· "),
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
    for expected in [
        "3 pairs, 0 of them called different",
        "4 runs, 0 of them called off",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_pair_that_nobody_knows_is_refused_with_those_there_are() {
    let done = xtask(&["honest", "--pair", "cpp|abacus"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("cpp|rust"), "{}", done.stderr);
}
