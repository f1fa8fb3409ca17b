//! Compiles the C and C++ programs of the tests and runs them; with `BNT_TEST_UNDER` (`make sanitize`), under a
//! tool that looks for what must not happen.

#![allow(dead_code)] // each test uses what it needs

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{shown}: {e}; is it installed?"));
    assert!(
        output.status.success(),
        "{shown}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The crate's own directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the programs run under, as `BNT_TEST_UNDER` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Under {
    Nothing,
    /// The compilers' sanitizers of addresses and of undefined behaviour; Rust code is instrumented for the former.
    Address,
    Valgrind,
}

pub fn under() -> Under {
    match std::env::var("BNT_TEST_UNDER").as_deref() {
        Err(_) | Ok("") => Under::Nothing,
        Ok("address") => Under::Address,
        Ok("valgrind") => Under::Valgrind,
        Ok(other) => panic!("BNT_TEST_UNDER={other} is neither address nor valgrind"),
    }
}

/// The directory that holds the library, which Cargo does not build for an integration test by itself.
pub fn library() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "bitnet-trace-cpp", "--lib"]);
        cargo.args(["--message-format", "json"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        if under() == Under::Address {
            instrument(&mut cargo);
        }
        let messages = String::from_utf8(run(&mut cargo).stdout).expect("JSON");
        let end = messages.find("libbitnet_trace.a\"").expect("the static library");
        let start = messages[..end].rfind('"').expect("its path");
        PathBuf::from(&messages[start + 1..end])
    })
}

/// Stable Rust has the sanitizer of addresses, for those who ask for it.
fn instrument(cargo: &mut Command) {
    // a target of its own, so that build scripts are not instrumented
    cargo.args([
        "--target",
        &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
    ]);
    cargo
        .arg("--target-dir")
        .arg(root().join("../target/sanitize/address"));
    cargo.args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("RUSTFLAGS", "-Zsanitizer=address");
}

/// A compiler, `cc` or `c++` if the environment names none, with warnings as errors and the headers' directory.
pub fn compiler(name: &str, standard: &str) -> Command {
    let named = std::env::var_os(if name == "c++" { "CXX" } else { "CC" });
    let mut command = Command::new(named.unwrap_or(name.into()));
    command.arg(standard).args(WARNINGS);
    command.arg("-I").arg(root().join("include"));
    match under() {
        Under::Address => command.args(["-g", "-fno-sanitize-recover=all", "-fsanitize=address,undefined"]),
        Under::Valgrind => command.arg("-g"),
        Under::Nothing => &mut command,
    };
    command
}

/// Compiles `tests/c/<source>` with `compiler` into `dir` and links the library.
pub fn compile(name: &str, standard: &str, source: &str, shared: bool, dir: &Path) -> PathBuf {
    let program = dir.join(source.replace('.', "_"));
    let mut command = compiler(name, standard);
    command.arg(root().join("tests/c").join(source));
    command.arg("-o").arg(&program);
    if shared {
        // under the name that the dynamic linker looks for, which cargo does not make
        let installed = dir.join("libbitnet_trace.so.1");
        if !installed.exists() {
            std::os::unix::fs::symlink(library().join("libbitnet_trace.so"), &installed).expect("a link");
        }
        command
            .arg(&installed)
            .arg(format!("-Wl,-rpath,{}", dir.display()));
    } else {
        command.arg(library().join("libbitnet_trace.a"));
    }
    run(command.args(["-lpthread", "-ldl", "-lm"]));
    program
}

/// A program whose environment says nothing of tracing.
pub fn program(path: &Path) -> Command {
    observed(path, true)
}

/// A [`program`] that forks: what a thread of the parent held belongs to nobody in the child, and is no leak.
pub fn forking_program(path: &Path) -> Command {
    observed(path, false)
}

fn observed(path: &Path, leaks: bool) -> Command {
    let mut command = match under() {
        Under::Valgrind => {
            let mut valgrind = Command::new("valgrind");
            valgrind.args(["--quiet", "--error-exitcode=99", "--trace-children=yes"]);
            if leaks {
                valgrind.args(["--leak-check=full", "--errors-for-leak-kinds=definite"]);
            }
            valgrind.arg(path);
            valgrind
        }
        _ => Command::new(path),
    };
    if !leaks {
        command.env("ASAN_OPTIONS", "detect_leaks=0");
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BITNET_TRACE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a test is left out because the tool it would run under needs what the test takes away.
pub fn left_out(what: &str) -> bool {
    let out = under() != Under::Nothing;
    if out {
        println!("left out under {:?}: {what}", under());
    }
    out
}
