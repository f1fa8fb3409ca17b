//! How a verdict reaches programs: exit codes, JUnit, annotations, three runs; and what older tools took for a match.
#![allow(clippy::unwrap_used)]

mod common;

use common::{IDS, Made, check_schema, downstream, run, shift, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn made(dir: &Path, name: &str, change: common::Change<'_>) -> PathBuf {
    Made {
        name,
        change,
        ..Made::default()
    }
    .record(dir)
}

/// A reference, a run that differs from it by rounding, and one with a fault.
fn runs(dir: &Path) -> [PathBuf; 3] {
    [
        made(dir, "left", &|_, _, _, _| true),
        made(dir, "noise", &|_, _, _, v| {
            shift(v, 1e-6);
            true
        }),
        made(dir, "fault", &|s, l, stage, v| {
            if downstream(s, l, stage) {
                shift(v, 0.1);
            }
            true
        }),
    ]
}

#[test]
fn the_exit_code_is_what_fail_on_asks_for() {
    let dir = TempDir::new().unwrap();
    let [left, noise, fault] = runs(dir.path());
    let fewer = made(dir.path(), "fewer", &|s, _, stage, _| (s, stage) != (4, "logits"));
    for (right, [never, divergence, missing, difference]) in [
        (&left, [0, 0, 0, 0]),
        (&noise, [0, 0, 0, 1]),
        (&fewer, [0, 0, 1, 1]),
        (&fault, [0, 1, 1, 1]),
    ] {
        for command in ["first", "compare"] {
            let code = |what| two(command, &left, right, &["--fail-on", what, "--quiet"]);
            for (what, expected) in [
                ("never", never),
                ("divergence", divergence),
                ("missing", missing),
                ("difference", difference),
            ] {
                let ran = code(what);
                assert_eq!(ran.code, expected, "{command} {right:?} {what}");
                assert_eq!(format!("{}{}", ran.stdout, ran.stderr), "");
            }
        }
    }
    let nobody = two(
        "first",
        &left,
        &dir.path().join("run=nobody"),
        &["--fail-on", "never", "-q"],
    );
    assert_eq!(nobody.code, 2);
    assert!(
        nobody.stderr.contains("nobody"),
        "an error is told: {}",
        nobody.stderr
    );
}

#[test]
fn junit_has_a_test_case_for_each_stage_and_github_an_annotation_for_each_failure() {
    let dir = TempDir::new().unwrap();
    let [left, noise, fault] = runs(dir.path());
    let junit = two("compare", &left, &fault, &["--format", "junit"]);
    assert_eq!(junit.code, 1);
    assert!(junit.stdout.starts_with("<?xml"), "{}", junit.stdout);
    for stage in ["q_proj", "attn_out", "logits"] {
        assert!(
            junit.stdout.contains(&format!("name=\"{stage}\"")),
            "{}",
            junit.stdout
        );
    }
    assert_eq!(junit.stdout.matches("<failure").count(), 11, "{}", junit.stdout);
    let passed = two("first", &left, &noise, &["--format", "junit"]);
    assert!(
        passed.code == 0 && !passed.stdout.contains("<failure"),
        "{}",
        passed.stdout
    );
    let github = two("first", &left, &fault, &["--format", "github"]);
    assert_eq!(github.code, 1);
    assert!(
        github.stdout.starts_with("::error title=")
            && github.stdout.contains("seq=3, layer=1, stage=attn_out"),
        "{}",
        github.stdout
    );
    let notice = two("first", &left, &noise, &["--format", "github"]);
    assert!(notice.stdout.starts_with("::notice "), "{}", notice.stdout);
    let nobody = dir.path().join("run=nobody");
    let error = two("first", &left, &nobody, &["--format", "junit"]);
    assert!(
        error.code == 2 && error.stdout.contains("<error"),
        "{}",
        error.stdout
    );
    let error = two("compare", &left, &nobody, &["--format", "github"]);
    assert!(
        error.code == 2 && error.stdout.starts_with("::error "),
        "{}",
        error.stdout
    );
}

#[test]
fn of_three_runs_the_one_that_stands_alone_is_named() {
    let dir = TempDir::new().unwrap();
    let [left, noise, fault] = runs(dir.path());
    let three = |order: [&PathBuf; 3], more: &[&str]| {
        let mut args = vec!["compare"];
        args.extend(order.iter().map(|p| p.to_str().unwrap()));
        args.extend(more);
        run(&args)
    };
    for (order, alone) in [
        ([&fault, &left, &noise], 0),
        ([&left, &fault, &noise], 1),
        ([&left, &noise, &fault], 2),
    ] {
        let ran = three(order, &["--format", "json"]);
        let document = ran.json();
        check_schema("three", &document);
        assert_eq!(
            (ran.code, &document["first_alone"]["run"]),
            (1, &"fault".into()),
            "{document:#}"
        );
        let at = &document["first_alone"];
        assert_eq!(
            (&at["seq"], &at["layer"], &at["stage"]),
            (&3.into(), &1.into(), &"attn_out".into())
        );
        let stages = document["stages"].as_array().unwrap();
        let logits = stages.iter().find(|s| s["stage"] == "logits").unwrap();
        assert_eq!(
            (&logits["alone"][alone], &logits["agree"]),
            (&1.into(), &4.into())
        );
    }
    let agree = three([&left, &left, &noise], &[]);
    assert!(
        agree.code == 0 && agree.stdout.contains("all three agree"),
        "{}",
        agree.stdout
    );
    let text = three([&left, &noise, &fault], &[]);
    assert!(
        text.stdout.lines().all(|l| l.chars().count() <= 80),
        "{}",
        text.stdout
    );
}

#[test]
fn known_mistakes_in_the_token_ids_are_named_before_any_tensor() {
    let dir = TempDir::new().unwrap();
    let left = made(dir.path(), "left", &|_, _, _, _| true);
    let ids = [IDS[0], 378, IDS[2], IDS[3], IDS[4]];
    let right = Made {
        name: "space",
        ids: &ids,
        ..Made::default()
    }
    .record(dir.path());
    let ran = two("first", &left, &right, &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("a space before the text"), "{}", ran.stderr);
}

#[test]
fn what_older_tools_took_for_a_match_is_none() {
    let dir = TempDir::new().unwrap();
    let left = made(dir.path(), "left", &|_, _, _, _| true);
    let code = |name: &str, flags: &[&str], change: common::Change<'_>| {
        let right = made(dir.path(), name, change);
        let ran = two("first", &left, &right, &[&["--format", "json"], flags].concat());
        let status = ["ok", "diverged", "error"][usize::try_from(ran.code).unwrap()];
        assert_eq!(
            ran.json()["status"],
            status,
            "the JSON says what the exit code says"
        );
        (ran.code, ran.json())
    };
    let at = |s: i64, l: i32, stage: &str| (s, l, stage) == (2, 1, "q_proj");
    // NaN, which compares as false with every limit.
    let (nan, _) = code("nan", &[], &|s, l, stage, v| {
        if at(s, l, stage) {
            v[0] = f32::NAN;
        }
        true
    });
    assert_eq!(nan, 1);
    // A run without a record in common.
    let (none, _) = code("none", &[], &|_, _, _, _| false);
    assert_eq!(none, 2);
    // A run that is not there.
    assert_eq!(two("first", &left, &dir.path().join("run=nobody"), &[]).code, 2);
    // Tensors of different lengths, of which the common part is the same.
    let (shorter, _) = code("shorter", &[], &|s, l, stage, v| {
        if at(s, l, stage) {
            v.pop();
        }
        true
    });
    assert_eq!(shorter, 2);
    // A scale error, which the cosine does not see.
    let (scaled, first) = code("scaled", &[], &|s, l, stage, v| {
        if at(s, l, stage) {
            v.iter_mut().for_each(|x| *x *= 10.0);
        }
        true
    });
    let scale = first["first_divergence"]["metrics"]["scale"].as_f64().unwrap();
    assert!(scaled == 1 && (scale - 10.0).abs() < 1e-6, "{scale}");
    // A limit that is given is the one that decides, either way.
    let noise: common::Change<'_> = &|s, l, stage, v| {
        if at(s, l, stage) {
            shift(v, 0.05);
        }
        true
    };
    assert_eq!(code("cosine-tight", &["--cosine", "0.99999"], noise).0, 1);
    assert_eq!(code("cosine-loose", &["--cosine", "0.9"], noise).0, 0);
    // Zero against something: relative to zero, any difference is infinite, and zero against zero is equal.
    let zero = |to: f32| {
        move |s: i64, l: i32, stage: &str, v: &mut Vec<f32>| {
            if (s, l, stage) == (2, 1, "q_proj") {
                v.fill(to);
            }
            true
        }
    };
    let zeros = made(dir.path(), "zeros", &zero(0.0));
    let negative = made(dir.path(), "negative-zeros", &zero(-0.0));
    let tiny = made(dir.path(), "tiny", &zero(1e-30));
    assert_eq!(two("first", &zeros, &negative, &["-q"]).code, 0, "0 equals -0");
    assert_eq!(two("first", &zeros, &tiny, &["-q"]).code, 1);
    assert_eq!(two("first", &tiny, &zeros, &["-q"]).code, 1);
}

#[test]
fn a_run_without_an_rms_is_compared_by_its_values_and_the_order_is_that_of_execution() {
    let dir = TempDir::new().unwrap();
    // No element of a tensor of NaN is finite, so it has no rms.
    let all_nan: common::Change<'_> = &|s, l, stage, v| {
        if (s, l, stage) == (2, 1, "q_proj") {
            v.fill(f32::NAN);
        }
        true
    };
    let left = made(dir.path(), "left", &|_, _, _, _| true);
    let nan = made(dir.path(), "nan", all_nan);
    assert_eq!(two("first", &left, &nan, &["-q"]).code, 1);
    assert_eq!(two("first", &nan, &left, &["-q"]).code, 1);
    // attn_ctx comes before q_proj in the alphabet and after it in the engine.
    let both = made(dir.path(), "both", &|s, l, stage, v| {
        if (s, l) == (2, 1) && ["attn_ctx", "q_proj"].contains(&stage) {
            shift(v, 0.5);
        }
        true
    });
    let first = two("first", &left, &both, &["--format", "json"]).json();
    assert_eq!(first["first_divergence"]["stage"], "q_proj");
}
