//! `judge` on the real engines: both are right but for rounding, a fault is told at its place and of its side, and what
//! does not belong together is refused.

use crate::support::*;
use serde_json::Value;
use std::process::Command;

/// Stages that are computed element by element.
const ELEMENTWISE: [&str; 12] = [
    "embeddings",
    "attn_norm",
    "q_rope",
    "k_rope",
    "k_cache",
    "v_cache",
    "attn_probs",
    "attn_residual",
    "ffn_norm",
    "ffn_act",
    "layer_out",
    "final_norm",
];

fn judge(db: &Db, runs: &[&str], more: &[&str]) -> (i32, Value) {
    let runs: Vec<String> = runs.iter().map(|run| db.at(run)).collect();
    let mut args = vec!["judge"];
    args.extend(runs.iter().map(String::as_str));
    args.extend(more);
    args.extend(["--format", "json"]);
    let done = diff(&args);
    (done.code, done.json())
}

fn seq_layer_stage(key: &Value) -> (Option<i64>, Option<i64>, Option<&str>) {
    (key["seq"].as_i64(), key["layer"].as_i64(), key["stage"].as_str())
}

/// Asserts that both runs are the exact results of their own inputs at every record.
#[track_caller]
fn assert_sound(db: &Db, report: &(i32, Value)) {
    let (code, document) = report;
    assert_eq!(*code, 0, "{document:#}");
    let records: usize = ["cpp", "rust"].map(|run| db.keys(run).1).iter().sum();
    assert_eq!(document["told"].as_u64(), Some(records as u64), "{document:#}");
    for stage in document["stages"].as_array().expect("stages") {
        let name = stage["stage"].as_str().unwrap_or_default();
        let limit = if ELEMENTWISE.contains(&name) { 2e-6 } else { 1e-3 };
        for side in ["left", "right"] {
            let worst = stage[side]["worst"].as_f64();
            assert!(worst.is_some_and(|worst| worst < limit), "{side} {stage:#}");
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_compute_every_stage_exactly_but_for_rounding() {
    for model in [q4(), f32()] {
        let db = Db::new();
        db.record("cpp", &mut cpp(&model));
        db.record("rust", &mut rust(&model, &db));
        assert_sound(&db, &judge(&db, &["cpp", "rust"], &[]));
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn first_calls_what_was_inherited_on_quantised_weights_no_divergence_and_finds_a_small_fault_in_depth() {
    let db = Db::new();
    let model = q4();
    db.record("cpp", &mut cpp(&model));
    db.record("rust", &mut rust(&model, &db));
    let (code, first) = db.first("cpp", "rust", &[]);
    assert_eq!(code, 0, "{first:#}");
    assert!(first["local"]["inherited"].as_u64() > Some(1000), "{first:#}");
    assert_eq!(first["local"]["untold"], 0, "{first:#}");
    assert_eq!(db.first("cpp", "rust", &["--local=never"]).0, 1);

    // 2 % of one projection in the depth of the model, where the engines are 2 % apart by themselves.
    let fault = "weight-scale=1.02@layer=20,from=3,stage=ffn_down";
    db.record("fault", rust(&model, &db).args(["--fault", fault]));
    let place = (Some(3), Some(20), Some("ffn_down"));
    let (code, first) = db.first("cpp", "fault", &[]);
    assert_eq!(code, 1, "{first:#}");
    assert_eq!(seq_layer_stage(&first["first_divergence"]), place, "{first:#}");
    assert_eq!(first["first_divergence"]["reason"]["kind"], "local");

    let (code, told) = judge(&db, &["cpp", "fault"], &[]);
    assert_eq!((code, &told["verdict"]), (1, &"right".into()), "{told:#}");
    assert_eq!(seq_layer_stage(&told["origin"]["first"]), place, "{told:#}");
    let scale = told["origin"]["scale"].as_f64();
    assert!(scale.is_some_and(|s| (s - 1.02).abs() < 1e-4), "{told:#}");
    assert_eq!(told["findings"].as_array().map(Vec::len), Some(1), "{told:#}");
    // Whichever side it is on, and with no reference at all.
    let (_, swapped) = judge(&db, &["fault", "cpp"], &[]);
    assert_eq!(swapped["verdict"], "left");
    let (code, alone) = judge(&db, &["fault"], &[]);
    assert_eq!((code, seq_layer_stage(&alone["origin"]["first"])), (1, place));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn what_does_not_belong_together_is_refused_with_what_to_do() {
    let db = Db::new();
    let model = q4();
    db.record("cpp", &mut cpp(&model));
    let refused = |args: &[&str], says: &[&str]| {
        let runs: Vec<String> = args
            .iter()
            .map(|arg| match *arg {
                "cpp" | "f32" | "other" | "dropped" | "scores" | "replayed" => db.at(arg),
                other => other.to_owned(),
            })
            .collect();
        let done = diff(&runs.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(done.code, 2, "{args:?}: {}{}", done.stdout, done.stderr);
        for part in says {
            let text = format!("{}{}", done.stdout, done.stderr);
            assert!(text.contains(part), "{args:?}: {part}: {text}");
        }
    };
    let f32_model = f32();
    let f32_path = f32_model.to_string_lossy();
    refused(&["judge", "cpp", "--model", &f32_path], &["blake3", "--model"]);
    refused(&["judge", "cpp", "--model", "/no/such.gguf"], &["/no/such.gguf"]);

    db.record("f32", &mut cpp(&f32_model));
    refused(&["judge", "cpp", "f32"], &["blake3", "f32"]);

    let mut other = Command::new(program("cpp-runner"));
    other
        .arg("--model")
        .arg(&model)
        .args(["--tokens", "504,282,3575", "--max-tokens", "1"]);
    db.record("other", &mut other);
    refused(&["judge", "cpp", "other"], &["token ids", "seq=1"]);

    // Nothing of it can be told without its inputs.
    db.record("scores", cpp(&model).env("BITNET_TRACE_SELECT", "stage=ffn_down"));
    refused(&["judge", "scores"], &["can't tell", "ffn_act was not recorded"]);

    // Its inputs are not its own; and first knows what to make of it.
    let mut again = cpp(&model);
    again.env("BITNET_TRACE_REPLAY", db.at("cpp"));
    db.record("replayed", &mut again);
    refused(&["judge", "replayed"], &["another run", "cross"]);
    assert_eq!(db.first("cpp", "replayed", &[]).0, 0);

    // A run that lost something.
    std::fs::create_dir(db.path().join("run=dropped")).expect("a folder");
    for entry in std::fs::read_dir(db.at("cpp")).expect("a run") {
        let from = entry.expect("a file").path();
        let to = db
            .path()
            .join("run=dropped")
            .join(from.file_name().expect("a name"));
        std::fs::copy(&from, &to).expect("a copy");
    }
    let path = db.path().join("run=dropped/run.json");
    let mut manifest = db.manifest("dropped");
    manifest["dropped"]["total"] = 3.into();
    manifest["dropped"]["reasons"]["queue full"] = 3.into();
    std::fs::write(&path, manifest.to_string()).expect("a manifest");
    refused(&["judge", "dropped"], &["incomplete"]);
}
