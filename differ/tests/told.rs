//! What the program says beside its verdicts: what they rest on, and what it left out.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, command, ran, run, shift, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Two runs that are the same, `left` and `right`.
fn database() -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        ..Made::default()
    };
    let right = right.record(dir.path());
    (dir, left, right)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_terminal_is_not_sent_what_a_run_calls_its_stages() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let hostile = Made {
        name: "hostile",
        engine: "engine\x1b[2J",
        rename: &|stage| stage.replace("attn_out", "attn\x1b]0;title\x07out"),
        ..Made::default()
    };
    let hostile = hostile.record(dir.path());
    for command_line in [
        &["first", text(&left), text(&hostile)][..],
        &["compare", text(&left), text(&hostile)],
        &["runs", text(dir.path())],
        &["query", text(&hostile), "--seq", "1"],
        &["first", text(&left), text(&hostile), "--seq", "99"],
    ] {
        let mut program = command();
        program.args(command_line).env("CLICOLOR_FORCE", "1");
        let ran = ran(program.output().unwrap());
        let all = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            !all.contains("\x1b]") && !all.contains('\x07') && !all.contains("\x1b[2J"),
            "{command_line:?}: {all:?}"
        );
    }
}

#[test]
fn every_verdict_on_an_incomplete_run_says_so() {
    let (dir, left, right) = database();
    let manifest = right.join("run.json");
    let text_of = std::fs::read_to_string(&manifest).unwrap();
    assert!(text_of.contains("\"total\": 0"), "{text_of}");
    std::fs::write(&manifest, text_of.replace("\"total\": 0", "\"total\": 3")).unwrap();
    for command in ["first", "compare", "tokens"] {
        let ran = two(command, &left, &right, &["--allow-incomplete"]);
        assert_eq!(ran.code, 0, "{command}: {}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stdout.contains("right is incomplete: 3 tensors were dropped"),
            "{command}: {}",
            ran.stdout
        );
    }
    let ran = run(&["query", text(dir.path()), "--seq", "1"]);
    assert!(ran.stdout.contains("right is incomplete"), "{}", ran.stdout);
}

#[test]
fn an_unreadable_run_is_named_once_and_not_passed_over() {
    let (dir, _, right) = database();
    std::fs::write(right.join("run.json"), "no JSON").unwrap();
    let runs = run(&["runs", text(dir.path())]);
    assert_eq!(runs.stdout.matches("run.json:").count(), 1, "{}", runs.stdout);
    let query = run(&["query", text(dir.path()), "--seq", "1"]);
    assert!(query.stdout.contains("right is left out: "), "{}", query.stdout);
}

#[test]
fn what_selects_nothing_is_told_as_it_was_given() {
    let (dir, left, right) = database();
    let none = two("first", &left, &right, &["--seq", "99", "--stage", "q_*"]);
    assert!(
        none.code == 2
            && none
                .stderr
                .contains("left has no record that --seq 99 --stage q_* takes"),
        "{}",
        none.stderr
    );
    let mut relative = command();
    relative
        .current_dir(dir.path())
        .args(["first", "run=left", "run=nobody"]);
    let relative = ran(relative.output().unwrap());
    assert!(
        relative.code == 2 && relative.stderr.contains("it holds left, right"),
        "{}",
        relative.stderr
    );
    let manifest = right.join("run.json");
    let state = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"complete\"", "\"failed\"");
    std::fs::write(&manifest, state).unwrap();
    std::fs::remove_file(right.join("part-00000.parquet")).unwrap();
    let failed = two("first", &left, &right, &[]);
    assert!(
        failed.code == 2 && failed.stderr.contains("it is incomplete: it failed"),
        "{}",
        failed.stderr
    );
}

#[test]
fn one_run_by_two_paths_is_one_run() {
    let (dir, left, _) = database();
    let other = dir.path().join("run=right/../run=left");
    let ran = two("first", &left, &other, &[]);
    assert!(
        ran.stdout.contains("both sides are the same run"),
        "{}",
        ran.stdout
    );
}

