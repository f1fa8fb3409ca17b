//! Runs of real engines in a database that lasts as long as the work, and questions to `bitnet-diff` about them.

use crate::{demo, places};
use anyhow::{Context, Result, ensure};
use bitnet_trace_schema::{Manifest, run_dir};
use bitnet_trace_store::{Filter, Run};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// Prompts of 13 to 22 tokens in SmolLM2's vocabulary, on different things. A floor comes from the first of them, and
/// what is judged by it from the last.
pub const PROMPTS: [&str; 8] = [
    "Once upon a time there was a small village at the foot of a mountain, where",
    "fn main() { let numbers = vec![1, 2, 3]; println!(\"{:?}\", numbers); }",
    "The derivative of x^2 + 3x with respect to x is 2x + 3, and its",
    "Dear Sir or Madam, I am writing to you about the invoice of 14 March 2019",
    "Water boils at 100 degrees Celsius at sea level. On a high mountain it",
    "Q: Who wrote the play Hamlet?\nA: William Shakespeare.\nQ: Who painted the Mona Lisa?\nA:",
    "The capital of France is Paris, and the capital of Germany is Berlin. The capital of Italy is",
    "To make bread you need flour, water, salt and yeast. First, mix the",
];
/// How many of [`PROMPTS`] a floor comes from.
pub const CALIBRATION: usize = 6;
/// What the engines generate after a prompt; the last token is not fed.
pub const MAX_TOKENS: &str = "5";
/// Positions that are decoded one by one.
pub const DECODED: usize = 4;

/// An engine as a user runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    LlamaCpp,
    BitnetCpp,
    Rust,
    /// Not ours. It goes on as it likes behind the prompt of given tokens.
    LlamaGguf,
}

/// The tokens of a run, so that others can be fed with the same.
#[derive(Clone)]
pub struct Ids {
    prompt: String,
    continuation: String,
    /// Tokens of the prompt.
    pub prompt_len: usize,
}

