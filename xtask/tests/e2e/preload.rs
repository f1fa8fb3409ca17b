//! Programs that know nothing of recording, recorded from outside by `bitnet-diff record`.

use crate::support::*;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use tempfile::TempDir;

const PROMPT: &str = "0:504,3575,282,4649,314,253";
/// Three times the physical batch of the tests, and the same token by token.
const LONG: &str = "0:504,3575,282,4649,314,253,2240,338,553,719,253,38029";
/// Two sequences, token by token in turn; then a batch of each.
const TWO: [&str; 3] = [
    "0:504;1:2240;0:3575;1:338;0:282;1:553;0:4649;1:719;0:314;1:253;0:253",
    "1:504;0:2240",
    "1:282",
];
/// The first layers, the last ones, and what is in none.
pub const SELECT: &str = "layer=0-1;layer=28-;layer=-1;layer=-2";

/// `host.cpp` as it is, and with the one line of the source adapter.
struct Hosts {
    _dir: TempDir,
    plain: PathBuf,
    one_line: PathBuf,
}

fn hosts() -> &'static Hosts {
    static HOSTS: OnceLock<Hosts> = OnceLock::new();
    HOSTS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let compile = |name: &str, more: &[&str]| {
            let out = dir.path().join(name);
            let demo = root().join("target/demo");
            let mut command = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
            command.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]);
            command.arg(root().join("xtask/tests/e2e/host.cpp"));
            command.arg("-isystem").arg(demo.join("src/llama.cpp/include"));
            command
                .arg("-isystem")
                .arg(demo.join("src/llama.cpp/ggml/include"));
            for library in ["llama", "ggml", "ggml-base", "ggml-cpu"] {
                command.arg(demo.join(format!("lib/lib{library}.so")));
            }
            find_libraries(&mut command, &demo.join("lib"));
            let done = run(command.args(more).arg("-o").arg(&out));
            assert_eq!(done.code, 0, "{}", done.stderr);
            out
        };
        let (include, library) = (
            root().join("cpp-recorder/include"),
            root().join("target/release/libbitnet_trace.a"),
        );
        let include = format!("-I{}", include.display());
        let one_line = [
            "-DONE_LINE",
            &include,
            &library.to_string_lossy(),
            "-lpthread",
            "-ldl",
            "-lm",
        ];
        Hosts {
            plain: compile("host", &[]),
            one_line: compile("one-line", &one_line),
            _dir: dir,
        }
    })
}

/// `host.cpp` as it is, on another model.
pub fn plain_host(model: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(&hosts().plain);
    command.arg(model).args(args);
    command
}

fn host(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(f32()).args(args);
    command
}

/// Records a program from outside; the program must say what it says without.
pub fn record(db: &Db, name: &str, select: &str, program: &Command) -> Done {
    let arguments: Vec<_> = program.get_args().collect();
    let silent = run(Command::new(program.get_program()).args(&arguments));
    assert_eq!(silent.code, 0, "{}", silent.stderr);
    let mut command = Command::new(self::program("bitnet-diff"));
    command.args(["record", "--name", name, "--select", select, "--into"]);
    command
        .arg(db.path())
        .arg("--")
        .arg(program.get_program())
        .args(&arguments);
    let done = run(&mut command);
    assert_eq!(done.code, 0, "{name}: {}", done.stderr);
    assert_eq!(
        done.stdout, silent.stdout,
        "{name}: recording changes what the program says"
    );
    let manifest = db.manifest(name);
    assert_eq!(manifest["dropped"]["total"], 0, "{name}: {manifest:#}");
    done
}

/// Records the unmodified host, and the same source with one line.
fn both(db: &Db, name: &str, args: &[&str]) {
    record(db, name, SELECT, &host(&hosts().plain, args));
    let one_line = format!("{name}-one-line");
    db.record(
        &one_line,
        host(&hosts().one_line, args).env("BITNET_TRACE_SELECT", SELECT),
    );
    let first = db.first(name, &one_line, &[]);
    assert_full_match(&first);
    assert_eq!(count(&first.1, "within"), 0, "{name}: every byte is the same");
}

