//! Programs, models and runs for the tests.

use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use tempfile::TempDir;

/// Six tokens in SmolLM2, with which llama.cpp and candle agree on the continuation.
pub const PROMPT_IDS: &str = "504,3575,282,4649,314,253";
/// Number of ids in [`PROMPT_IDS`].
pub const PROMPT_LEN: usize = 6;
/// Tokens that the engines generate after it; the last one is not fed.
pub const MAX_TOKENS: usize = 5;
/// Positions that such a run computes.
pub const POSITIONS: usize = PROMPT_LEN + MAX_TOKENS - 1;
/// Layers of SmolLM2-135M.
pub const LAYERS: usize = 30;

/// Stages of the vocabulary that models of the archs `llama` and `bitnet` lack, and Gemma 3 has.
pub const OF_GEMMA: [&str; 6] = [
    "embd_scaled",
    "q_norm",
    "k_norm",
    "q_scaled",
    "attn_post_norm",
    "ffn_post_norm",
];

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the project's root")
}

/// A program that `make setup` builds.
pub fn program(name: &str) -> PathBuf {
    let dir = match name {
        "cpp-runner" | "one-line-host" => "target/demo/bin",
        "bitnet/bin/cpp-runner" | "bitnet/bin/one-line-host" | "bitnet/bin/gguf-quantize" => "target/demo",
        _ => "target/release",
    };
    let path = root().join(dir).join(name);
    assert!(path.is_file(), "{} is missing: run `make setup`", path.display());
    path
}

/// bitnet.cpp computes ternary products with AVX2 only, so the set-up leaves it out elsewhere.
pub fn has_bitnet_cpp() -> bool {
    #[cfg(target_arch = "x86_64")]
    let runs = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let runs = false;
    if !runs {
        eprintln!("skipped: this processor has no AVX2");
    }
    runs
}

/// Lets a program that is linked find its libraries in `dir`, whose name may have a comma.
pub fn find_libraries(linker: &mut Command, dir: &Path) {
    linker.args(["-Xlinker", "-rpath", "-Xlinker"]).arg(dir);
}

/// SmolLM2-135M-Instruct with Q4_1 weights.
pub fn q4() -> PathBuf {
    let path = root().join("target/demo/models/smollm2-135m-q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run `make setup`", path.display());
    path
}

/// The same model with F32 weights.
pub fn f32() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = root().join("target/demo/models/smollm2-135m-f32.gguf");
        if !path.is_file() {
            let done = run(Command::new(program("bitnet-cli"))
                .arg("dequantize")
                .args([&q4(), &path]));
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
        path
    })
    .clone()
}

/// What a program did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not JSON ({e}): {}", self.stdout))
    }
}

/// Runs a command without the recorder's variables of this process, but with those given to it; a signal is code -1.
pub fn run(command: &mut Command) -> Done {
    let replay = ["REPLAY", "REPLAY_AT", "REPLAY_PARTIAL", "REPLAY_OTHER_PROMPT"];
    let variables = ["DIR", "RUN", "SELECT", "VALUES", "DEQUANTIZE"]
        .into_iter()
        .chain(replay);
    for variable in variables.map(|v| format!("BITNET_TRACE_{v}")) {
        if !command.get_envs().any(|(given, _)| given == variable.as_str()) {
            command.env_remove(&variable);
        }
    }
    let out = command.output().expect("the program runs");
    Done {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

pub fn diff(args: &[&str]) -> Done {
    run(Command::new(program("bitnet-diff")).args(args))
}

/// The C++ runner on a model and [`PROMPT_IDS`].
pub fn cpp(model: &Path) -> Command {
    let mut command = Command::new(program("cpp-runner"));
    command
        .arg("--model")
        .arg(model)
        .args(["--tokens", PROMPT_IDS, "--max-tokens", &MAX_TOKENS.to_string()]);
    command
}

/// The Rust engine on a model and [`PROMPT_IDS`], fed with the continuation of the run `cpp` in `db`.
pub fn rust(model: &Path, db: &Db) -> Command {
    let mut command = Command::new(program("bitnet-cli"));
    command
        .arg("run")
        .arg("--model")
        .arg(model)
        .args(["--tokens", PROMPT_IDS]);
    command.args([
        "--max-tokens",
        &MAX_TOKENS.to_string(),
        "--teacher-force",
        &db.continuation("cpp"),
    ]);
    command
}

/// A database of its own, removed with it.
pub struct Db(TempDir);

impl Db {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Path of a run, as text.
    pub fn at(&self, name: &str) -> String {
        self.path()
            .join(format!("run={name}"))
            .to_string_lossy()
            .into_owned()
    }

    /// Runs `command` with recording on; it must succeed, and record.
    pub fn record(&self, name: &str, command: &mut Command) -> &Self {
        let done = run(command
            .env("BITNET_TRACE_DIR", self.path())
            .env("BITNET_TRACE_RUN", name));
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        assert_eq!(self.manifest(name)["state"], "complete");
        self
    }

    pub fn manifest(&self, name: &str) -> Value {
        let path = self.path().join(format!("run={name}/run.json"));
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The ids that a run fed after its prompt.
    pub fn continuation(&self, name: &str) -> String {
        let manifest = self.manifest(name);
        let ids = manifest["sequences"][0]["ids"].as_array().expect("ids");
        ids[PROMPT_LEN..]
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// `bitnet-diff first A B --all --format json` with more arguments: exit code and document.
    pub fn first(&self, a: &str, b: &str, more: &[&str]) -> (i32, Value) {
        let (a, b) = (self.at(a), self.at(b));
        let done = diff(&[&["first", &a, &b, "--all", "--format", "json"], more].concat());
        (done.code, done.json())
    }

    /// Every (seq, layer, stage) of a run, and how many records it has.
    pub fn keys(&self, name: &str) -> (BTreeSet<(i64, i32, String)>, usize) {
        let run = bitnet_trace_store::Run::open(self.at(name)).expect("a run");
        let rows = run.records(&bitnet_trace_store::Filter::default());
        let records = rows.len();
        (
            rows.into_iter()
                .map(|r| (r.meta.seq, r.meta.layer, r.meta.stage.into()))
                .collect(),
            records,
        )
    }
}

/// A count of a `first` document.
pub fn count(first: &Value, name: &str) -> u64 {
    first["counts"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no count {name} in {first}"))
}

/// Asserts that a `first` document is a match in which every record of either side took part.
pub fn assert_full_match((code, first): &(i32, Value)) {
    assert_eq!((*code, first["status"].as_str()), (0, Some("ok")), "{first:#}");
    for none in ["diverged", "incomparable", "missing_left", "missing_right"] {
        assert_eq!(count(first, none), 0, "{none}: {first:#}");
    }
    assert!(
        count(first, "identical") + count(first, "within") > 0,
        "nothing was compared: {first:#}"
    );
}
