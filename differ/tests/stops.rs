//! Where a comparison ends early, and what `--verify` finds.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, check_schema, shift, tensor, two};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Two runs: from position 1 on, layer 1's attn_out and layer 2's q_proj each have a fault of their own.
fn faulty(database: &Path) -> (PathBuf, PathBuf) {
    let left = Made::default().record(database);
    let right = Made {
        name: "right",
        change: &|seq, layer, stage, values| {
            if seq >= 1 && matches!((layer, stage), (1, "attn_out") | (2, "q_proj")) {
                shift(values, 0.1);
            }
            true
        },
        ..Made::default()
    };
    (left, right.record(database))
}

fn first(left: &Path, right: &Path, flags: &[&str]) -> (i32, Value) {
    let ran = two("first", left, right, &[&["--format", "json"], flags].concat());
    check_schema("first", &ran.json());
    (ran.code, ran.json())
}

#[test]
fn first_ends_with_the_position_that_diverges_and_finds_all_of_its_origins() {
    let dir = TempDir::new().unwrap();
    let (left, right) = faulty(dir.path());
    let (code, report) = first(&left, &right, &[]);
    let a_position = 4 + 3 * 8;
    assert_eq!(code, 1);
    assert_eq!(
        report["stopped"],
        json!({"request": 0, "seq": 1, "not_compared": 3 * a_position})
    );
    assert_eq!(
        (&report["counts"]["identical"], &report["counts"]["diverged"]),
        (&json!(2 * a_position - 2), &json!(2))
    );
    let origins: Vec<_> = report["origins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (&o["layer"], &o["stage"]))
        .collect();
    assert_eq!(
        origins,
        [(&json!(1), &json!("attn_out")), (&json!(2), &json!("q_proj"))]
    );

    let (code, all) = first(&left, &right, &["--all"]);
    assert_eq!(
        (code, &all["stopped"], &all["counts"]["diverged"]),
        (1, &json!(null), &json!(8))
    );
    assert_eq!(all["first_divergence"], report["first_divergence"]);

    let text = two("first", &left, &right, &[]).stdout;
    assert!(text.contains("that is up to seq=1; --all compares"), "{text}");
    assert!(!two("first", &left, &right, &["--all"]).stdout.contains("--all"));
    let compared = two("compare", &left, &right, &["--format", "json"]).json();
    assert_eq!(
        compared["counts"]["diverged"],
        json!(8),
        "compare compares everything"
    );
}

#[test]
fn where_it_ends_does_not_depend_on_the_number_of_threads() {
    let dir = TempDir::new().unwrap();
    let (left, right) = faulty(dir.path());
    let one = first(&left, &right, &["--threads", "1"]);
    for threads in ["2", "3", "16"] {
        assert_eq!(
            first(&left, &right, &["--threads", threads]),
            one,
            "{threads} threads"
        );
    }
}

#[test]
fn a_divergence_at_the_last_position_leaves_nothing_out() {
    let dir = TempDir::new().unwrap();
    let (left, right) = faulty(dir.path());
    let (code, report) = first(&left, &right, &["--seq", "0-1"]);
    assert_eq!((code, &report["stopped"]), (1, &json!(null)));
}

/// Flips one bit of the element at the start of a tensor, in the only part of a run.
fn flip(run: &Path, values: &[f32]) {
    let part = run.join("part-00000.parquet");
    let mut bytes = std::fs::read(&part).unwrap();
    let wanted: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let places: Vec<_> = (0..bytes.len() - wanted.len())
        .filter(|&i| bytes[i..i + wanted.len()] == wanted)
        .collect();
    assert_eq!(places.len(), 1, "the tensor is in the part once");
    bytes[places[0]] ^= 1;
    std::fs::write(&part, bytes).unwrap();
}

#[test]
fn verify_finds_a_flipped_bit_that_the_hash_hides() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        ..Made::default()
    };
    let right = right.record(dir.path());
    for command in ["first", "compare"] {
        let ran = two(command, &left, &right, &["--verify", "--format", "json"]);
        let report = ran.json();
        assert_eq!(ran.code, 0, "{report}");
        let notes = report["notes"].as_array().unwrap();
        let verified = notes.iter().find(|n| n["kind"] == "verified").expect("a note");
        // Both runs, each with 5 positions of 28 records.
        assert!(
            verified["message"].as_str().unwrap().starts_with("280 records"),
            "{verified}"
        );
    }
    flip(&right, &tensor(2, 1, "q_rope"));
    for command in ["first", "compare"] {
        assert_eq!(
            two(command, &left, &right, &[]).code,
            0,
            "equal hashes are not looked behind"
        );
        let ran = two(command, &left, &right, &["--verify"]);
        assert_eq!(ran.code, 2, "{}", ran.stdout);
        for word in ["right", "seq=2", "layer=1", "stage=q_rope", "blake3"] {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        let json = two(command, &left, &right, &["--verify", "--format", "json"]).json();
        assert_eq!(json["error"]["kind"], "damaged");
    }
}

#[test]
fn a_damaged_record_behind_the_first_divergence_is_not_looked_at() {
    let dir = TempDir::new().unwrap();
    let (left, right) = faulty(dir.path());
    flip(&right, &tensor(4, 0, "attn_norm"));
    assert_eq!(two("first", &left, &right, &["--verify"]).code, 1);
    assert_eq!(two("first", &left, &right, &["--verify", "--all"]).code, 2);
}
