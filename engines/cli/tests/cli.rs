//! The program as a user calls it: what comes out where, and with which exit code.
#![allow(clippy::unwrap_used)] // a failed test is a panic

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn cli(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-cli"));
    command
        .args(args)
        .env_remove("BITNET_TRACE_DIR")
        .env_remove("BITNET_TRACE_RUN");
    command
}

fn run(args: &[&str]) -> Output {
    cli(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn tiny() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let output = run(&["tiny", path.to_str().unwrap(), "--type", "q4_1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    (dir, path)
}

fn run_tiny(model: &Path, more: &[&str]) -> Output {
    let head = ["run", "--model", model.to_str().unwrap()];
    run(&[&head, more].concat())
}

#[test]
fn the_continuation_goes_to_stdout_and_the_ids_to_stderr_when_asked() {
    let (_dir, model) = tiny();
    let quiet = run_tiny(
        &model,
        &["--prompt", "The capital", "--max-tokens", "4", "--ignore-eos"],
    );
    assert_eq!((quiet.status.code(), stderr(&quiet).as_str()), (Some(0), ""));
    assert!(stdout(&quiet).ends_with('\n'));
    let args = [
        "--prompt",
        "The capital",
        "--max-tokens",
        "4",
        "--ignore-eos",
        "--verbose",
    ];
    let verbose = run_tiny(&model, &args);
    assert_eq!(stdout(&verbose), stdout(&quiet));
    assert!(
        stderr(&verbose).contains("prompt ids:    307,311\n"),
        "{}",
        stderr(&verbose)
    );
}

#[test]
fn ids_in_place_of_text_give_the_same_continuation() {
    let (_dir, model) = tiny();
    let rest = [
        "--max-tokens",
        "4",
        "--ignore-eos",
        "--batch",
        "1",
        "--threads",
        "1",
    ];
    let text = run_tiny(&model, &[&["--prompt", "The capital"][..], &rest].concat());
    let ids = run_tiny(&model, &[&["--tokens", "307,311"][..], &rest].concat());
    assert_eq!((ids.status.code(), stdout(&ids)), (Some(0), stdout(&text)));
}

#[test]
fn forced_ids_are_what_is_printed() {
    let (_dir, model) = tiny();
    let force = [
        "--tokens",
        "306",
        "--teacher-force",
        "102,103,104",
        "--max-tokens",
        "2",
    ];
    let output = run_tiny(&model, &force);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "bc\n")
    );
}

#[test]
fn every_error_is_exit_code_2_with_one_message_and_an_empty_stdout() {
    let (dir, model) = tiny();
    let text_file = dir.path().join("text.gguf");
    std::fs::write(&text_file, "Once upon a time").unwrap();
    let cut = dir.path().join("cut.gguf");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let missing = dir.path().join("missing.gguf");
    for (path, reason) in [
        (&missing, "cannot open"),
        (&text_file, "not a GGUF file"),
        (&cut, "cut short"),
    ] {
        let output = run_tiny(path, &["--prompt", "a"]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
        let message = stderr(&output);
        assert!(
            message.starts_with("bitnet-cli: error: ") && message.contains(reason),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let output = run_tiny(&model, &["--tokens", "1,99999"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("token id 99999 is outside"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn usage_errors_are_exit_code_2_and_help_is_0() {
    let (_dir, model) = tiny();
    let path = model.to_str().unwrap();
    for args in [
        &["run"][..],
        &["run", "--model", path],
        &["run", "--model", path, "--prompt", "a", "--tokens", "1"],
        &["run", "--model", path, "--tokens", "1,x"],
        &["run", "--model", path, "--prompt", "a", "--batch", "0"],
        &["run", "--model", path, "--prompt", "a", "--threads", "0"],
        &["fly"],
        &[],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        assert_eq!(run(args).status.code(), Some(0), "{args:?}");
    }
    assert!(stdout(&run(&["run", "--help"])).contains("Examples:"));
}

#[test]
fn a_dequantised_copy_runs_and_says_nothing() {
    let (dir, model) = tiny();
    let copy = dir.path().join("f32.gguf");
    let output = run(&["dequantize", model.to_str().unwrap(), copy.to_str().unwrap()]);
    assert_eq!(
        (output.status.code(), stdout(&output) + &stderr(&output)),
        (Some(0), String::new())
    );
    assert_eq!(
        run_tiny(&copy, &["--prompt", "a", "--max-tokens", "1"])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(
        run(&["dequantize", "no-such.gguf", "out.gguf"]).status.code(),
        Some(2)
    );
}

#[cfg(not(feature = "trace"))]
#[test]
fn a_build_that_cannot_record_says_so_and_goes_on() {
    let (dir, model) = tiny();
    let output = cli(&[
        "run",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "a",
        "--max-tokens",
        "1",
    ])
    .env("BITNET_TRACE_DIR", dir.path().join("traces"))
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("--features trace"),
        "{}",
        stderr(&output)
    );
    assert!(!dir.path().join("traces").exists());
}

#[cfg(feature = "trace")]
mod trace {
    use super::*;

    fn traced(model: &Path, traces: &Path, more: &[&str]) -> Output {
        let head = [
            "run",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            "The capital",
            "--max-tokens",
            "2",
        ];
        cli(&[&head, more].concat())
            .env("BITNET_TRACE_DIR", traces)
            .env("BITNET_TRACE_RUN", "test")
            .output()
            .unwrap()
    }

    #[test]
    fn a_run_is_recorded_and_sealed_where_the_environment_says() {
        let (dir, model) = tiny();
        let traces = dir.path().join("deep/traces");
        let output = traced(&model, &traces, &["--verbose"]);
        assert_eq!(output.status.code(), Some(0));
        // 3 positions, 4 layers of 19 stages and 4 more
        let records = 3 * (4 * 19 + 4);
        assert!(
            stderr(&output).contains(&format!("{records} records in")),
            "{}",
            stderr(&output)
        );
        let manifest = std::fs::read_to_string(traces.join("run=test/run.json")).unwrap();
        assert!(manifest.contains("\"complete\""), "{manifest}");
        assert!(traces.join("run=test/part-00000.parquet").is_file());
    }

    #[test]
    fn an_engine_that_gives_up_leaves_a_failed_run_that_says_why() {
        let (dir, model) = tiny();
        let traces = dir.path().join("traces");
        let output = traced(&model, &traces, &["--batch", "1", "--teacher-force", "999999"]);
        assert_eq!(output.status.code(), Some(2));
        let manifest = std::fs::read_to_string(traces.join("run=test/run.json")).unwrap();
        for says in ["\"state\": \"failed\"", "outside the vocabulary"] {
            assert!(manifest.contains(says), "{manifest}");
        }
    }

    #[test]
    fn an_unusable_trace_directory_is_a_warning_and_the_engine_goes_on() {
        let (dir, model) = tiny();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let output = traced(&model, &file.join("traces"), &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(!stdout(&output).is_empty());
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;

    #[test]
    fn a_planted_fault_changes_the_logits_and_a_bad_one_is_refused() {
        let (_dir, model) = tiny();
        let args = |fault| ["--prompt", "a", "--max-tokens", "1", "--fault", fault];
        assert_eq!(
            run_tiny(&model, &args("rms-eps=1e-2@layer=1,from=0"))
                .status
                .code(),
            Some(0)
        );
        for (fault, reason) in [
            ("rms-eps", "needs a value"),
            ("earthquake", "no fault \"earthquake\""),
            ("missing-residual@layer=9", "layers 0 to 3"),
        ] {
            let output = run_tiny(&model, &args(fault));
            assert_eq!(output.status.code(), Some(2));
            assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        }
    }

    #[test]
    fn help_lists_every_fault() {
        let help = stdout(&run(&["run", "--help"]));
        for class in bitnet_models::FAULTS {
            assert!(help.contains(&class.form()), "{}", class.name);
        }
    }
}

#[cfg(not(feature = "faults"))]
#[test]
fn a_build_without_faults_does_not_know_the_option() {
    let (_dir, model) = tiny();
    let output = run_tiny(&model, &["--prompt", "a", "--fault", "missing-residual"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stdout(&run(&["run", "--help"])).contains("--fault"));
}