/// That two runs have the same keys, and values as near as kernels for one and for several tokens come.
fn same_keys(db: &Db, a: &str, b: &str, tolerance: &str) {
    assert_full_match(&db.first(a, b, &["--rel-l2", tolerance]));
}

/// Each token of a step as a step of its own.
fn one_by_one(steps: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for part in steps.iter().flat_map(|s| s.split(';')) {
        let (sequence, ids) = part.split_once(':').expect("SEQ:IDS");
        out.extend(ids.split(',').map(|id| format!("{sequence}:{id}")));
    }
    out
}

fn with<'a>(flags: &[&'a str], steps: &'a [String]) -> Vec<&'a str> {
    flags
        .iter()
        .copied()
        .chain(steps.iter().map(String::as_str))
        .collect()
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn an_unmodified_host_records_what_the_source_adapter_records() {
    let db = Db::new();
    both(&db, "plain", &[PROMPT, "0:2240"]);
    both(&db, "last-row", &["--last", PROMPT, "0:2240"]);
    both(&db, "embeddings", &["--embeddings", PROMPT]);
    let manifest = db.manifest("plain");
    assert_eq!(manifest["sequences"][0]["ids"][0], 504);
    assert_eq!(manifest["settings"]["threads"], 1);
    assert_eq!(manifest["engine"]["name"], "llama.cpp");
    assert_eq!(manifest["model"]["path"], f32().to_string_lossy().as_ref());
    let (keys, _) = db.keys("embeddings");
    assert!(keys.contains(&(5, -1, "final_norm".into())));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_prompt_of_three_batches_has_the_keys_of_one_that_is_taken_token_by_token() {
    let db = Db::new();
    both(&db, "batches", &["--ubatch", "4", LONG]);
    let steps = one_by_one(&[LONG]);
    record(&db, "steps", SELECT, &host(&hosts().plain, &with(&[], &steps)));
    same_keys(&db, "batches", "steps", "1e-4");
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn sequences_of_a_batch_are_told_apart_whether_they_share_a_cache_or_not() {
    let db = Db::new();
    let steps = one_by_one(&TWO);
    for (name, flags) in [
        ("streams", &["--seqs", "2"][..]),
        ("unified", &["--seqs", "2", "--unified"]),
    ] {
        let args = [flags, &TWO].concat();
        both(&db, name, &args);
        let single = format!("{name}-steps");
        record(&db, &single, SELECT, &host(&hosts().plain, &with(flags, &steps)));
        same_keys(&db, name, &single, "1e-4");
        let ids = |n: usize| db.manifest(name)["sequences"][n]["ids"].as_array().map(Vec::len);
        assert_eq!((ids(0), ids(1)), (Some(7), Some(7)));
    }
    same_keys(&db, "streams", "unified", "1e-4");
    // Each sequence alone is what it is beside the other.
    record(&db, "alone", SELECT, &host(&hosts().plain, &[PROMPT, "0:2240"]));
    let (_, first) = db.first("alone", "unified", &["--rel-l2", "1e-4"]);
    assert_eq!(
        (count(&first, "diverged"), count(&first, "missing_right")),
        (0, 0),
        "{first:#}"
    );
    let told = db.manifest("unified")["settings"]["extra"]["requests"].to_string();
    assert!(told.contains("attention mask"), "{told}");
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn flash_attention_and_a_quantised_cache_have_the_same_keys_batch_by_batch_and_token_by_token() {
    let db = Db::new();
    let steps = one_by_one(&[PROMPT, "0:2240"]);
    for (kv, tolerance) in [("f16", "5e-3"), ("q8_0", "5e-2")] {
        let flags = ["--flash", "--kv", kv];
        both(&db, kv, &[&flags[..], &[PROMPT, "0:2240"]].concat());
        let single = format!("{kv}-steps");
        record(&db, &single, SELECT, &host(&hosts().plain, &with(&flags, &steps)));
        same_keys(&db, kv, &single, tolerance);
    }
    // What the fused operator has no tensor for is missing, and nothing of it diverged.
    record(
        &db,
        "unfused",
        SELECT,
        &host(&hosts().plain, &["--kv", "f16", PROMPT, "0:2240"]),
    );
    let (code, first) = db.first("unfused", "f16", &["--rel-l2", "2e-2"]);
    assert_eq!((code, count(&first, "diverged")), (0, 0), "{first:#}");
    let (keys, _) = db.keys("unfused");
    let only: Vec<_> = keys
        .iter()
        .filter(|k| k.2 == "attn_scores" || k.2 == "attn_probs")
        .collect();
    assert_eq!(count(&first, "missing_right"), only.len() as u64, "{first:#}");
    assert_eq!(count(&first, "missing_left"), 0, "{first:#}");
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn each_context_of_a_program_has_a_run_of_its_own_and_the_hosts_callback_goes_on() {
    let db = Db::new();
    record(
        &db,
        "a",
        SELECT,
        &host(&hosts().plain, &["--contexts", "2", PROMPT]),
    );
    let first = db.first("a", "a-2", &[]);
    assert_full_match(&first);
    assert_eq!(count(&first.1, "within"), 0);
    // Its output says that it was called.
    record(
        &db,
        "chained",
        SELECT,
        &host(&hosts().plain, &["--chain", PROMPT]),
    );
    assert_full_match(&db.first("a", "chained", &[]));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_program_that_records_itself_is_recorded_once() {
    let db = Db::new();
    record(&db, "itself", SELECT, &host(&hosts().one_line, &[PROMPT]));
    let runs = std::fs::read_dir(db.path()).expect("the database").flatten();
    let runs = runs.filter(|e| e.file_name().to_string_lossy().starts_with("run="));
    assert_eq!(runs.count(), 1);
    assert!(
        db.manifest("itself")["settings"]["extra"]
            .get("observed")
            .is_none()
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_program_that_aborts_leaves_a_trace_that_can_be_read() {
    let db = Db::new();
    let mut command = Command::new(program("bitnet-diff"));
    command
        .args(["record", "--name", "aborts", "--into"])
        .arg(db.path());
    command
        .arg("--")
        .arg(&hosts().plain)
        .arg(f32())
        .args(["--abort", PROMPT]);
    let done = run(&mut command);
    assert!(
        done.code == 2 && done.stderr.contains("SIGABRT"),
        "{}",
        done.stderr
    );
    let (keys, records) = db.keys("aborts");
    assert!(
        records > 0 && keys.contains(&(0, 0, "attn_norm".into())),
        "{records}"
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn threads_are_told_warned_of_and_can_be_set() {
    let db = Db::new();
    let args = ["--threads", "2", "0:504,3575"];
    let slow = record(
        &db,
        "two",
        "stage=l_out,layer=0;layer=-1",
        &host(&hosts().plain, &args),
    );
    assert_eq!(db.manifest("two")["settings"]["threads"], 2);
    assert!(
        slow.stderr.contains("2 threads") && slow.stderr.contains("--threads-hint"),
        "{}",
        slow.stderr
    );
    let mut command = Command::new(program("bitnet-diff"));
    command
        .args(["record", "--threads-hint", "1", "--name", "one", "--into"])
        .arg(db.path());
    let done = run(command.arg("--").arg(&hosts().plain).arg(f32()).args(args));
    assert!(
        done.code == 0 && !done.stderr.contains("threads"),
        "{}",
        done.stderr
    );
    let manifest = db.manifest("one");
    assert_eq!(manifest["settings"]["threads"], 1);
    assert_eq!(manifest["observation"]["threads_may_differ"], true);
}
