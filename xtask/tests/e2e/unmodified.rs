//! Programs of others, as they are, recorded from outside.

use crate::preload::{SELECT, record};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// llama.cpp's example `simple`, as it is.
pub fn llama_simple(dir: &Path) -> PathBuf {
    let (out, demo) = (dir.join("llama-simple"), root().join("target/demo"));
    let source = demo.join("src/llama.cpp");
    let mut command = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
    command
        .args(["-std=c++17", "-O1"])
        .arg(source.join("examples/simple/simple.cpp"));
    command
        .arg("-I")
        .arg(source.join("include"))
        .arg("-I")
        .arg(source.join("ggml/include"));
    for library in ["llama", "ggml", "ggml-base", "ggml-cpu"] {
        command.arg(demo.join(format!("lib/lib{library}.so")));
    }
    find_libraries(&mut command, &demo.join("lib"));
    let done = run(command.arg("-o").arg(&out));
    assert_eq!(done.code, 0, "{}", done.stderr);
    out
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn llama_cpps_own_example_is_recorded_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = llama_simple(dir.path());
    let db = Db::new();
    let mut command = Command::new(program("bitnet-diff"));
    command
        .args(["record", "--threads-hint", "1", "--name", "simple", "--into"])
        .arg(db.path());
    command.arg("--").arg(&out).arg("-m").arg(f32());
    let recorded = run(command.args(["-n", "5", "The capital of France is"]));
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    assert!(
        recorded.stdout.contains("The capital of France is"),
        "{}",
        recorded.stdout
    );
    let mut runner = Command::new(program("cpp-runner"));
    runner
        .arg("--model")
        .arg(f32())
        .args(["--prompt", "The capital of France is", "--max-tokens", "5"]);
    db.record("runner", runner.args(["--kv-type", "f16", "--flash-attn", "on"]));
    // The runner keeps every row, the example the last one only.
    let (code, first) = db.first("simple", "runner", &[]);
    assert_eq!(
        (code, count(&first, "diverged"), count(&first, "missing_right")),
        (0, 0, 0),
        "{first:#}"
    );
    assert_eq!(
        db.manifest("simple")["sequences"],
        db.manifest("runner")["sequences"]
    );
}

/// What the runner records of the prompt with the settings that llama.cpp chooses by itself.
fn reference(db: &Db) {
    let mut runner = cpp(&f32());
    runner.args(["--kv-type", "f16", "--flash-attn", "on"]);
    db.record("runner", runner.env("BITNET_TRACE_SELECT", SELECT));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_python_program_is_recorded_as_it_is() {
    let db = Db::new();
    let mut python = Command::new("python3");
    python.arg(root().join("xtask/tests/e2e/host.py"));
    python.arg(root().join("target/demo/lib/libllama.so"));
    record(&db, "python", SELECT, python.arg(f32()).args([PROMPT_IDS, "4"]));
    reference(&db);
    let (code, first) = db.first("python", "runner", &[]);
    assert_eq!(
        (code, count(&first, "diverged"), count(&first, "missing_right")),
        (0, 0, 0),
        "{first:#}"
    );
}

/// The compiled addon of node-llama-cpp: another version, which somebody else has compiled. Without npm there is none.
fn node_addon() -> Option<PathBuf> {
    let addon = root().join("target/demo/node-llama-cpp/bins/linux-x64/llama-addon.node");
    if addon.is_file() {
        return Some(addon);
    }
    let npm = Command::new("npm").arg("--version").output();
    assert!(
        npm.is_err() || std::env::consts::ARCH != "x86_64",
        "{} is missing: run `make setup`",
        addon.display()
    );
    println!("left out: node-llama-cpp, which needs npm");
    None
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_node_program_on_the_compiled_node_llama_cpp_is_recorded_as_it_is() {
    let Some(addon) = node_addon() else { return };
    let db = Db::new();
    let mut node = Command::new("node");
    node.arg(root().join("xtask/tests/e2e/host.mjs")).arg(addon);
    record(&db, "node", SELECT, node.arg(f32()).args([PROMPT_IDS, "5"]));
    reference(&db);
    // Its kernels are those of this very processor, and its graph joins some steps: no more than rounding.
    let (_, first) = db.first("node", "runner", &["--rel-l2", "2e-2"]);
    assert_eq!(
        (count(&first, "diverged"), count(&first, "missing_right")),
        (0, 0),
        "{first:#}"
    );
    assert_eq!(
        db.manifest("node")["sequences"],
        db.manifest("runner")["sequences"]
    );
}

/// The one-line host with that line compiled out: a program over bitnet.cpp that knows nothing of recording.
pub fn bitnet_host(dir: &Path) -> PathBuf {
    let (out, demo) = (dir.join("bitnet-host"), root().join("target/demo"));
    let llama = demo.join("src/bitnet.cpp/3rdparty/llama.cpp");
    let mut command = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
    command.args(["-std=c++17", "-O1", "-DBITNET_TRACE_DISABLE"]);
    command.arg(root().join("engines/cpp-runner/tests/one_line_host.cpp"));
    for include in ["engines/cpp-runner/src", "cpp-recorder/include"] {
        command.arg("-I").arg(root().join(include));
    }
    for include in ["include", "ggml/include"] {
        command.arg("-isystem").arg(llama.join(include));
    }
    let library = |name: &str| demo.join(format!("bitnet/lib/lib{name}.so"));
    command.args(["llama", "ggml"].map(library));
    find_libraries(&mut command, &demo.join("bitnet/lib"));
    let done = run(command.arg("-o").arg(&out));
    assert_eq!(done.code, 0, "{}", done.stderr);
    out
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_program_over_bitnet_cpp_is_recorded_as_it_is() {
    if !has_bitnet_cpp() {
        return;
    }
    let db = Db::new();
    let host = bitnet_host(db.path());
    for kind in ["f32", "i2_s"] {
        let model = db.path().join(format!("{kind}.gguf"));
        let mut xtask = Command::new(program("xtask"));
        xtask.args(["fixture", "bitnet", "--type", kind, "--output"]);
        let done = run(xtask.arg(&model));
        assert_eq!(done.code, 0, "{}", done.stderr);
        let ids = ["307", "311", "291", "316", "299", "268"];
        record(&db, kind, "", Command::new(&host).arg(&model).args(ids));
        let one_line = format!("{kind}-one-line");
        let mut recorded = Command::new(program("bitnet/bin/one-line-host"));
        db.record(&one_line, recorded.arg(&model).args(ids));
        let first = db.first(kind, &one_line, &["--exact"]);
        assert_full_match(&first);
        assert_eq!(count(&first.1, "within"), 0, "{kind}: every byte is the same");
        assert_eq!(
            db.manifest(kind)["sequences"],
            db.manifest(&one_line)["sequences"]
        );
    }
}
