//! Differences planted into recorded runs, and what `first` says of them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Change, IDS, Made, downstream, shift, two};
use serde_json::json;
use std::path::PathBuf;
use tempfile::TempDir;

/// A left run, and a right one with this change.
fn pair(change: Change<'_>) -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        engine: "bitnet-models",
        change,
        ..Made::default()
    }
    .record(dir.path());
    (dir, left, right)
}

/// `first` of such a pair, as JSON.
fn first(change: Change<'_>, flags: &[&str]) -> (i32, serde_json::Value) {
    let (_dir, left, right) = pair(change);
    let ran = two("first", &left, &right, &[&["--format", "json"], flags].concat());
    (ran.code, ran.json())
}

fn at(report: &serde_json::Value) -> serde_json::Value {
    let d = &report["first_divergence"];
    json!([d["seq"], d["layer"], d["stage"]])
}

#[test]
fn a_run_equals_itself_record_by_record() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let ran = two("first", &left, &left, &["--format", "json"]);
    let report = ran.json();
    assert_eq!((ran.code, report["status"].as_str()), (0, Some("ok")), "{report}");
    let records = 5 * (4 + 3 * 8);
    assert_eq!(
        report["counts"],
        json!({"identical": records, "within": 0, "diverged": 0, "incomparable": 0, "missing_left": 0, "missing_right": 0})
    );
    assert_eq!(report["first_divergence"], json!(null));
}

#[test]
fn rounding_noise_is_within() {
    let (code, report) = first(
        &|_, _, _, v| {
            shift(v, 1e-6);
            true
        },
        &[],
    );
    assert_eq!((code, &report["counts"]["within"]), (0, &json!(140)));
    let (code, _) = first(
        &|_, _, _, v| {
            shift(v, 1e-6);
            true
        },
        &["--exact"],
    );
    assert_eq!(code, 1);
}

#[test]
fn a_fault_is_named_at_its_exact_place_and_what_follows_is_inherited() {
    let (code, report) = first(
        &|s, l, stage, v| {
            if downstream(s, l, stage) {
                shift(v, 0.1)
            }
            true
        },
        &[],
    );
    assert_eq!((code, at(&report)), (1, json!([3, 1, "attn_out"])));
    assert_eq!(
        report["origins"].as_array().unwrap().len(),
        1,
        "{}",
        report["origins"]
    );
    assert_eq!(report["inherited"], json!(3 + 8 + 3 - 1));
    let d = &report["first_divergence"];
    assert_eq!(d["inputs"]["compared"][0]["stage"], "attn_ctx");
    assert!(d["metrics"]["rel_l2"].as_f64().unwrap() > 1e-2);
    assert_eq!(d["tolerance"]["text"], "relative L2 <= 1e-4 (default)");
    assert_ne!(d["left"]["blake3"], d["right"]["blake3"]);
}

#[test]
fn faults_that_rms_or_cosine_cannot_see_are_found() {
    type Fault = fn(&mut Vec<f32>);
    let faults: [(&str, Fault); 4] = [
        ("scale", |v| v.iter_mut().for_each(|x| *x *= 10.0)),
        ("sign", |v| v.iter_mut().for_each(|x| *x = -*x)),
        ("permutation", |v| v.reverse()),
        ("zero", |v| v.fill(0.0)),
    ];
    for (name, fault) in faults {
        let change = move |s: i64, l: i32, stage: &str, v: &mut Vec<f32>| {
            if (s, l, stage) == (2, 0, "q_rope") {
                fault(v)
            }
            true
        };
        let (code, report) = first(&change, &[]);
        assert_eq!((code, at(&report)), (1, json!([2, 0, "q_rope"])), "{name}");
    }
}

#[test]
fn a_nan_is_never_a_match() {
    let nan = |s: i64, l: i32, stage: &str, v: &mut Vec<f32>| {
        if (s, l, stage) == (1, 2, "attn_ctx") {
            v[3] = f32::NAN
        }
        true
    };
    let (code, report) = first(&nan, &["--rel-l2", "1e9", "--nan-equal"]);
    assert_eq!((code, at(&report)), (1, json!([1, 2, "attn_ctx"])));
    let d = &report["first_divergence"];
    assert_eq!(
        (&d["reason"]["kind"], &d["nonfinite_index"]),
        (&json!("non_finite"), &json!([3]))
    );
    assert_eq!(
        (&d["metrics"]["rel_l2"], &d["metrics"]["nonfinite_right"]),
        (&json!("nan"), &json!("nan"))
    );
}

