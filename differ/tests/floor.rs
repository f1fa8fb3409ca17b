//! Runs that differ by noise of the size of their engines match by a measured floor; what is beyond it is found.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, STAGES, check_schema, run, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Positions of a run: some of a prompt, some generated.
const POSITIONS: i32 = 12;

/// The place of a stage in the order of execution, over all layers.
fn depth(layer: i32, stage: &str) -> i32 {
    let stages = STAGES.len() as i32;
    match (stage, STAGES.iter().position(|s| *s == stage)) {
        (_, Some(rank)) => 1 + layer * stages + rank as i32,
        ("embeddings", _) => 0,
        ("all_layers_out", _) => 1 + 3 * stages,
        ("final_norm", _) => 2 + 3 * stages,
        _ => 3 + 3 * stages,
    }
}

/// Noise of relative size about `size`, another for each prompt and place.
fn noise(values: &mut [f32], size: f32, seed: i64) {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for x in values {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *x += size * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
    }
}

/// Records the run `name` of prompt number `prompt`, with noise of the size that `size` gives.
fn record(db: &Path, name: &str, prompt: i32, size: &dyn Fn(i64, i32, &str) -> f32) -> PathBuf {
    let ids: Vec<i32> = (0..POSITIONS).map(|i| 100 * prompt + i).collect();
    let change = |seq: i64, layer: i32, stage: &str, values: &mut Vec<f32>| {
        let size = size(seq, layer, stage);
        if size > 0.0 {
            noise(
                values,
                size,
                (i64::from(prompt) << 32) + (seq << 16) + i64::from(depth(layer, stage)),
            );
        }
        true
    };
    Made {
        name,
        ids: &ids,
        weights: "Q4_1",
        change: &change,
        ..Made::default()
    }
    .record(db)
}

/// What the sound engine's noise comes to: none in the embeddings, more with the depth.
fn sound(_seq: i64, layer: i32, stage: &str) -> f32 {
    match depth(layer, stage) {
        0 => 0.0,
        depth => 0.01 + 0.001 * depth as f32,
    }
}

/// A floor measured on `prompts` prompts, and the exit code and output of the calibration.
fn calibrated(dir: &TempDir, prompts: i32) -> (PathBuf, common::Ran) {
    let db = dir.path().join("sound");
    for prompt in 1..=prompts {
        record(&db, &format!("a-{prompt}"), prompt, &|_, _, _| 0.0);
        record(&db, &format!("b-{prompt}"), prompt, &sound);
    }
    let floor = dir.path().join("floor.toml");
    let ran = run(&[
        "calibrate",
        &db.to_string_lossy(),
        "-o",
        &floor.to_string_lossy(),
        "--format",
        "json",
    ]);
    (floor, ran)
}

fn judged(dir: &TempDir, floor: &Path, size: &dyn Fn(i64, i32, &str) -> f32) -> common::Ran {
    let db = dir.path().join("judged");
    let a = record(&db, "a", 9, &|_, _, _| 0.0);
    let b = record(&db, "b", 9, size);
    two(
        "first",
        &a,
        &b,
        &["--format", "json", "--floor", &floor.to_string_lossy()],
    )
}

