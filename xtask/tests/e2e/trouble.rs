//! A disk that fills up, a directory that goes away or cannot be written: the engines say what they say without
//! recording, and no verdict takes such a run for a whole one.

use crate::support::*;
use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A file system of its own; none where this process may not mount one.
struct Mounted(TempDir);

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then(|| Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Both engines on the Q4_1 model, generating `max_tokens`.
fn engines(max_tokens: usize) -> [(&'static str, Vec<String>); 2] {
    let model = q4().to_string_lossy().into_owned();
    ["cpp-runner", "bitnet-cli"].map(|name| {
        let mut args = vec![program(name).to_string_lossy().into_owned()];
        if name == "bitnet-cli" {
            args.push("run".into());
        }
        args.extend(["--model", &model, "--tokens", PROMPT_IDS, "--max-tokens"].map(String::from));
        args.push(max_tokens.to_string());
        (name, args)
    })
}

fn command(args: &[String]) -> Command {
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]);
    command
}

/// Asserts that an engine went on as if it were alone, and said once why it is not recorded.
#[track_caller]
fn assert_unmoved(name: &str, alone: &Done, done: &Done) {
    assert_eq!(
        (done.code, &done.stdout),
        (0, &alone.stdout),
        "{name}: {}",
        done.stderr
    );
    assert!(!alone.stdout.trim().is_empty());
    let told = done.stderr.lines().filter(|l| l.starts_with("bitnet-trace: "));
    assert_eq!(told.count(), 1, "{name}: {}", done.stderr);
}

/// Asserts that every command says of a run that it is incomplete.
#[track_caller]
fn assert_incomplete(name: &str, run: &Path) {
    let (run, db) = (
        run.to_string_lossy(),
        run.parent().expect("a database").to_string_lossy(),
    );
    for command in ["first", "compare", "tokens"] {
        let done = diff(&[command, &run, &run]);
        assert_eq!(done.code, 2, "{name} {command}: {}{}", done.stdout, done.stderr);
        assert!(
            done.stderr.contains("incomplete"),
            "{name} {command}: {}",
            done.stderr
        );
    }
    let runs = diff(&["runs", &db, "--format", "json"]).json();
    let line = &runs["runs"][0];
    assert_eq!(
        (&line["complete"], &line["state"]),
        (&false.into(), &"failed".into()),
        "{name}: {line:#}"
    );
    assert!(line["dropped"].as_u64() > Some(0), "{name}: {line:#}");
    if line["records"].as_u64() > Some(0) {
        let accepted = diff(&["first", &run, &run, "--allow-incomplete"]);
        assert_eq!(accepted.code, 0, "{name}: {}{}", accepted.stdout, accepted.stderr);
        assert!(
            accepted.stdout.contains("is incomplete"),
            "{name}: {}",
            accepted.stdout
        );
        let query = diff(&["query", &db, "--seq", "0", "--stage", "embeddings"]);
        assert!(query.stdout.contains("is incomplete"), "{name}: {}", query.stdout);
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_disk_that_fills_up_changes_nothing_that_an_engine_says() {
    for (name, args) in engines(12) {
        let alone = run(&mut command(&args));
        // As a disk quota shows itself: the files may not become larger.
        let db = Db::new();
        let mut limited = Command::new("bash");
        limited
            .args(["-c", "ulimit -f 2048; exec \"$@\"", "limited"])
            .args(&args);
        let done = run(limited
            .env("BITNET_TRACE_DIR", db.path())
            .env("BITNET_TRACE_RUN", "full"));
        assert_unmoved(name, &alone, &done);
        assert_incomplete(name, Path::new(&db.at("full")));

        let Some(small) = Mounted::new("size=4m") else {
            eprintln!("no file system could be mounted: tried with a limit on files only");
            continue;
        };
        let dir = small.0.path().join("traces");
        let done = run(command(&args)
            .env("BITNET_TRACE_DIR", &dir)
            .env("BITNET_TRACE_RUN", "full"));
        assert_unmoved(name, &alone, &done);
        assert_incomplete(name, &dir.join("run=full"));
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_directory_that_is_deleted_while_it_is_recorded_into_changes_nothing_that_an_engine_says() {
    for (name, args) in engines(24) {
        let alone = run(&mut command(&args));
        let dir = tempfile::tempdir().expect("a folder");
        let db = dir.path().join("traces");
        let mut recorded = command(&args);
        recorded
            .env("BITNET_TRACE_DIR", &db)
            .env("BITNET_TRACE_RUN", "gone")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = recorded.spawn().expect("it starts");
        let part = db.join("run=gone/part-00000.parquet.open");
        let patience = Instant::now();
        while !part.exists() && patience.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The recorder may make a file in a folder whose files have just been deleted.
        while let Err(error) = fs::remove_dir_all(&db) {
            assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
        }
        let out = child.wait_with_output().expect("it ends");
        let done = Done {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        };
        assert_unmoved(name, &alone, &done);
        assert!(!db.join("run=gone/part-00000.parquet").exists());
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_file_system_that_is_read_only_is_one_warning() {
    let Some(readonly) = Mounted::new("ro,size=1m") else {
        eprintln!("skipped: no file system could be mounted");
        return;
    };
    for (name, args) in engines(4) {
        let alone = run(&mut command(&args));
        let done = run(command(&args).env("BITNET_TRACE_DIR", readonly.0.path()));
        assert_unmoved(name, &alone, &done);
        assert!(
            done.stderr.contains("nothing is recorded"),
            "{name}: {}",
            done.stderr
        );
        let dir = readonly.0.path().to_string_lossy().into_owned();
        let examined = diff(
            &[
                &["doctor", "--into", &dir, "--"],
                &args.iter().map(String::as_str).collect::<Vec<_>>()[..],
            ]
            .concat(),
        );
        assert_eq!(examined.code, 2, "{}", examined.stdout);
        // Lines are wrapped, where depends on how long the paths are.
        let words: Vec<&str> = examined.stdout.split_whitespace().collect();
        assert!(
            examined.stdout.contains(&dir) && words.join(" ").contains("records: "),
            "{}",
            examined.stdout
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn recording_is_found_to_leave_both_engines_as_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let into = dir.path().to_string_lossy().into_owned();
    for (name, args) in engines(4) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let flags = [
            "doctor",
            "--observer",
            "--runs",
            "2",
            "--into",
            &into,
            "--format",
            "json",
            "--",
        ];
        let done = diff(&[&flags[..], &args].concat());
        let seen = done.json();
        let seen = &seen["observer"];
        assert_eq!(done.code, 0, "{name}: {seen:#}");
        assert_eq!(
            (&seen["text"]["outcome"], &seen["logits"]["outcome"]),
            (&"same".into(), &"same".into())
        );
        // each of 2 runs against the first that recorded nothing but them
        assert_eq!(
            seen["logits"]["compared"],
            2 * (PROMPT_LEN + 3),
            "{name}: {seen:#}"
        );
        let observation = &seen["observation"];
        assert_eq!(
            observation["fusion_may_differ"],
            name == "cpp-runner",
            "{name}: {observation}"
        );
        assert_eq!(observation["threads_may_differ"], false);
    }
}