#[test]
fn nan_on_both_sides_is_told_and_matches_when_asked_for() {
    let dir = TempDir::new().unwrap();
    let nan = |x: f32| {
        move |s: i64, l: i32, stage: &str, v: &mut Vec<f32>| {
            if (s, l, stage) == (1, 2, "attn_ctx") {
                (v[3], v[4]) = (f32::NAN, x)
            }
            true
        }
    };
    let left = Made {
        change: &nan(1.0),
        ..Made::default()
    }
    .record(dir.path());
    let right = Made {
        name: "right",
        change: &nan(1.000001),
        ..Made::default()
    }
    .record(dir.path());
    assert_eq!(two("first", &left, &right, &[]).code, 1);
    assert_eq!(two("first", &left, &right, &["--nan-equal"]).code, 0);
    let same = two("first", &left, &left, &["--format", "json"]);
    assert_eq!((same.code, &same.json()["identical_with_nan"]), (0, &json!(1)));
}

#[test]
fn a_missing_record_and_an_extra_visit_are_counted() {
    let (code, report) = first(&|s, l, stage, _| (s, l, stage) != (1, 1, "q_proj"), &[]);
    assert_eq!(
        (
            code,
            &report["counts"]["missing_right"],
            &report["counts"]["identical"]
        ),
        (0, &json!(1), &json!(139))
    );
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "twice",
        passes: 2,
        ..Made::default()
    }
    .record(dir.path());
    let ran = two("first", &left, &right, &["--format", "json"]);
    let report = ran.json();
    assert_eq!(
        (ran.code, &report["counts"]["missing_left"]),
        (0, &json!(140)),
        "{report}"
    );
    assert_eq!(report["missing"][0]["extra_visits"], json!(5));
}

#[test]
fn probability_rows_may_be_padded_with_zeros_and_with_nothing_else() {
    let pad = |x: f32| {
        move |_: i64, _: i32, stage: &str, v: &mut Vec<f32>| {
            if stage == "attn_probs" {
                let row = v.len() / 2;
                *v = v
                    .chunks(row)
                    .flat_map(|r| r.iter().copied().chain([0.0, x]))
                    .collect();
            }
            true
        }
    };
    let (code, report) = first(&pad(0.0), &[]);
    assert_eq!((code, &report["counts"]["within"]), (0, &json!(15)), "{report}");
    let (code, report) = first(&pad(1e-3), &[]);
    assert_eq!((code, at(&report)), (1, json!([0, 0, "attn_probs"])));
    assert_eq!(report["first_divergence"]["reason"]["kind"], "future_mass");
}

#[test]
fn shapes_that_differ_leave_no_verdict_unless_accepted() {
    let cut = |s: i64, l: i32, stage: &str, v: &mut Vec<f32>| {
        if (s, l, stage) == (1, 1, "q_proj") {
            v.pop();
        }
        true
    };
    let (code, report) = first(&cut, &[]);
    assert_eq!(
        (code, &report["status"], &report["error"]["kind"]),
        (2, &json!("error"), &json!("incomparable"))
    );
    assert_eq!(
        report["incomparable"][0]["message"],
        "shapes differ: [24] and [23]"
    );
    let (code, report) = first(&cut, &["--allow-incomplete"]);
    assert_eq!((code, &report["counts"]["incomparable"]), (0, &json!(1)));
}

#[test]
fn empty_tensors_compare_to_nothing_and_nothing_is_an_error() {
    let dir = TempDir::new().unwrap();
    let empty = Made {
        change: &|_, _, _, v| {
            v.clear();
            true
        },
        ..Made::default()
    }
    .record(dir.path());
    let ran = two("first", &empty, &empty, &["--format", "json"]);
    assert_eq!(
        (ran.code, &ran.json()["error"]["kind"]),
        (2, &json!("nothing_compared"))
    );
    let none = Made {
        name: "none",
        change: &|_, _, _, _| false,
        ..Made::default()
    }
    .record(dir.path());
    let ran = two("first", &none, &none, &["--format", "json"]);
    assert_eq!(
        (ran.code, &ran.json()["error"]["kind"]),
        (2, &json!("no_records"))
    );
}

