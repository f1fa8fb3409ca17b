//! Recorders that are killed: what is left opens, is right, and nothing is lost but what the queue held.
//!
//! `make crash` does it 200 times; here it is a few.
#![allow(clippy::unwrap_used)]

mod check;
mod child;

use bitnet_trace_store::{Completeness, Database, Reason, RecoverOutcome, Run, recover};
use check::{Outcome, check};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Not a test: the process that is killed.
#[test]
#[ignore = "started by the other tests"]
fn child_process() {
    child::run();
}

/// Waits until `dir` holds a file.
fn wait_for(dir: &Path, file: &str) {
    let begin = Instant::now();
    while !dir.join(file).exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no {file}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a child that ends by itself.
fn ends(role: &str, dir: &Path) {
    assert!(!child::start(role, dir).wait().unwrap().success() || role == "exit");
}

#[test]
fn killed_at_any_moment_a_run_loses_nothing_but_what_the_queue_held() {
    let runs: u64 = std::env::var("CRASH_RUNS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10);
    let seed: u64 = std::env::var("CRASH_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()));
    // on a real file system, as tests' temporary directories may be in memory
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash");
    let _ = std::fs::remove_dir_all(&scratch);
    let mut state = seed;
    let (mut all, mut kept) = (Vec::new(), 0);
    for n in 0..runs {
        let dir = scratch.join(n.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let mut child = child::start("record", &dir);
        // one in eight at the very beginning, the others within a second
        if !child::random(&mut state).is_multiple_of(8) {
            wait_for(&dir, "accepted");
            std::thread::sleep(Duration::from_micros(child::random(&mut state) % 1_000_000));
        } else {
            std::thread::sleep(Duration::from_micros(child::random(&mut state) % 60_000));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let outcome = check(&dir, "a");
        assert!(
            outcome.lost <= child::QUEUE as u64,
            "seed {seed}, run {n}: {outcome:?}"
        );
        if runs > 20 && n % 20 == 0 {
            println!("{n:>4}: {outcome:?}");
        }
        // some are kept for other readers
        if outcome.saved > 0 && kept < 8 {
            kept += 1;
        } else {
            std::fs::remove_dir_all(&dir).unwrap();
        }
        all.push(outcome);
    }
    report(seed, &all);
    if kept > 0 {
        foreign(&scratch);
    }
    std::fs::remove_dir_all(&scratch).unwrap();
}

/// What all runs came to.
fn report(seed: u64, all: &[Outcome]) {
    let sum = |of: fn(&Outcome) -> u64| all.iter().map(of).sum::<u64>();
    let most = |of: fn(&Outcome) -> u64| all.iter().map(of).max().unwrap_or(0);
    println!(
        "{} runs killed (seed {seed}): {} records in {} parts, {} of them saved from open parts\n\
         tensors taken: {:.1} MB; lost: {:.1} MB in {} tensors, at most {:.2} MB of one run (queue_bytes is {:.2} MB)",
        all.len(),
        sum(|o| o.records),
        sum(|o| o.parts as u64),
        sum(|o| o.saved),
        sum(|o| o.taken) as f64 / 1e6,
        sum(|o| o.lost) as f64 / 1e6,
        sum(|o| o.lost_tensors),
        most(|o| o.lost) as f64 / 1e6,
        child::QUEUE as f64 / 1e6,
    );
    // of a few runs, all may have been killed early
    if all.len() >= 50 {
        assert!(sum(|o| o.saved) > 0, "no run had an open part");
        assert!(most(|o| o.parts as u64) > 1, "no run had several parts");
    }
}

/// DuckDB, pyarrow and Polars read recovered parts, where the set-up has installed them.
fn foreign(runs: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join("target/venv/bin/python");
    if !python.exists() {
        println!("recovered parts were not read by DuckDB, pyarrow and Polars: `make setup` installs them");
        return;
    }
    let ran = Command::new(python)
        .arg(root.join("scripts/check_parts.py"))
        .arg(runs)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    print!("{text}");
}

#[test]
fn an_idle_engine_that_is_killed_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child::start("idle", dir.path());
    wait_for(dir.path(), "done");
    std::thread::sleep(Duration::from_millis(1000)); // twenty times what the writer waits
    child.kill().unwrap();
    child.wait().unwrap();
    let outcome = check(dir.path(), "a");
    assert_eq!((outcome.lost_tensors, outcome.records), (0, 40 * child::THREADS));
}

#[test]
fn a_host_that_aborts_faults_or_leaves_is_recovered() {
    for role in ["abort", "fault", "exit"] {
        let dir = tempfile::tempdir().unwrap();
        ends(role, dir.path());
        let outcome = check(dir.path(), "a");
        assert!(outcome.lost <= child::QUEUE as u64, "{role}: {outcome:?}");
        assert!(outcome.records > 0, "{role}");
        let run = Run::open(dir.path().join("run=a")).unwrap();
        let Completeness::Incomplete { reasons } = run.completeness() else {
            panic!("{role}: it crashed")
        };
        assert!(
            matches!(reasons[..], [Reason::Recovered { .. }]),
            "{role}: {reasons:?}"
        );
    }
}

#[test]
fn two_recorders_of_one_process_are_both_recovered() {
    let dir = tempfile::tempdir().unwrap();
    ends("two", dir.path());
    let database = Database::open(dir.path()).unwrap();
    let runs: Vec<_> = database
        .runs()
        .iter()
        .map(|r| (r.name.as_str(), r.records))
        .collect();
    assert_eq!(runs, [("a", 1), ("a-2", 40 * child::THREADS)]);
}

#[test]
fn two_processes_with_one_name_record_two_runs_and_one_is_not_taken_for_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = child::start("record", dir.path());
    wait_for(dir.path(), "accepted");
    let mut second = child::start("idle", dir.path());
    wait_for(dir.path(), "done");
    std::thread::sleep(Duration::from_millis(500));
    second.kill().unwrap();
    second.wait().unwrap();
    let database = Database::open(dir.path()).unwrap(); // while the first records
    let [a, b] = database.runs() else {
        panic!("two runs")
    };
    assert!(
        matches!(a.completeness.reasons()[0], Reason::Recording { .. }),
        "{a:?}"
    );
    assert!(
        matches!(b.completeness.reasons()[0], Reason::Recovered { .. }),
        "{b:?}"
    );
    assert_eq!((b.name.as_str(), b.records), ("a-2", 40 * child::THREADS));
    first.kill().unwrap();
    first.wait().unwrap();
    let report = recover(&dir.path().join("run=a"), Default::default()).unwrap();
    assert!(
        matches!(report.outcome, RecoverOutcome::Recovered { .. }),
        "{report:?}"
    );
}

#[test]
fn a_run_whose_process_died_is_recovered_while_a_child_that_it_forked_lives() {
    let dir = tempfile::tempdir().unwrap();
    ends("fork", dir.path());
    let path = dir.path().join("run=a");
    let report = recover(&path, Default::default()).unwrap(); // while the child lives
    assert!(
        matches!(report.outcome, RecoverOutcome::Recovered { .. }),
        "{report:?}"
    );
    let outcome = check(dir.path(), "a");
    assert!(outcome.lost <= child::QUEUE as u64, "{outcome:?}");
}

#[test]
fn a_recovery_that_is_killed_again_and_again_comes_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child::start("record", dir.path());
    wait_for(dir.path(), "accepted");
    std::thread::sleep(Duration::from_millis(700));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut state = 1;
    for _ in 0..20 {
        let mut reader = child::start("recover", dir.path());
        std::thread::sleep(Duration::from_micros(child::random(&mut state) % 40_000));
        let _ = reader.kill(); // it may have ended
        reader.wait().unwrap();
    }
    let outcome = check(dir.path(), "a");
    assert!(outcome.lost <= child::QUEUE as u64, "{outcome:?}");
}