#[test]
fn nan_that_was_taken_as_a_match_is_told() {
    let dir = TempDir::new().unwrap();
    let made = |name, step: f32| {
        let change = move |s: i64, _: i32, stage: &str, v: &mut Vec<f32>| {
            if s == 2 && stage == "logits" {
                v[1] = f32::NAN;
                v[2] += step;
            }
            true
        };
        Made {
            name,
            change: &change,
            ..Made::default()
        }
        .record(dir.path())
    };
    let (left, right) = (made("left", 0.0), made("right", 1e-6));
    for (command, says) in [
        (
            "first",
            "1 record within the tolerance, NaN at the same places aside",
        ),
        (
            "tokens",
            "the logits of 1 position match and hold NaN on both sides",
        ),
    ] {
        let ran = two(command, &left, &right, &["--nan-equal"]);
        assert!(
            ran.code == 0 && ran.stdout.replace("\n    ", " ").contains(says),
            "{command}: {}",
            ran.stdout
        );
    }
}

#[test]
fn positions_without_a_known_token_id_are_told() {
    let (_dir, left, right) = database();
    let manifest = right.join("run.json");
    let mut document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
    document["sequences"][0]["ids"]
        .as_array_mut()
        .unwrap()
        .truncate(3);
    std::fs::write(&manifest, document.to_string()).unwrap();
    for command in ["first", "tokens"] {
        let ran = two(command, &left, &right, &[]);
        assert!(
            ran.code == 0
                && ran
                    .stdout
                    .contains("the token ids of 2 positions are not known on both sides"),
            "{command}: {}",
            ran.stdout
        );
    }
}

#[test]
fn top_1_is_counted_where_a_run_has_one() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let nan = Made {
        name: "nan",
        change: &|s, _, stage, v| {
            if stage == "logits" && s > 1 {
                v.fill(f32::NAN);
            }
            true
        },
        ..Made::default()
    };
    let stats = Made {
        name: "stats",
        values: bitnet_trace::Values::Stats,
        ..Made::default()
    };
    let nan = nan.record(dir.path());
    for (a, b) in [(&left, &nan), (&nan, &left)] {
        let ran = two("tokens", a, b, &[]);
        let says = "2 of 5 positions match, top-1 agrees at 2\n";
        assert!(ran.stdout.contains(says), "{}", ran.stdout);
    }
    let stats = stats.record(dir.path());
    let ran = two("tokens", &stats, &stats, &[]);
    assert!(ran.stdout.contains("top-1 agrees at 0 of 0"), "{}", ran.stdout);
    for k in ["0", "49152"] {
        assert_eq!(two("tokens", &left, &left, &["-k", k]).code, 2);
    }
}

#[test]
fn a_warm_up_of_one_run_is_hinted_at_where_runs_diverge() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let twice = Made {
        name: "twice",
        passes: 2,
        change: &|_, _, stage, v| {
            if stage == "q_proj" {
                shift(v, 0.1);
            }
            true
        },
        ..Made::default()
    };
    let ran = two("first", &left, &twice.record(dir.path()), &[]);
    assert!(
        ran.code == 1 && ran.stdout.replace("\n    ", " ").contains("(a warm-up)"),
        "{}",
        ran.stdout
    );
}

#[test]
fn runs_of_one_name_in_two_databases_are_told_apart() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let left = Made::default().record(a.path());
    let mut ids = common::IDS;
    ids[1] = 7;
    let right = Made {
        ids: &ids,
        ..Made::default()
    };
    let right = right.record(b.path());
    let prompt = two("first", &left, &right, &[]);
    assert!(
        prompt.stderr.contains("left (left):") && prompt.stderr.contains("left (right):"),
        "{}",
        prompt.stderr
    );
    let manifest = right.join("run.json");
    let failed = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"complete\"", "\"failed\"");
    std::fs::write(&manifest, failed).unwrap();
    let incomplete = two("tokens", &left, &right, &[]);
    assert!(
        incomplete.code == 2 && incomplete.stderr.contains("the run left (right) is incomplete"),
        "{}",
        incomplete.stderr
    );
}