/// What an engine is given.
pub enum Feed<'a> {
    /// A text, to continue as it likes.
    Text(&'a str),
    /// The tokens of another run.
    Ids(&'a Ids),
}

/// (seq, layer, stage) of a record.
pub type Key = (i64, i32, String);

/// The database.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    /// An empty one in `place`, or in the project's target folder.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn new(place: Option<&Path>) -> Result<Self> {
        let target = places::root().join("target");
        let place = place.unwrap_or(&target);
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(place);
        let dir = dir.with_context(|| format!("no folder can be made in {}", place.display()))?;
        Ok(Self { dir })
    }

    /// Where a file may lie as long as the database.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run's folder.
    pub fn at(&self, run: &str) -> PathBuf {
        self.dir.path().join(run_dir::dir_name(run))
    }

    /// Records `engine` on `model`. What it says goes nowhere, unless it fails.
    ///
    /// # Errors
    /// Where the engine is missing or fails, or the run is not whole.
    pub fn record(
        &self,
        run: &str,
        engine: Engine,
        model: &Path,
        feed: &Feed<'_>,
        more: &[&str],
    ) -> Result<()> {
        self.record_selected(run, engine, model, feed, more, None)
    }

    /// The same, of the records that a selection takes.
    ///
    /// # Errors
    /// Those of [`Lab::record`].
    pub fn record_selected(
        &self,
        run: &str,
        engine: Engine,
        model: &Path,
        feed: &Feed<'_>,
        more: &[&str],
        select: Option<&str>,
    ) -> Result<()> {
        let mut command = Command::new(program(engine.program())?);
        command.args(arguments(engine, model, feed, more));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BITNET_TRACE_") {
                command.env_remove(name);
            }
        }
        command
            .env("BITNET_TRACE_DIR", self.dir.path())
            .env("BITNET_TRACE_RUN", run);
        if let Some(select) = select {
            command.env("BITNET_TRACE_SELECT", select);
        }
        let out = command.stdin(Stdio::null()).output()?;
        ensure!(
            out.status.success(),
            "{command:?} ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
        let manifest = self.manifest(run)?;
        ensure!(
            manifest.state == bitnet_trace_schema::RunState::Complete && manifest.dropped.total == 0,
            "{run} was not recorded whole"
        );
        Ok(())
    }

    fn manifest(&self, run: &str) -> Result<Manifest> {
        let path = self.at(run).join(run_dir::MANIFEST);
        let bytes = fs::read(&path).with_context(|| format!("nothing was recorded at {}", path.display()))?;
        Ok(Manifest::from_json(&bytes)?)
    }

    /// The tokens of a run.
    ///
    /// # Errors
    /// Where the run has none, or is none.
    pub fn ids(&self, run: &str) -> Result<Ids> {
        let continuation = demo::generated_ids(self.dir.path(), run)?;
        let manifest = self.manifest(run)?;
        let prompt_len = manifest.prompt_tokens.unwrap_or_default() as usize;
        let sequence = manifest.sequences.first().context("the run has no token ids")?;
        let prompt: Vec<String> = sequence.ids[..prompt_len.min(sequence.ids.len())]
            .iter()
            .map(|id| id.map(|id| id.to_string()).context("an id is unknown"))
            .collect::<Result<_>>()?;
        Ok(Ids {
            prompt: prompt.join(","),
            continuation,
            prompt_len,
        })
    }

    /// The document of a `bitnet-diff` command on runs, with its exit code.
    ///
    /// # Errors
    /// Where the program is missing or prints no JSON.
    pub fn ask(&self, command: &str, runs: &[&str], more: &[&str]) -> Result<(i32, Value)> {
        let mut ask = Command::new(program("bitnet-diff")?);
        ask.arg(command).args(runs.iter().map(|run| self.at(run)));
        let out = ask.args(more).args(["--format", "json"]).output()?;
        let document = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("{ask:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))?;
        Ok((out.status.code().unwrap_or(-1), document))
    }

    /// The document of `bitnet-diff cross`, with its exit code: `engine` goes on, at every stage, with the tensors of
    /// `reference`. The run that this makes is forgotten.
    ///
    /// # Errors
    /// Where a program is missing, or there is no verdict.
    pub fn cross(
        &self,
        reference: &str,
        engine: Engine,
        model: &Path,
        feed: &Feed<'_>,
        more: &[&str],
    ) -> Result<(i32, Value)> {
        let run = "replayed";
        let name = ["--name", run, "--format", "json", "--into"];
        let mut cross = Command::new(program("bitnet-diff")?);
        cross
            .arg("cross")
            .arg(self.at(reference))
            .args(name)
            .arg(self.dir.path());
        cross.arg("--").arg(program(engine.program())?);
        let out = cross.args(arguments(engine, model, feed, more)).output()?;
        let said = || format!("{cross:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
        let document: Value = serde_json::from_slice(&out.stdout).with_context(said)?;
        let code = out.status.code().unwrap_or(-1);
        ensure!(matches!(code, 0 | 1), "{document:#}");
        self.remove(run)?;
        Ok((code, document))
    }

    /// The noise floor of runs, of which those with the same tokens are compared.
    ///
    /// # Errors
    /// Where `bitnet-diff calibrate` fails.
    pub fn calibrate(&self, runs: &[&str]) -> Result<PathBuf> {
        let floor = self.file("floor.toml");
        let mut calibrate = Command::new(program("bitnet-diff")?);
        calibrate
            .arg("calibrate")
            .args(runs.iter().map(|run| self.at(run)));
        let out = calibrate.arg("-o").arg(&floor).output()?;
        ensure!(
            out.status.success(),
            "bitnet-diff calibrate ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(floor)
    }

    /// Relative L2 of each record of `stage` in `b` against the same in `a`, in the order of positions, then layers; infinite
    /// where one has numbers that are not finite.
    ///
    /// # Errors
    /// Where a run can't be read.
    pub fn distances(&self, a: &str, b: &str, filter: &Filter) -> Result<Vec<(Key, f64)>> {
        let (a, b) = (Run::open(self.at(a))?, Run::open(self.at(b))?);
        let mut others = BTreeMap::new();
        for row in b.records(filter) {
            let values = b.tensor(&row)?.to_f64().unwrap_or_default();
            others.insert((row.meta.seq, row.meta.layer, row.meta.stage.into()), values);
        }
        let mut distances = Vec::new();
        for row in a.records(filter) {
            let values = a.tensor(&row)?.to_f64().unwrap_or_default();
            let key = (row.meta.seq, row.meta.layer, row.meta.stage.to_string());
            if let Some(other) = others.get(&key) {
                let distance = relative_l2(&values, other);
                distances.push((key, distance));
            }
        }
        distances.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(distances)
    }

    /// Forgets a run.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub fn remove(&self, run: &str) -> Result<()> {
        let path = self.at(run);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// What a program is asked to compute.
fn arguments(engine: Engine, model: &Path, feed: &Feed<'_>, more: &[&str]) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    if engine == Engine::Rust {
        all.push("run".into());
    }
    all.extend(["--model".into(), model.into()]);
    all.extend(["--max-tokens", MAX_TOKENS].map(OsString::from));
    if engine != Engine::LlamaGguf {
        all.push("--ignore-eos".into());
    }
    let fed = match feed {
        Feed::Text(text) => vec!["--prompt", text],
        Feed::Ids(ids) if engine == Engine::LlamaGguf => vec!["--tokens", &ids.prompt],
        Feed::Ids(ids) => vec!["--tokens", &ids.prompt, "--teacher-force", &ids.continuation],
    };
    all.extend(fed.iter().chain(more).map(OsString::from));
    all
}

fn relative_l2(a: &[f64], b: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(b - a)).sum();
    let norm: f64 = a.iter().map(|&a| square(a)).sum();
    match (difference / norm).sqrt() {
        _ if difference == 0.0 => 0.0,
        distance if distance.is_finite() => distance,
        _ => f64::INFINITY,
    }
}

impl Engine {
    fn program(self) -> &'static str {
        match self {
            Self::LlamaCpp => "cpp-runner",
            Self::BitnetCpp => "bitnet/bin/cpp-runner",
            Self::Rust => "bitnet-cli",
            Self::LlamaGguf => "llama-gguf-runner",
        }
    }
}

