//! The library in programs with a ggml of any layout, and with tensors that no real graph has.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};
use tempfile::TempDir;

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    output
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library, which Cargo does not build for an integration test by itself.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "-p",
            "bitnet-trace-preload",
            "--lib",
            "--message-format",
            "json",
        ]);
        let messages = String::from_utf8(run(&mut cargo).stdout).expect("JSON");
        let file = "libbitnet_trace_preload.so\"";
        let end = messages.find(file).expect("the library") + file.len() - 1;
        let start = messages[..end].rfind('"').expect("its path") + 1;
        PathBuf::from(&messages[start..end])
    })
}

/// A host with a ggml of a layout of its own, which it finds beside itself.
struct Host(TempDir);

impl Host {
    fn new(layout: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let compile = |args: &[&str], out: &str| {
            let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
            cc.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", layout])
                .current_dir(root().join("tests/c"));
            run(cc.args(args).arg("-o").arg(dir.path().join(out)));
        };
        compile(&["-shared", "-fPIC", "ggml.c"], "libggml.so");
        let ggml = dir.path().join("libggml.so").to_string_lossy().into_owned();
        compile(&["host.c", &ggml, "-Wl,-rpath,$ORIGIN", "-lm"], "host");
        // the dynamic linker divides its list at the spaces of a path
        std::os::unix::fs::symlink(library(), dir.path().join("preload.so")).expect("a link");
        Self(dir)
    }

    /// Runs it with the library preloaded, and with recording on.
    fn run(&self, args: &[&str], name: &str) -> (String, String) {
        self.run_with(args, |host| {
            host.env("BITNET_TRACE_DIR", self.0.path().join("db"))
                .env("BITNET_TRACE_RUN", name)
        })
    }

    fn run_with(&self, args: &[&str], set: impl FnOnce(&mut Command) -> &mut Command) -> (String, String) {
        let mut host = Command::new(self.0.path().join("host"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("BITNET_TRACE_"))
        {
            host.env_remove(name);
        }
        let output = run(set(host.args(args)).env("LD_PRELOAD", self.0.path().join("preload.so")));
        let text = |bytes| String::from_utf8(bytes).expect("text").trim_end().to_owned();
        (text(output.stdout), text(output.stderr))
    }

    fn manifest(&self, name: &str) -> Option<serde_json::Value> {
        let path = self.0.path().join(format!("db/run={name}/run.json"));
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

#[test]
fn both_known_layouts_are_recorded() {
    for layout in ["-DNOW", "-DGRAD"] {
        let host = Host::new(layout);
        assert_eq!(
            host.run(&["plain"], "r"),
            ("9 0".into(), String::new()),
            "{layout}"
        );
        let manifest = host.manifest("r").expect("a run");
        assert_eq!(
            (&manifest["state"], &manifest["records"]),
            (&"complete".into(), &18.into()),
            "{manifest:#}"
        );
        assert_eq!(manifest["dropped"]["total"], 0, "{manifest:#}");
        assert_eq!(manifest["sequences"][0]["ids"], serde_json::json!([7, 9]));
    }
}

#[test]
fn a_layout_that_is_not_known_is_refused_in_one_line_and_the_program_goes_on() {
    let host = Host::new("-DSTRANGE");
    let (stdout, stderr) = host.run(&["chain"], "r");
    assert_eq!(stdout, "0 9", "the host's own callback is called as ever");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("laid out in a way that is not known") && stderr.contains("cb_eval"),
        "{stderr}"
    );
    assert!(host.manifest("r").is_none());
}

#[test]
fn tensors_that_no_engine_should_have_are_counted_and_end_nobody() {
    let host = Host::new("-DNOW");
    let (stdout, _) = host.run(&["odd"], "r");
    assert_eq!(stdout, "8 0");
    let manifest = host.manifest("r").expect("a run");
    assert_eq!(manifest["state"], "complete");
    let reasons = manifest["dropped"]["reasons"].as_object().expect("reasons");
    let count = |part: &str| {
        reasons
            .iter()
            .filter(|(r, _)| r.contains(part))
            .filter_map(|(_, n)| n.as_u64())
            .sum::<u64>()
    };
    assert_eq!((count("element type"), count("no data")), (2, 1), "{reasons:?}");
    // embd, attn_norm, the ROPE and the logits, of two tokens each; NaN among them
    assert_eq!(manifest["records"], 8, "{manifest:#}");
}

#[test]
fn nothing_happens_without_a_directory_and_the_hosts_callback_goes_on_with_one() {
    let host = Host::new("-DNOW");
    assert_eq!(host.run_with(&["chain"], |h| h), ("0 9".into(), String::new()));
    assert_eq!(host.run(&["chain"], "r"), ("9 9".into(), String::new()));
    assert_eq!(host.manifest("r").expect("a run")["records"], 18);
}

#[test]
fn a_run_that_nobody_ends_is_sealed_at_exit_and_a_forked_child_records_nothing() {
    let host = Host::new("-DNOW");
    host.run(&["leak"], "leak");
    assert_eq!(host.manifest("leak").expect("a run")["state"], "complete");
    let (stdout, _) = host.run(&["fork"], "fork");
    assert_eq!(stdout, "9 0", "the child is asked for nothing");
    let manifest = host.manifest("fork").expect("a run");
    assert_eq!(
        (&manifest["state"], &manifest["records"]),
        (&"complete".into(), &18.into())
    );
}

#[test]
fn nothing_is_exported_but_what_is_interposed() {
    let output = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut names: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().last()).collect();
    names.sort_unstable();
    let expected = [
        "bitnet_trace_preload_stand_down",
        "ggml_backend_reg_get_proc_address",
        "ggml_backend_sched_free",
        "ggml_backend_sched_set_eval_callback",
    ];
    assert_eq!(names, expected);
    let needed = run(Command::new("readelf").arg("-d").arg(library()));
    assert!(!String::from_utf8_lossy(&needed.stdout).contains("libstdc++"));
}
