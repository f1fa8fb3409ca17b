//! Two right engines on F32 weights match; a run equals itself.

use crate::support::*;
use bitnet_trace_schema::{StageGraph, StageScope};
use std::collections::BTreeSet;
use std::process::Command;

/// llama.cpp and the Rust engine on F32 weights.
fn control() -> Db {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()));
    db.record("rust", &mut rust(&f32(), &db));
    db
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_match_within_1e_4_on_every_stage_and_position_of_f32_weights() {
    let db = control();
    let result = db.first("cpp", "rust", &["--rel-l2", "1e-4"]);
    assert_full_match(&result);

    // Every stage that a llama model computes, in every layer, at every position, on both sides.
    let mut expected = BTreeSet::new();
    for stage in StageGraph::builtin()
        .stages()
        .iter()
        .filter(|s| !s.name.ends_with("sub_norm") && !OF_GEMMA.contains(&s.name.as_str()))
    {
        let layers = match stage.scope {
            StageScope::Model => vec![-1],
            StageScope::AllLayers => vec![-2],
            StageScope::Layer => (0..LAYERS as i32).collect(),
        };
        for layer in layers {
            expected.extend((0..POSITIONS as i64).map(|seq| (seq, layer, stage.name.clone())));
        }
    }
    for run in ["cpp", "rust"] {
        let (keys, records) = db.keys(run);
        assert_eq!(keys, expected, "keys of {run}");
        assert_eq!(records, expected.len(), "{run} has a key twice");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_run_equals_itself_and_a_rerun_of_the_same_engine_bit_for_bit() {
    let db = control();
    db.record("cpp-again", &mut cpp(&f32()));
    db.record("rust-again", &mut rust(&f32(), &db));
    for (a, b) in [
        ("cpp", "cpp"),
        ("cpp", "cpp-again"),
        ("rust", "rust"),
        ("rust", "rust-again"),
    ] {
        let result = db.first(a, b, &["--exact"]);
        assert_full_match(&result);
        assert_eq!(count(&result.1, "within"), 0, "{a} against {b}");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_prompt_in_one_batch_and_token_by_token_has_the_same_keys_and_all_are_compared() {
    let db = Db::new();
    db.record("batch", &mut cpp(&f32()));
    for size in ["1", "4"] {
        db.record(size, cpp(&f32()).args(["--batch", size]));
        assert_eq!(db.keys(size), db.keys("batch"), "batches of {size}");
        for (a, b) in [("batch", size), (size, "batch")] {
            assert_full_match(&db.first(a, b, &[]));
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_quantised_pair_gets_an_honest_verdict() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    db.record("rust", &mut rust(&q4(), &db));
    // Both are right, each in its own way of rounding activations.
    let (code, first) = db.first("cpp", "rust", &[]);
    assert_eq!((code, first["status"].as_str()), (0, Some("ok")), "{first:#}");
    let rounding = &first["local"]["roundings"][0];
    assert_eq!(rounding["weights"], "Q4_1", "{first:#}");
    assert_ne!(rounding["left"], rounding["right"], "{first:#}");

    let (code, first) = db.first("cpp", "rust", &["--local=never"]);
    assert_eq!((code, first["status"].as_str()), (1, Some("diverged")));
    let text = diff(&["first", &db.at("cpp"), &db.at("rust"), "--local=never"]);
    assert_eq!(text.code, 1);
    assert!(
        text.stdout.contains("Q4_1"),
        "the verdict names the quantised weights: {}",
        text.stdout
    );
    assert!(
        text.stdout.contains("1e-4"),
        "the verdict names its tolerance: {}",
        text.stdout
    );

    let (code, first) = db.first("cpp", "rust", &["--rel-l2", "0.5"]);
    assert_eq!(code, 0, "a tolerance far above the noise is kept: {first:#}");
}

/// Prompts with what tokenizers differ in: digits, spaces, line ends, contractions, scripts, control tokens.
const PROMPTS: &[&str] = &[
    "The capital of France is",
    "What is 2+2?",
    "pi=3.14159, 1234567890",
    "  two  spaces   three\ttab\n\n\nlines \r\n ",
    "I'm can't WE'LL they'd o'clock",
    "naïve café Straße œuvre ﬁ ½",
    "日本語のテスト, 한국어, العربية, Ελληνικά",
    "🙂👩‍👩‍👧‍👦🇫🇷",
    "fn main() { println!(\"{}\", x_1[0] >= 0x7f); }",
    "<|im_start|>user\nhi<|im_end|>",
    "a",
    " ",
];

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_give_the_same_ids_for_a_prompt() {
    for prompt in PROMPTS {
        for special in [&[][..], &["--special"]] {
            let db = Db::new();
            let common = [&["--prompt", prompt, "--max-tokens", "0"], special].concat();
            db.record(
                "cpp",
                Command::new(program("cpp-runner"))
                    .arg("--model")
                    .arg(q4())
                    .args(&common),
            );
            let mut rust = Command::new(program("bitnet-cli"));
            db.record("rust", rust.arg("run").arg("--model").arg(q4()).args(&common));
            let [cpp, rust] = ["cpp", "rust"].map(|run| db.manifest(run));
            assert_eq!(cpp["sequences"], rust["sequences"], "{prompt:?} {special:?}");
            assert_eq!(
                (&cpp["prompt"], &rust["prompt"]),
                (&(*prompt).into(), &(*prompt).into())
            );
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_continue_a_prompt_alike() {
    let expected = "2240,338,553,719";
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    let free = ["--tokens", PROMPT_IDS, "--max-tokens", &MAX_TOKENS.to_string()];
    let mut rust = Command::new(program("bitnet-cli"));
    db.record("rust", rust.arg("run").arg("--model").arg(q4()).args(free));
    assert_eq!(
        (db.continuation("cpp"), db.continuation("rust")),
        (expected.into(), expected.into())
    );
}
