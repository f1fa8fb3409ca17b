//! Exit codes, streams and selections of the program.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, command, downstream, ran, run, shift, two};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;

fn database() -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        engine: "bitnet-models",
        change: &|s, l, stage, v| {
            if downstream(s, l, stage) {
                shift(v, 0.1);
            }
            true
        },
        ..Made::default()
    };
    let right = right.record(dir.path());
    (dir, left, right)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_usage_error_is_2_and_help_is_0() {
    for args in [
        &[][..],
        &["first"],
        &["first", "--nonsense"],
        &["first", "a", "b", "--rel-l2", "x"],
        &["first", "a", "b", "--seq", "3-1"],
        &["first", "a", "b", "--labels", "one"],
        &["first", "a", "b", "--exact", "--tolerance", "t.toml"],
        &["query", "--format", "yaml"],
        &["record"],
        &["nothing"],
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(
            !ran.stderr.is_empty() && !ran.stderr.contains("panicked"),
            "{}",
            ran.stderr
        );
    }
    for command in [
        "first",
        "first-divergence",
        "compare",
        "tokens",
        "query",
        "runs",
        "record",
        "completions",
    ] {
        let ran = run(&[command, "--help"]);
        assert!(
            ran.code == 0 && ran.stdout.contains("bitnet-diff"),
            "{command}: {}",
            ran.stdout
        );
    }
    assert_eq!(run(&["--version"]).code, 0);
}

#[test]
fn limits_that_are_none_are_refused() {
    let (_dir, left, right) = database();
    for flag in ["--rel-l2=-1", "--rel-l2=nan", "--max-abs=inf", "--cosine=2"] {
        let ran = two("first", &left, &right, &[flag]);
        assert!(
            ran.code == 2 && ran.stderr.contains("is not a limit"),
            "{flag}: {}",
            ran.stderr
        );
    }
}

#[test]
fn unusable_paths_are_errors_that_name_them() {
    let (dir, left, _) = database();
    let empty = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let nobody = dir.path().join("run=nobody");
    for (path, says) in [
        (empty.path(), "holds no run"),
        (&file, "is a file"),
        (&nobody, "it holds"),
        (Path::new("/nowhere"), "does not exist"),
    ] {
        for (a, b) in [(path, left.as_path()), (left.as_path(), path)] {
            let ran = two("first", a, b, &[]);
            assert!(
                ran.code == 2 && ran.stderr.contains(says),
                "{path:?}: {}",
                ran.stderr
            );
        }
    }
    for command in ["query", "runs"] {
        for path in [text(&file), text(empty.path()), "/nowhere"] {
            assert_eq!(run(&[command, path]).code, 2, "{command} {path}");
        }
    }
    let ran = run(&["query", text(dir.path()), "--run", "nobody"]);
    assert!(ran.code == 2 && ran.stderr.contains("left"), "{}", ran.stderr);
}

#[test]
fn a_part_that_was_cut_off_is_an_error() {
    let (_dir, left, right) = database();
    let part = left.join("part-00000.parquet");
    let bytes = std::fs::read(&part).unwrap();
    for keep in [0, 4, 5000, bytes.len() - 1] {
        std::fs::write(&part, &bytes[..keep]).unwrap();
        let ran = two("first", &left, &right, &[]);
        assert!(
            ran.code == 2 && !ran.stderr.contains("internal"),
            "{keep}: {}",
            ran.stderr
        );
    }
}

