//! Why nothing is recorded, and whether recording changes what a program gives.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Ran, check_schema, command, ran};
use std::{fs, io::Write, path::Path};
use tempfile::TempDir;

/// The program under examination: this very file, started again. TINY says how it behaves.
#[test]
#[ignore = "is started by `bitnet-diff doctor` in the tests below"]
fn the_program() {
    use bitnet_trace::{Engine, Recorder, Slice, Tap};
    let is = |what: &str| std::env::var_os("TINY").is_some_and(|t| t == what);
    let mut out = std::io::stdout();
    let traced = std::env::var_os("BITNET_TRACE_DIR").is_some();
    if is("off") {
        return;
    }
    let recorder = Recorder::from_env(Engine::new("tiny", "1"));
    // As an engine whose operators are fused unless q_proj is looked at.
    let looked_at = recorder.wants(&Tap::new("q_proj", 0, 0));
    let mut logits = [1.0f32, 2.0];
    if is("fused") && looked_at {
        logits[1] += 1e-3;
    }
    if is("noise") {
        logits[0] = std::process::id() as f32;
        writeln!(out, "process {}", std::process::id()).unwrap();
    }
    if is("clock") {
        writeln!(out, "process {}", std::process::id()).unwrap();
    }
    if !is("empty") {
        recorder.tokens(0, 0, &[7]);
        recorder.record(Tap::new("q_proj", 0, 0), &Slice::new(&[3.0f32; 64], &[64]));
        if !is("text") {
            recorder.record(Tap::new("logits", -1, 0), &Slice::new(&logits, &[2]));
        }
    }
    let second = if is("shy") && traced { "watched" } else { "alone" };
    // The harness may have begun a line.
    writeln!(out, "\nsaid\n{second}").unwrap();
    out.flush().unwrap();
    if is("aborts") {
        std::process::abort();
    }
    recorder.finish().unwrap();
    if is("fails") || (is("breaks") && traced) {
        std::process::exit(3);
    }
}

fn doctor(into: &Path, flags: &[&str], tiny: &str, env: &[(&str, &str)]) -> Ran {
    let mut doctor = command();
    doctor.arg("doctor").arg("--into").arg(into).args(flags).arg("--");
    // Without the harness's own lines, one of which has a time.
    let program = "exec \"$0\" --ignored --exact the_program --nocapture | grep -v -e '^test' -e '^running'; \
                   exit ${PIPESTATUS[0]}";
    doctor
        .args(["bash", "-c", program])
        .arg(std::env::current_exe().unwrap());
    let done = ran(doctor
        .env("TINY", tiny)
        .envs(env.iter().copied())
        .output()
        .unwrap());
    assert_eq!(
        fs::read_dir(into).map_or(0, |d| d.count()),
        0,
        "something was left behind"
    );
    done
}

#[test]
fn a_program_that_records_is_in_order() {
    let dir = TempDir::new().unwrap();
    let told = doctor(dir.path(), &[], "", &[]);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert!(
        told.stdout
            .contains("bash records: 2 records of 2 stages, 1 token"),
        "{}",
        told.stdout
    );
    assert!(!told.stdout.contains('✗'));
    let alone = ran(command()
        .args(["doctor", "--into"])
        .arg(dir.path())
        .output()
        .unwrap());
    assert_eq!(alone.code, 0, "{}", alone.stdout);
    assert!(alone.stdout.contains("can be written"));
}

