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
        "recover",
        "record",
        "export",
        "import",
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
        let ran = two(
            "first",
            &left,
            &right,
            &[&["--all", "--format", "json"], flags].concat(),
        );
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
fn a_program_is_rerun_for_a_floor_and_its_runs_are_kept_only_where_asked() {
    let dir = TempDir::new().unwrap();
    let this = std::env::current_exe().unwrap();
    let auto = |flags: &[&str], fails: bool| {
        let mut calibrate = command();
        calibrate
            .arg("calibrate")
            .arg("--auto")
            .args(flags)
            .current_dir(dir.path());
        calibrate
            .arg("--")
            .arg(&this)
            .args(["--ignored", "--exact", "the_program"]);
        if fails {
            calibrate.env("TINY_FAILS", "1");
        }
        ran(calibrate.output().unwrap())
    };
    let found = |name: &str| dir.path().join(name).exists();
    let done = auto(&["-o", "floor.toml", "--also", "--nocapture"], false);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout.contains("6 pairs, 4 runs of 1 prompt"),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("expect false alarms"), "{}", done.stdout);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "only the floor is left"
    );
    let kept = auto(&["-o", "floor.toml", "--into", "kept"], false);
    assert!(kept.code == 0 && found("kept/run=prompt-1-3"), "{}", kept.stderr);

    for (flags, fails, why) in [
        (&["-o", "none.toml"][..], true, "failed: exit status: 3"),
        (
            &["-o", "none.toml", "--prompt", "hi"][..],
            false,
            "which is where each prompt is put",
        ),
        (&["-o", "no/where.toml"][..], false, "no/where.toml"),
    ] {
        let done = auto(flags, fails);
        assert_eq!(done.code, 2, "{}", done.stdout);
        assert!(done.stderr.contains(why), "{why}: {}", done.stderr);
        assert!(!found("none.toml"));
    }
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
    let started = dir.path().join("started");
    let started = text(&started);
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
        (
            &[
                "record",
                "--into",
                into,
                "--select",
                "seq=0,layer=six",
                "--",
                "touch",
                started,
            ],
            "--select is wrong: column 13, \"six\"",
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
fn recording_passes_a_selection_on_and_refuses_a_wrong_one_before_the_program_starts() {
    let dir = TempDir::new().unwrap();
    let into = text(dir.path());
    let env = [("BITNET_TRACE_SELECT", "seq=5")];
    let some = record(
        &["--into", into, "--name", "some", "--select", "seq=1-,layer=-1"],
        &env,
    );
    assert!(
        some.code == 0
            && some
                .stderr
                .contains("recorded some: 1 record of 1 stage, 2 tokens"),
        "{}",
        some.stderr
    );
    assert!(
        some.stderr.contains("selected: seq=1-,layer=-1"),
        "{}",
        some.stderr
    );
    let none = record(&["--into", into, "--format", "json"], &env);
    let report = none.json();
    assert_eq!(
        (none.code, &report["error"]["kind"]),
        (2, &"nothing_selected".into())
    );
    assert_eq!(report["runs"][0]["selection"], "seq=5");
    assert!(
        none.stderr.contains("matched none"),
        "the recorder says so too: {}",
        none.stderr
    );
    let all = record(&["--into", into, "--name", "all", "--select", ""], &env);
    assert!(all.stderr.contains("recorded all: 2 records"), "{}", all.stderr);

    let wrong = record(
        &["--into", into, "--name", "wrong"],
        &[("BITNET_TRACE_SELECT", "stage=a b")],
    );
    assert!(
        wrong.code == 2
            && wrong
                .stderr
                .contains("BITNET_TRACE_SELECT is wrong: column 9, \"b\""),
        "{}",
        wrong.stderr
    );
    assert!(
        wrong.stderr.contains("  stage=a b\n          ^\n"),
        "{}",
        wrong.stderr
    );
    assert!(!wrong.stdout.contains("own words") && !dir.path().join("run=wrong").exists());
}

/// Pins a defect: Ctrl-C ended `record` without a report and left a program that handles it alone.
#[cfg(unix)]
#[test]
fn ctrl_c_is_for_the_program_and_the_report_comes_after_it() {
    let dir = TempDir::new().unwrap();
    let program = "kill -INT $PPID; sleep 0.3; echo finished";
    let ran = run(&["record", "--into", text(dir.path()), "--", "sh", "-c", program]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("finished") && ran.stderr.contains("recorded nothing"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_run_whose_process_died_is_recovered_once_and_stays_incomplete() {
    let (dir, left, right) = database();
    let db = text(dir.path());
    let path = right.join("run.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["state"] = "recording".into();
    manifest["owner"] = serde_json::json!({ "pid": u32::MAX });
    std::fs::write(&path, manifest.to_string()).unwrap();

    let once = run(&["recover", db]);
    assert_eq!(once.code, 0, "{}", once.stderr);
    assert!(
        once.stdout.contains("✓ right: recovered; it has "),
        "{}",
        once.stdout
    );
    assert!(
        once.stdout.contains("· left: complete, nothing to do"),
        "{}",
        once.stdout
    );
    let again = run(&["recover", text(&right), "--format", "json"]).json();
    assert_eq!(again["runs"][0]["outcome"], "ended");
    assert_eq!(again["runs"][0]["state"], "recovered");
    let nothing = run(&["recover", "/nowhere"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (2, ""));

    let verdict = two("first", &left, &right, &[]);
    assert_eq!(verdict.code, 2, "{}", verdict.stdout);
    let said = verdict.stdout.replace("\n    ", " ") + &verdict.stderr.replace('\n', " ");
    assert!(said.contains("ended without closing the run"), "{said}");
    assert_eq!(two("first", &left, &right, &["--allow-incomplete"]).code, 1);
}