#[test]
fn a_match_by_cosine_alone_is_told_to_be_blind_to_scale() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let scaled = Made {
        name: "scaled",
        change: &|_, _, stage, v| {
            if stage == "logits" {
                v.iter_mut().for_each(|x| *x *= 10.0);
            }
            true
        },
        ..Made::default()
    };
    let scaled = scaled.record(dir.path());
    for command in ["first", "compare", "tokens"] {
        let ran = two(command, &left, &scaled, &["--cosine", "0.99"]);
        assert!(
            ran.code == 0 && ran.stdout.contains("note: the tolerance limits the cosine alone"),
            "{command}: {}",
            ran.stdout
        );
        let ran = two(command, &left, &scaled, &["--cosine", "0.99", "--rel-l2", "0.1"]);
        assert!(ran.code == 1 && !ran.stdout.contains("cosine alone"), "{command}");
    }
}

#[test]
fn a_run_that_cannot_be_read_is_not_one_that_was_not_recorded() {
    let dir = TempDir::new().unwrap();
    let script = r#"mkdir "$BITNET_TRACE_DIR/run=bad" && echo x > "$BITNET_TRACE_DIR/run=bad/run.json""#;
    let ran = run(&["record", "--into", text(dir.path()), "--", "sh", "-c", script]);
    assert!(
        ran.code == 2
            && ran.stderr.contains("the run bad is incomplete")
            && !ran.stderr.contains("recorded nothing"),
        "{}",
        ran.stderr
    );
}

#[test]
fn where_nothing_was_compared_no_counts_are_promised() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let mut ids = common::IDS;
    ids[4] = 9;
    let right = Made {
        name: "right",
        ids: &ids,
        ..Made::default()
    };
    let right = right.record(dir.path());
    for command in ["first", "compare"] {
        let ran = two(command, &left, &right, &["--seq", "4-"]);
        assert!(
            ran.code == 1 && ran.stdout.contains("0 records compared\n"),
            "{command}: {}",
            ran.stdout
        );
    }
}

#[test]
fn ids_of_another_request_are_not_said_to_be_its_prompt() {
    let dir = TempDir::new().unwrap();
    let made = |name, id| {
        let mut ids = common::IDS;
        ids[4] = id;
        let run = Made {
            name,
            ids: &ids,
            ..Made::default()
        }
        .record(dir.path());
        let manifest = run.join("run.json");
        let mut document: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
        document["sequences"][0]["request"] = 7.into();
        std::fs::write(&manifest, document.to_string()).unwrap();
        run
    };
    let ran = two("first", &made("a", 1), &made("b", 2), &[]);
    assert!(
        ran.code == 2
            && ran
                .stderr
                .contains("the token ids of request 7 differ, first at seq=4"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_scale_that_explains_a_divergence_is_told_and_noise_is_not_called_one() {
    let (dir, left, _) = database();
    let changed = |name, change: common::Change<'_>| {
        Made {
            name,
            change,
            ..Made::default()
        }
        .record(dir.path())
    };
    let scaled = changed("scaled", &|s, l, stage, v| {
        if (s, l, stage) == (2, 1, "q_rope") {
            v.iter_mut().for_each(|x| *x *= 1.25);
        }
        true
    });
    let out = two("first", &left, &scaled, &[]).stdout;
    assert!(out.contains("looks like a scale of 1.25\n"), "{out}");
    let shifted = changed("shifted", &|s, l, stage, v| {
        if (s, l, stage) == (2, 1, "q_rope") {
            shift(v, 0.1);
        }
        true
    });
    let out = two("first", &left, &shifted, &[]).stdout;
    assert!(
        out.contains("First divergence") && !out.contains("scale"),
        "{out}"
    );
}

#[test]
fn a_limit_in_ulp_is_kept_and_broken_from_the_command_line() {
    let (dir, left, right) = database();
    assert_eq!(two("first", &left, &right, &["--ulp", "0"]).code, 0);
    let made = Made {
        name: "next",
        change: &|_, _, _, v| {
            v.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() + 3));
            true
        },
        ..Made::default()
    };
    let next = made.record(dir.path());
    let ran = two("first", &left, &next, &["--ulp", "2"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("max ULP 3 > 2"),
        "{}",
        ran.stdout
    );
    assert_eq!(two("first", &left, &next, &["--ulp", "3"]).code, 0);
}