#[test]
fn an_incomplete_run_is_refused_unless_accepted() {
    let (_dir, left, _) = database();
    let manifest = left.join("run.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["dropped"] = serde_json::json!({"total": 3, "reasons": {"queue": 3}});
    std::fs::write(&manifest, json.to_string()).unwrap();
    let ran = two("first", &left, &left, &[]);
    assert!(
        ran.code == 2 && ran.stderr.contains("3 tensors were dropped"),
        "{}",
        ran.stderr
    );
    let ran = two("first", &left, &left, &["--allow-incomplete"]);
    assert!(
        ran.code == 0 && ran.stdout.contains("is incomplete"),
        "{}",
        ran.stdout
    );
}

#[test]
fn runs_with_nothing_in_common_are_an_error() {
    let dir = TempDir::new().unwrap();
    let only = |name, stage: &'static str| {
        let change = move |_: i64, _: i32, s: &str, _: &mut Vec<f32>| s == stage;
        Made {
            name,
            change: &change,
            ..Made::default()
        }
        .record(dir.path())
    };
    let (a, b) = (only("a", "q_proj"), only("b", "logits"));
    let ran = two("first", &a, &b, &[]);
    assert!(
        ran.code == 2 && ran.stderr.contains("no record in common"),
        "{}",
        ran.stderr
    );
    let ran = two("first", &a, &a, &["--stage", "k_*"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("stages q_proj"),
        "{}",
        ran.stderr
    );
}

#[test]
fn errors_are_json_where_json_was_asked_for() {
    for args in [
        &["first", "/nowhere", "/nowhere", "--format", "json"][..],
        &["query", "/nowhere", "--format=json"],
        &["first", "--format", "json"],
    ] {
        let ran = run(args);
        assert_eq!(
            (ran.code, ran.json()["status"].as_str()),
            (2, Some("error")),
            "{args:?}"
        );
        assert!(
            ran.json()["error"]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty())
        );
    }
}

#[test]
fn selections_narrow_the_comparison() {
    let (_dir, left, right) = database();
    for (flags, code, compared) in [
        (&["--seq", "0-2"][..], 0, 84),
        (&["--layer", "0"], 0, 40),
        (&["--layer", "-2"], 1, 5),
        (&["--stage", "attn_n*", "--layer", "0-1"], 0, 10),
        (&["--request", "0", "--seq", "4-"], 0, 28),
    ] {
        let ran = two("first", &left, &right, &[&["--format", "json"], flags].concat());
        let counts = ran.json()["counts"].clone();
        let n = |k: &str| counts[k].as_u64().unwrap();
        assert_eq!(
            (ran.code, n("identical") + n("diverged")),
            (code, compared),
            "{flags:?}"
        );
    }
    assert_eq!(two("first", &left, &right, &["--request", "7"]).code, 2);
}