/// A program that the set-up builds.
fn program(name: &str) -> Result<PathBuf> {
    let dir = match name {
        "cpp-runner" => "target/demo/bin",
        "bitnet/bin/cpp-runner" => "target/demo",
        _ => "target/release",
    };
    existing(places::root().join(dir).join(name))
}

/// SmolLM2-135M-Instruct, with Q4_1 weights or (dequantised when it is not there) F32.
///
/// # Errors
/// Where it is missing.
pub fn smollm2(weights: &str) -> Result<PathBuf> {
    let models = places::root().join("target/demo/models");
    let path = models.join(format!("smollm2-135m-{weights}.gguf"));
    if weights == "f32" && !path.is_file() {
        let q4 = smollm2("q4_1")?;
        let status = Command::new(program("bitnet-cli")?)
            .arg("dequantize")
            .args([&q4, &path])
            .status()?;
        ensure!(status.success(), "bitnet-cli dequantize ended with {status}");
    }
    existing(path)
}

/// A file, which the set-up has made.
///
/// # Errors
/// Where it has not.
pub fn existing(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} is missing: run `make setup`", path.display());
    Ok(path)
}

/// A bar on a terminal, of so many steps.
pub fn progress(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    let bar = ProgressBar::new(steps as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Puts a document where `--write` says, and prints it.
///
/// # Errors
/// Where the file can't be written.
pub fn publish(document: &str, file: Option<&Path>) -> Result<()> {
    if let Some(file) = file {
        fs::write(file, document).with_context(|| format!("{} can't be written", file.display()))?;
    }
    crate::print(document)
}
