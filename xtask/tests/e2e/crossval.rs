//! `crossval-per-token`, `trace_diff.py` and the words of older guides.

use crate::support::*;
use std::{fs, process::Command};

fn crossval(model: &std::path::Path, more: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("crossval-per-token").arg("--model").arg(model);
    run(command.args(["--prompt", "What is 2+2?"]).args(more))
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn every_position_matches_on_f32_weights_and_is_printed() {
    let text = crossval(&f32(), &[]);
    assert_eq!(text.code, 0, "{text:?}");
    let marks: Vec<_> = text.stdout.lines().filter(|l| l.starts_with('✓')).collect();
    assert_eq!(
        marks.len(),
        10,
        "7 prompt positions and 3 fed ones: {}",
        text.stdout
    );
    assert!(marks[0].starts_with("✓ t=0 cosine=1.0"), "{}", marks[0]);
    assert_eq!(
        text.stderr, "",
        "nothing but the result where everything is in place"
    );

    let json = crossval(&f32(), &["--format", "json"]);
    assert_eq!(json.code, 0);
    let document = json.json();
    assert_eq!(
        (&document["status"], &document["first_divergence_token"]),
        (&"ok".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        document["per_token_cosine_sim"].as_array().map(Vec::len),
        Some(10)
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn the_tolerances_drive_the_marks_and_the_verdict() {
    for strict in [["--cos-tol", "0.9999999999"], ["--rel-l2-tol", "1e-9"]] {
        let text = crossval(&q4(), &strict);
        assert_eq!(text.code, 1, "{text:?}");
        assert_eq!(
            text.stdout.matches("← First divergence").count(),
            1,
            "{}",
            text.stdout
        );
        assert!(
            text.stdout
                .lines()
                .any(|l| l.starts_with("✗ t=0") && l.ends_with("← First divergence"))
        );
        let document = crossval(&q4(), &[&strict[..], &["--format", "json"]].concat()).json();
        assert_eq!(
            (&document["status"], &document["first_divergence_token"]),
            (&"diverged".into(), &0.into())
        );
    }
    assert_eq!(
        crossval(&q4(), &["--cos-tol", "0.5", "--rel-l2-tol", "0.9"]).code,
        0
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn max_tokens_caps_the_generated_positions() {
    for (max, positions) in [("0", 7), ("1", 7), ("3", 9)] {
        let document = crossval(&q4(), &["--format", "json", "--max-tokens", max]);
        assert_eq!(
            document.json()["per_token_cosine_sim"].as_array().map(Vec::len),
            Some(positions)
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn other_token_ids_are_an_error_that_shows_both_lists() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokenizer = dir.path().join("tokenizer.json");
    let wrong = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"What":0,"is":1,"[UNK]":2},"unk_token":"[UNK]"}}"#;
    fs::write(&tokenizer, wrong).expect("written");
    let done = crossval(
        &q4(),
        &["--tokenizer", &tokenizer.to_string_lossy(), "--format", "json"],
    );
    assert_eq!(done.code, 2, "{done:?}");
    assert_eq!(done.json()["status"], "error");
    for says in ["1780", "[0] 1 2 2 2 2", "first at seq=0"] {
        assert!(
            done.stderr.contains(says),
            "both lists and the first difference: {}",
            done.stderr
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn trace_diff_has_the_exit_codes_and_the_headline_of_the_differ() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()));
    db.record("rust", &mut rust(&f32(), &db));
    db.record(
        "fault",
        rust(&f32(), &db).args(["--fault", "missing-residual@layer=6,from=3"]),
    );
    let trace_diff = |a: &str, b: &str| {
        run(Command::new("python3")
            .arg(root().join("scripts/trace_diff.py"))
            .args([a, b]))
    };
    assert_eq!(trace_diff(&db.at("rust"), &db.at("cpp")).code, 0);
    let found = trace_diff(&db.at("fault"), &db.at("cpp"));
    assert_eq!(found.code, 1, "{found:?}");
    let lines: Vec<_> = found.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "✗ First divergence at seq=3, layer=6, stage=attn_residual"
    );
    assert!(lines[1].trim_start().starts_with("Rust"), "{}", lines[1]);
    assert!(lines[2].trim_start().starts_with("C++"), "{}", lines[2]);
    let empty = tempfile::tempdir().expect("a folder");
    assert_eq!(
        trace_diff(&db.at("rust"), &empty.path().to_string_lossy()).code,
        2
    );
    assert_eq!(
        run(Command::new("python3").arg(root().join("scripts/trace_diff.py"))).code,
        2
    );
}