#[test]
fn a_database_stands_for_its_newest_run_which_is_named() {
    let (dir, left, _) = database();
    let ran = two("first", dir.path(), &left, &[]);
    assert!(
        ran.stdout.contains("is a database; its newest run is"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

#[test]
fn without_a_database_the_environment_and_then_the_usual_places_are_taken() {
    let (dir, ..) = database();
    let elsewhere = TempDir::new().unwrap();
    let mut query = command();
    query.args(["query", "--seq", "3"]).current_dir(elsewhere.path());
    let ran_here = ran(query.output().unwrap());
    assert!(
        ran_here.code == 2 && ran_here.stderr.contains("BITNET_TRACE_DIR"),
        "{}",
        ran_here.stderr
    );
    assert_eq!(
        ran(query.env("BITNET_TRACE_DIR", dir.path()).output().unwrap()).code,
        0
    );
    std::fs::create_dir_all(elsewhere.path().join("target/demo")).unwrap();
    std::fs::rename(dir.path(), elsewhere.path().join("target/demo/traces")).unwrap();
    let ran = ran(query.env("BITNET_TRACE_DIR", "").output().unwrap());
    assert!(
        ran.code == 0 && ran.stdout.starts_with("target/demo/traces"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

#[test]
fn queries_are_side_by_side() {
    let (dir, ..) = database();
    let args = [
        "query",
        text(dir.path()),
        "--seq",
        "3",
        "--layer",
        "1",
        "--stage",
        "attn_o*",
        "--values",
        "2",
        "--format",
        "json",
    ];
    let report = run(&args).json();
    let cells = report["records"][0]["cells"].as_array().unwrap();
    assert_eq!(report["records"].as_array().unwrap().len(), 1);
    assert!(cells[0]["rel_l2"].is_null() && cells[1]["rel_l2"].as_f64().unwrap() > 1e-2);
    assert_eq!(cells[1]["values"].as_array().unwrap().len(), 2);
}

#[test]
fn a_closed_pipe_is_quiet_and_keeps_the_exit_code() {
    let (_dir, left, right) = database();
    let mut child = command();
    child
        .args(["compare", text(&left), text(&right)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(1), 0));
}

#[test]
fn stdout_holds_styles_only_when_they_are_asked_for() {
    let (_dir, left, right) = database();
    let mut first = command();
    first.args(["first", text(&left), text(&right)]);
    assert!(!ran(first.output().unwrap()).stdout.contains('\u{1b}'));
    assert!(
        ran(first.env("CLICOLOR_FORCE", "1").output().unwrap())
            .stdout
            .contains('\u{1b}')
    );
    assert!(
        !ran(first.env("NO_COLOR", "1").output().unwrap())
            .stdout
            .contains('\u{1b}')
    );
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("bitnet-diff"), "{shell}");
    }
}

/// The program that the tests below record: this very file, started again.
#[test]
#[ignore = "is started by `bitnet-diff record` in the tests below"]
fn the_program() {
    use bitnet_trace::{Engine, Recorder, Slice, Tap};
    let recorder = Recorder::from_env(Engine::new("tiny", "1"));
    recorder.tokens(0, 0, &[7, 8]);
    for seq in 0..2 {
        recorder.record(Tap::new("embeddings", -1, seq), &Slice::new(&[1.0f32, 2.0], &[2]));
    }
    recorder.finish().unwrap();
    writeln!(std::io::stdout(), "the program's own words").unwrap();
    if std::env::var_os("TINY_FAILS").is_some() {
        std::process::exit(3);
    }
}

fn record(flags: &[&str], env: &[(&str, &str)]) -> common::Ran {
    let this = std::env::current_exe().unwrap();
    let mut record = command();
    record.arg("record").args(flags).arg("--").arg(this);
    record
        .args(["--ignored", "--exact", "the_program", "--nocapture"])
        .envs(env.iter().copied());
    ran(record.output().unwrap())
}

#[test]
fn recording_tells_what_was_recorded() {
    let dir = TempDir::new().unwrap();
    let into = dir.path().join("new/db");
    let ran = record(&["--into", text(&into), "--name", "tiny"], &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("✓ recorded tiny: 2 records of 1 stage, 2 tokens"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("the program's own words") && !ran.stdout.contains("recorded tiny"));
    let again = record(
        &["--into", text(&into), "--name", "tiny", "--format", "json"],
        &[],
    );
    let report = again.json();
    assert_eq!(
        (again.code, report["runs"][0]["name"].as_str()),
        (0, Some("tiny-2"))
    );
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    assert!(again.stderr.contains("the program's own words"));
}

#[test]
fn recording_fails_with_2_whatever_the_reason() {
    let dir = TempDir::new().unwrap();
    let into = text(dir.path());
    let failed = record(&["--into", into, "--name", "f"], &[("TINY_FAILS", "1")]);
    assert!(
        failed.code == 2 && failed.stderr.contains("exit status: 3"),
        "{}",
        failed.stderr
    );
    assert!(
        failed.stderr.contains("recorded f: 2 records"),
        "{}",
        failed.stderr
    );
    for (args, says) in [
        (&["record", "--into", into, "--", "true"][..], "recorded nothing"),
        (
            &["record", "--into", into, "--", "/no/such/program"],
            "cannot run",
        ),
        (
            &["record", "--into", "/proc/nowhere", "--", "true"],
            "cannot write into",
        ),
        (
            &["record", "--into", into, "--name", "../x", "--", "true"],
            "is not a run name",
        ),
    ] {
        let ran = run(args);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{args:?}: {}",
            ran.stderr
        );
    }
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
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        ..Made::default()
    };
    let right = right.record(dir.path());
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
        failed.code == 2 && failed.stderr.contains("it is incomplete: the recorder gave up"),
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
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        ..Made::default()
    };
    let right = right.record(dir.path());
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
    let script = "mkdir $BITNET_TRACE_DIR/run=bad && echo x > $BITNET_TRACE_DIR/run=bad/run.json";
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