#[test]
fn sound_runs_of_another_prompt_match_by_the_floor_and_not_by_the_default_tolerance() {
    let dir = TempDir::new().unwrap();
    let (floor, ran) = calibrated(&dir, 5);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = ran.json();
    check_schema("calibrate", &report);
    assert_eq!((&report["prompts"], &report["pairs"]), (&5.into(), &5.into()));
    let ran = judged(&dir, &floor, &sound);
    let document = ran.json();
    check_schema("first", &document);
    assert_eq!(ran.code, 0, "{document:#}");
    assert_eq!(document["floor"]["without_floor"], 0);
    assert!(document["floor"]["judged"].as_u64().unwrap() > 100);
    assert!(
        document["notes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|n| n["kind"] != "quantised")
    );
    let db = dir.path().join("judged");
    let plain = two(
        "first",
        &db.join("run=a"),
        &db.join("run=b"),
        &["--format", "json"],
    );
    assert_eq!(plain.code, 1);
    let compared = two(
        "compare",
        &db.join("run=a"),
        &db.join("run=b"),
        &["--format", "json", "--floor", &floor.to_string_lossy()],
    );
    check_schema("compare", &compared.json());
    assert_eq!(compared.code, 0);
}

#[test]
fn a_fault_beyond_the_floor_is_named_where_its_gain_begins_and_the_rest_is_inherited() {
    let dir = TempDir::new().unwrap();
    let (floor, _) = calibrated(&dir, 5);
    let at = depth(1, "q_rope");
    let ran = judged(&dir, &floor, &|seq, layer, stage| {
        let factor = if seq >= 7 && depth(layer, stage) >= at {
            8.0
        } else {
            1.0
        };
        factor * sound(seq, layer, stage)
    });
    let document = ran.json();
    check_schema("first", &document);
    let first = &document["first_divergence"];
    assert_eq!(ran.code, 1, "{document:#}");
    assert_eq!(
        (&first["seq"], &first["layer"], &first["stage"]),
        (&7.into(), &1.into(), &"q_rope".into()),
        "{first:#}"
    );
    assert_eq!(first["reason"]["kind"], "floor");
    assert_eq!(first["floor"]["begins"], true);
    assert_eq!(
        document["origins"].as_array().unwrap().len(),
        1,
        "{}",
        document["origins"]
    );
    assert!(document["inherited"].as_u64().unwrap() > 5);
}

#[test]
fn an_error_that_drifts_beyond_the_floor_is_a_divergence_without_an_origin() {
    let dir = TempDir::new().unwrap();
    let (floor, _) = calibrated(&dir, 5);
    // Each stage adds a little more than on sound runs, and none of them much.
    let ran = judged(&dir, &floor, &|seq, layer, stage| {
        sound(seq, layer, stage) * 1.15f32.powi(depth(layer, stage))
    });
    let document = ran.json();
    assert_eq!(ran.code, 1, "{document:#}");
    assert_eq!(document["floor"]["drift"], true, "{document:#}");
    assert_eq!(document["first_divergence"]["floor"]["begins"], false);
    let db = dir.path().join("judged");
    let text = two(
        "first",
        &db.join("run=a"),
        &db.join("run=b"),
        &["--floor", &floor.to_string_lossy()],
    );
    assert!(text.stdout.contains("has no origin"), "{}", text.stdout);
    assert!(
        text.stdout.lines().all(|l| l.chars().count() <= 80),
        "{}",
        text.stdout
    );
}

#[test]
fn runs_that_do_not_differ_come_to_nothing_of_the_limit() {
    let dir = TempDir::new().unwrap();
    let (floor, _) = calibrated(&dir, 6);
    let document = judged(&dir, &floor, &|_, _, _| 0.0).json();
    check_schema("first", &document);
    assert_eq!(
        document["floor"]["largest"]["of_limit"], 0.0,
        "{:#}",
        document["floor"]
    );
}

#[test]
fn one_odd_record_is_no_divergence_unless_it_is_far_beyond_every_sound_one() {
    let dir = TempDir::new().unwrap();
    let (floor, _) = calibrated(&dir, 5);
    for (factor, code) in [(3.0, 0), (60.0, 1)] {
        let ran = judged(&TempDir::new().unwrap(), &floor, &|seq, layer, stage| {
            let odd = (seq, layer, stage) == (4, 2, "attn_out");
            sound(seq, layer, stage) * if odd { factor } else { 1.0 }
        });
        assert_eq!(ran.code, code, "{factor}: {}", ran.stdout);
    }
}

#[test]
fn nan_is_a_divergence_whatever_the_floor() {
    let dir = TempDir::new().unwrap();
    let (floor, _) = calibrated(&dir, 5);
    let db = dir.path().join("nan");
    let a = record(&db, "a", 9, &|_, _, _| 0.0);
    let ids: Vec<i32> = (0..POSITIONS).map(|i| 900 + i).collect();
    let b = Made {
        name: "b",
        ids: &ids,
        change: &|seq, layer, stage, values| {
            if (seq, layer, stage) == (4, 1, "q_proj") {
                values[3] = f32::NAN;
            }
            true
        },
        ..Made::default()
    }
    .record(&db);
    let ran = two(
        "first",
        &a,
        &b,
        &["--format", "json", "--floor", &floor.to_string_lossy()],
    );
    let first = &ran.json()["first_divergence"];
    assert_eq!(
        (ran.code, &first["reason"]["kind"]),
        (1, &"non_finite".into()),
        "{first:#}"
    );
}

#[test]
fn a_floor_of_few_prompts_or_another_model_says_so() {
    let dir = TempDir::new().unwrap();
    let (floor, ran) = calibrated(&dir, 2);
    let kinds = |document: &serde_json::Value| -> Vec<String> {
        let notes = document["notes"].as_array().unwrap().iter();
        notes.map(|n| n["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert!(kinds(&ran.json()).contains(&"few_prompts".into()));
    let document = judged(&dir, &floor, &sound).json();
    assert!(
        kinds(&document).contains(&"floor".into()),
        "{}",
        document["notes"]
    );
}

#[test]
fn what_is_no_floor_is_an_error_that_says_why() {
    let dir = TempDir::new().unwrap();
    let db = dir.path().join("db");
    let a = record(&db, "a", 1, &|_, _, _| 0.0);
    let b = record(&db, "b", 2, &sound);
    let floor = dir.path().join("floor.toml");
    let [a, b, to] = [&a, &b, &floor].map(|p| p.to_string_lossy().into_owned());
    let ran = run(&["calibrate", &a, &b, "-o", &to]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("of one prompt"), "{}", ran.stderr);
    assert!(!floor.exists());
    let level = "{ median = 0.1, high = 0.2, spread = 0.1, max = 0.15 }";
    let entry = format!(
        "version = 1\nprompts = 5\npairs = 5\nrun = []\n[[stage]]\nstage = \"q_proj\"\nlayer = 0\nprompts = 5\nrecords = 9\n\
         error = {level}\ngain = {level}\n"
    );
    for (text, why) in [
        ("", "version"),
        ("version = 9", "version 9"),
        (
            "version = 1\nprompts = 5\npairs = 5\nrun = []\nstage = []",
            "no [[stage]] entry",
        ),
        ("version = 1\nprompt = 5", "prompt"),
        (&entry, "max is not the largest"),
        (&entry.replace("0.15", "nan"), "not finite"),
        (&entry.replace("0.15", "-1.0"), "negative"),
        (
            &entry.replace("spread = 0.1, max = 0.15", "spread = 1e9, max = 0.3"),
            "limit that follows",
        ),
    ] {
        std::fs::write(&floor, text).unwrap();
        let ran = run(&["first", &a, &a, "--floor", &to, "--format", "json"]);
        assert_eq!(ran.code, 2, "{text}");
        let message = ran.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(why), "{text}: {message}");
    }
}
