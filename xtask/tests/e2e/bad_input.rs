//! Bad input is one clear message and exit code 2; an unwritable trace never stops an engine.

use crate::support::*;
use std::{fs, process::Command};

#[track_caller]
fn assert_one_clear_error(done: &Done, says: &str) {
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains(says), "{says:?} is not in: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_model_that_is_missing_or_is_none_stops_both_engines() {
    let dir = tempfile::tempdir().expect("a folder");
    let (missing, text, cut) = (
        dir.path().join("none.gguf"),
        dir.path().join("text.gguf"),
        dir.path().join("cut.gguf"),
    );
    fs::write(&text, "hello\n").expect("written");
    let whole = fs::read(q4()).expect("the model");
    fs::write(&cut, &whole[..100_000]).expect("written");
    for model in [&missing, &text, &cut] {
        let name = model.file_name().expect("a name").to_string_lossy().into_owned();
        let args = ["--prompt", "hi", "--max-tokens", "1"];
        assert_one_clear_error(
            &run(Command::new(program("cpp-runner"))
                .arg("--model")
                .arg(model)
                .args(args)),
            &name,
        );
        assert_one_clear_error(
            &run(Command::new(program("bitnet-cli"))
                .arg("run")
                .arg("--model")
                .arg(model)
                .args(args)),
            &name,
        );
        let xtask = env!("CARGO_BIN_EXE_xtask");
        assert_one_clear_error(
            &run(Command::new(xtask)
                .arg("crossval-per-token")
                .arg("--model")
                .arg(model)
                .args(args)),
            &name,
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn runs_that_are_unknown_empty_or_cut_are_errors() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    let good = db.at("cpp");
    assert_one_clear_error(&diff(&["first", &good, &db.at("nobody")]), "nobody");
    assert_one_clear_error(&diff(&["first", "--nonsense"]), "--nonsense");

    let empty = tempfile::tempdir().expect("a folder");
    let empty_path = empty.path().to_string_lossy();
    assert_one_clear_error(&diff(&["first", &empty_path, &empty_path]), &empty_path);
    let file = empty.path().join("file");
    fs::write(&file, "").expect("written");
    assert_one_clear_error(&diff(&["query", &file.to_string_lossy(), "--seq", "3"]), "file");

    let cut = Db::new();
    fs::create_dir(cut.at("x")).expect("created");
    let manifest = fs::read_to_string(format!("{good}/run.json")).expect("read");
    fs::write(format!("{}/run.json", cut.at("x")), manifest).expect("written");
    let part = fs::read(format!("{good}/part-00000.parquet")).expect("read");
    fs::write(format!("{}/part-00000.parquet", cut.at("x")), &part[..5000]).expect("written");
    assert_one_clear_error(&diff(&["first", &cut.at("x"), &good]), "part-00000.parquet");
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn an_unwritable_trace_directory_is_a_warning_to_the_engine_and_an_error_to_record() {
    let nowhere = "/proc/nowhere";
    let silent = run(&mut cpp(&q4()));
    let warned = run(cpp(&q4()).env("BITNET_TRACE_DIR", nowhere));
    assert_eq!(
        (warned.code, &warned.stdout),
        (0, &silent.stdout),
        "the engine goes on: {}",
        warned.stderr
    );
    assert_eq!(
        warned.stderr.matches(nowhere).count(),
        1,
        "one warning: {}",
        warned.stderr
    );

    let model = q4().to_string_lossy().into_owned();
    let engine = ["run", "--model", &model, "--prompt", "hi", "--max-tokens", "2"];
    let silent = run(Command::new(program("bitnet-cli")).args(engine));
    let warned = run(Command::new(program("bitnet-cli"))
        .args(engine)
        .env("BITNET_TRACE_DIR", nowhere));
    assert_eq!(
        (warned.code, &warned.stdout),
        (0, &silent.stdout),
        "the engine goes on: {}",
        warned.stderr
    );
    assert_eq!(
        warned.stderr.matches(nowhere).count(),
        1,
        "one warning: {}",
        warned.stderr
    );

    let cpp_runner = program("cpp-runner").to_string_lossy().into_owned();
    let program_args = [
        "--",
        &cpp_runner,
        "--model",
        &model,
        "--prompt",
        "hi",
        "--max-tokens",
        "1",
    ];
    let recorded = diff(&[&["record", "--into", nowhere], &program_args[..]].concat());
    assert_one_clear_error(&recorded, nowhere);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_wrong_engine_folder_lists_every_path_that_was_searched() {
    let dir = tempfile::tempdir().expect("a folder");
    let done = run(Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args([
            "crossval-per-token",
            "--prompt",
            "hi",
            "--max-tokens",
            "1",
            "--model",
        ])
        .arg(q4())
        .env("BITNET_CPP_DIR", dir.path()));
    assert_one_clear_error(&done, "include/llama.h");
    assert!(
        done.stderr.contains("libllama.so") && done.stderr.contains("unset"),
        "{}",
        done.stderr
    );
}
