//! The installed package, used by a project outside the tree: with CMake and with pkg-config, from C and C++.

#[path = "../../recorder/tests/common/mod.rs"]
mod common;
mod programs;

use common::{manifest, read};
use programs::{library, program, root, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// CMake, from PATH or from where `scripts/setup.sh tools` puts it.
fn cmake() -> Command {
    let installed = Command::new("cmake").arg("--version").output();
    if installed.is_ok_and(|output| output.status.success()) {
        return Command::new("cmake");
    }
    let own = root().join("../target/venv/bin/cmake");
    assert!(own.exists(), "no cmake: run `scripts/setup.sh tools`");
    Command::new(own)
}

/// The prefix into which the package was installed, and which was moved then.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, prefix) = PREFIX.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (build, first) = (dir.path().join("build"), dir.path().join("first"));
        let mut configure = cmake();
        configure.arg("-S").arg(root()).arg("-B").arg(&build);
        configure.arg(format!("-DCMAKE_INSTALL_PREFIX={}", first.display()));
        configure.arg(format!("-DBITNET_TRACE_LIBRARY_DIR={}", library().display()));
        run(&mut configure);
        run(cmake().arg("--install").arg(&build));
        let moved = dir.path().join("elsewhere");
        std::fs::rename(&first, &moved).expect("moved");
        (dir, moved)
    });
    prefix
}

/// Runs an engine, and looks for the one record that it makes, or none where recording is compiled out.
fn check(engine: &Path, records: bool, dir: &Path) {
    let traces = dir.join("traces");
    let mut engine = program(engine);
    engine
        .env("BITNET_TRACE_DIR", &traces)
        .env("BITNET_TRACE_RUN", "r")
        .env("LD_LIBRARY_PATH", installed().join("lib"));
    run(&mut engine);
    if records {
        let run = traces.join("run=r");
        assert!(manifest(&run).engine.name.starts_with("package-c"));
        let values = read(&run).remove(0).values.expect("values");
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0]);
        std::fs::remove_dir_all(&traces).expect("removed");
    } else {
        assert!(!traces.exists());
    }
}

#[test]
fn a_cmake_project_outside_the_tree_finds_the_package_and_records() {
    let dir = tempfile::tempdir().expect("a directory");
    let build = dir.path().join("build");
    let mut configure = cmake();
    configure.arg("-S").arg(root().join("tests/package"));
    configure.arg("-B").arg(&build);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", installed().display()));
    run(&mut configure);
    run(cmake().arg("--build").arg(&build));
    for language in ["c", "cpp"] {
        for (kind, records) in [("shared", true), ("static", true), ("off", false)] {
            check(&build.join(format!("{language}-{kind}")), records, dir.path());
        }
    }
}

#[test]
fn pkg_config_tells_how_to_compile_and_link() {
    let flags = |package: &str| {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", installed().join("lib/pkgconfig"));
        command.args(["--cflags", "--libs", package]);
        let text = String::from_utf8(run(&mut command).stdout).expect("text");
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    if Command::new("pkg-config").arg("--version").output().is_err() {
        println!("not tried: there is no pkg-config (Debian: apt-get install pkg-config)");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for (compiler, source) in [("cc", "engine.c"), ("c++", "engine.cpp")] {
        for package in ["bitnet_trace", "bitnet_trace-static"] {
            let engine = dir.path().join("engine");
            let mut command = Command::new(compiler);
            command.arg(root().join("tests/package").join(source));
            run(command.arg("-o").arg(&engine).args(flags(package)));
            let needs = run(Command::new("readelf").arg("-d").arg(&engine)).stdout;
            let needs = String::from_utf8(needs).expect("text");
            let shared = package == "bitnet_trace";
            assert_eq!(needs.contains("[libbitnet_trace.so.1]"), shared, "{needs}");
            check(&engine, true, dir.path());
        }
    }
}