#[test]
fn each_reason_why_nothing_is_recorded_is_told() {
    let dir = TempDir::new().unwrap();
    for (tiny, flags, says) in [
        (
            "off",
            &[][..],
            "ran with BITNET_TRACE_DIR set and recorded nothing",
        ),
        ("empty", &[], "handed it no tensor"),
        ("fails", &[], "exit status: 3"),
        ("aborts", &[], "is incomplete"),
        (
            "",
            &["--select", "stage=q_rope"],
            "matched none of 2 records: their stages are logits, q_proj, layers -1 to 0, positions 0 to 0",
        ),
    ] {
        let told = doctor(dir.path(), flags, tiny, &[]);
        let flat = told.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.code == 2 && flat.contains(says), "{tiny}: {}", told.stdout);
    }
    let misspelt = doctor(dir.path(), &[], "", &[("BITNET_TRACE_SELCT", "x")]);
    assert!(
        misspelt.code == 2 && misspelt.stdout.contains("BITNET_TRACE_SELECT"),
        "{}",
        misspelt.stdout
    );
    let away = ran(command()
        .args(["doctor", "--into", "/proc/nowhere"])
        .output()
        .unwrap());
    assert!(
        away.code == 2 && away.stdout.contains("/proc/nowhere"),
        "{}",
        away.stdout
    );
    let none = ran(command()
        .args(["doctor", "--into"])
        .arg(dir.path())
        .args(["--", "/no/such/program"])
        .output()
        .unwrap());
    assert!(
        none.code == 2 && none.stdout.contains("not a program"),
        "{}",
        none.stdout
    );
}

#[test]
fn the_observer_tells_what_recording_changes() {
    let dir = TempDir::new().unwrap();
    let json = |tiny: &str| {
        let told = doctor(
            dir.path(),
            &["--observer", "--runs", "2", "--format", "json"],
            tiny,
            &[],
        );
        let report = told.json();
        check_schema("doctor", &report);
        (told.code, report)
    };
    for (tiny, code, text, logits) in [
        ("", 0, "same", Some("same")),
        ("text", 0, "same", None),
        ("clock", 0, "unstable", Some("same")),
        ("shy", 1, "different", Some("same")),
        ("breaks", 1, "different", Some("same")),
        ("fused", 1, "same", Some("different")),
        ("noise", 2, "unstable", Some("unstable")),
    ] {
        let (found, report) = json(tiny);
        let seen = &report["observer"];
        assert_eq!(found, code, "{tiny}: {report:#}");
        assert_eq!(seen["text"]["outcome"], text, "{tiny}: {report:#}");
        assert_eq!(seen["logits"]["outcome"].as_str(), logits, "{tiny}: {report:#}");
    }
    let (_, shy) = json("shy");
    let difference = &shy["observer"]["text"]["difference"];
    assert_eq!(
        (&difference["without"], &difference["with"]),
        (&"alone".into(), &"watched".into())
    );
    let (_, fused) = json("fused");
    let logits = &fused["observer"]["logits"];
    assert_eq!(
        (logits["compared"].as_u64(), logits["differing"].as_u64()),
        (Some(2), Some(2))
    );
    assert!(logits["worst_rel_l2"].as_f64().unwrap() > 1e-4);
    // A program that fails by itself, or records nothing, gives nothing to compare.
    for tiny in ["fails", "off"] {
        let told = doctor(dir.path(), &["--observer", "--runs", "1"], tiny, &[]);
        assert_eq!(told.code, 2, "{tiny}: {}{}", told.stdout, told.stderr);
    }
}

#[test]
fn the_observer_s_report_is_readable() {
    let dir = TempDir::new().unwrap();
    let same = doctor(dir.path(), &["--observer", "--runs", "1"], "", &[]).stdout;
    for part in [
        "✓ recording does not change what the program gives",
        "logits: 1 pair: the same bits",
        "nothing dropped",
    ] {
        assert!(same.contains(part), "{part}: {same}");
    }
    let fused = doctor(dir.path(), &["--observer", "--runs", "1"], "fused", &[]).stdout;
    assert!(
        fused.contains("✗ recording changes") && fused.contains("1 of 1 pairs differ"),
        "{fused}"
    );
    assert!(
        same.lines().chain(fused.lines()).all(|l| l.chars().count() <= 80),
        "{same}{fused}"
    );
}