#[test]
fn runs_of_statistics_can_diverge_or_be_identical_and_are_never_within() {
    use bitnet_trace::Values::Stats;
    let dir = TempDir::new().unwrap();
    let left = Made {
        values: Stats,
        ..Made::default()
    }
    .record(dir.path());
    assert_eq!(two("first", &left, &left, &[]).code, 0);
    let noisy = Made {
        name: "noisy",
        values: Stats,
        change: &|_, _, _, v| {
            shift(v, 1e-6);
            true
        },
        ..Made::default()
    };
    let ran = two("first", &left, &noisy.record(dir.path()), &[]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let far = Made {
        name: "far",
        values: Stats,
        change: &|s, l, stage, v| {
            if downstream(s, l, stage) {
                v.iter_mut().for_each(|x| *x *= 2.0)
            }
            true
        },
        ..Made::default()
    };
    let ran = two("first", &left, &far.record(dir.path()), &["--format", "json"]);
    assert_eq!((ran.code, at(&ran.json())), (1, json!([3, 1, "attn_out"])));
}

#[test]
fn another_prompt_is_an_error_that_shows_both() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        ids: &[504, 378, 282, 4649, 314],
        ..Made::default()
    }
    .record(dir.path());
    for command in ["first", "compare", "tokens"] {
        let ran = two(command, &left, &right, &[]);
        assert_eq!(ran.code, 2);
        assert!(
            ran.stderr.contains("left:  504 [3575] 282") && ran.stderr.contains("right: 504 [378] 282"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn another_generated_token_is_a_divergence_at_its_position() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let mut ids = IDS;
    ids[4] = 9;
    let other = Made {
        name: "right",
        ids: &ids,
        change: &|s, _, _, v| {
            if s == 4 {
                shift(v, 1.0)
            }
            true
        },
        ..Made::default()
    };
    let right = other.record(dir.path());
    let ran = two("first", &left, &right, &["--format", "json"]);
    let report = ran.json();
    assert_eq!((ran.code, at(&report)), (1, json!([4, -1, "token_id"])));
    assert_eq!(
        (&report["counts"]["identical"], &report["counts"]["incomparable"]),
        (&json!(112), &json!(28))
    );
    assert_eq!(
        two("first", &left, &right, &["--seq", "0-3"]).code,
        0,
        "before it, all is well"
    );
    let ran = two("tokens", &left, &right, &["--format", "json"]);
    assert_eq!((ran.code, &ran.json()["first_divergence_token"]), (1, &json!(4)));
}

#[test]
fn a_tolerance_file_drives_the_verdict_by_stage() {
    let (dir, left, right) = pair(&|_, _, stage, v| {
        if stage == "logits" {
            shift(v, 0.01)
        }
        true
    });
    let file = dir.path().join("t.toml");
    std::fs::write(&file, "[[rule]]\nstage = 'logits'\nrel_l2 = 0.1\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(two("first", &left, &right, &[]).code, 1);
    assert_eq!(two("first", &left, &right, &["--tolerance", file]).code, 0);
    std::fs::write(file, "[[rule]]\nstagee = 'logits'\nrel_l2 = 0.1\n").unwrap();
    let ran = two("first", &left, &right, &["--tolerance", file]);
    assert!(ran.code == 2 && ran.stderr.contains("stagee"), "{}", ran.stderr);
}

#[test]
fn a_stage_of_nobodys_vocabulary_is_not_said_to_have_inherited_a_fault() {
    let dir = TempDir::new().unwrap();
    let made = |name, by: f32| {
        Made {
            name,
            rename: &|stage| format!("my_{stage}"),
            change: &move |s, l, _, v| {
                if (s, l) >= (3, 1) {
                    shift(v, by);
                }
                true
            },
            ..Made::default()
        }
        .record(dir.path())
    };
    let ran = two("first", &made("a", 0.0), &made("b", 0.1), &["--format", "json"]);
    let report = ran.json();
    let diverged = report["counts"]["diverged"].as_u64().unwrap();
    assert_eq!((ran.code, at(&report)), (1, json!([3, 1, "my_attn_norm"])));
    assert_eq!(
        (&report["inherited"], report["unplaced"].as_u64()),
        (&json!(0), Some(diverged - 1))
    );
}
