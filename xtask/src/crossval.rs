//! `crossval-per-token`: llama.cpp and the Rust engine on the same ids, logits compared at every position.
//!
//! Both engines record into a temporary database and the differ compares the two runs: there is one way to
//! compare.

use crate::{EXIT_ERROR, EXIT_MATCH, demo::generated_ids, places, print};
use anyhow::{Context, Result, bail, ensure};
use bitnet_diff::{
    compare::{Options, Status},
    judge::Verdict,
    records::StoredRecords,
    tokens::{DEFAULT_TOP_K, LOGITS, TokensReport, tokens},
    tolerance::{Gates, Tolerance},
};
use bitnet_models::{Engine, GenerateOptions, Gguf, LoadOptions, Prompt, generate};
use bitnet_trace::Recorder;
use bitnet_trace_schema::{StageGraph, run_dir};
use bitnet_trace_store::{Filter, Run};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Names of the two runs.
const CPP: &str = "cpp";
const RUST: &str = "rust";
/// What they record.
const SELECTION: &str = "stage=logits";

/// A position differs.
const EXIT_DIVERGED: u8 = 1;

/// The default of `--rel-l2-tol`: logits whose cosine is at the default `--cos-tol` have at least this relative L2
/// (√(1 − 0.999²) = 0.0447), so the gate adds what cosine can't see, a wrong scale.
const DEFAULT_REL_L2: f64 = 0.05;

const EXAMPLES: &str = "\
Examples:
  cargo run -p xtask --features inference -- crossval-per-token --model model.gguf --prompt \"What is 2+2?\"
  ... --max-tokens 8 --cos-tol 0.9999 --format json
  BITNET_CPP_DIR=~/llama.cpp ... (your own llama.cpp in place of the pinned one)

Exit codes: 0 every position matches, 1 a position differs, 2 error (also: the engines' token ids differ).";

/// What to run, and how near is near enough.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, a GGUF file
    #[arg(long)]
    model: PathBuf,
    /// A tokenizer.json for the Rust engine; without it, the tokenizer in the GGUF is taken
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// The prompt
    #[arg(long)]
    prompt: String,
    /// How many tokens are generated after it, by llama.cpp; the Rust engine is fed with the same
    #[arg(long, default_value_t = 4)]
    max_tokens: usize,
    /// Least cosine similarity of a position's logits; higher is stricter
    #[arg(long, default_value_t = 0.999, value_parser = cosine)]
    cos_tol: f64,
    /// Largest relative L2 of a position's logits, ‖rust − cpp‖ / ‖cpp‖: it sees a wrong scale, which cosine can't
    #[arg(long, default_value_t = DEFAULT_REL_L2, value_parser = not_negative)]
    rel_l2_tol: f64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// A line a position
    Text,
    /// One JSON document
    Json,
}

/// Runs both engines, compares and prints. Returns the exit code.
///
/// # Errors
/// A model that can't be used, an engine that fails, token ids that differ, nothing to compare.
pub fn run(args: &Args) -> Result<u8> {
    let done = cross_validate(args);
    match (&done, args.format) {
        (Err(error), Format::Json) => {
            let document = json!({ "status": "error", "error": format!("{error:#}") });
            print(&format!("{document:#}\n"))?;
            eprintln!("error: {error:#}");
            Ok(EXIT_ERROR)
        }
        _ => done,
    }
}

fn cosine(text: &str) -> Result<f64, String> {
    let value = not_negative(text)?;
    if value <= 1.0 {
        Ok(value)
    } else {
        Err("a cosine is at most 1".into())
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if value >= 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err("it must be a number from 0 on".into())
    }
}

fn cross_validate(args: &Args) -> Result<u8> {
    // The model is looked at first: no engine need be built to find that it is none.
    Gguf::open(&args.model)?;
    let runner = places::cpp_runner()?;
    let database = tempfile::tempdir().context("no folder for temporary traces")?;
    record_cpp(&runner, args, database.path())?;
    record_rust(args, database.path())?;

    let records = |name: &str| -> Result<StoredRecords> {
        let run = Run::open(database.path().join(run_dir::dir_name(name)))?;
        Ok(StoredRecords::new(
            run,
            &Filter {
                stage: Some(LOGITS.into()),
                ..Filter::default()
            },
        ))
    };
    let (cpp, rust) = (records(CPP)?, records(RUST)?);
    let gates = Gates {
        rel_l2: Some(args.rel_l2_tol),
        cosine: Some(args.cos_tol),
        ..Gates::default()
    };
    let options = Options {
        tolerance: Tolerance::all(gates, "--cos-tol, --rel-l2-tol"),
        ..Options::default()
    };
    let mut report = tokens(
        &cpp.side(),
        &rust.side(),
        &StageGraph::builtin(),
        &options,
        DEFAULT_TOP_K,
    )?;
    if let Some(error) = &report.error {
        bail!("{}", error.message);
    }
    if let Some(lost) = report.positions.iter().find(|p| !p.verdict.is_compared()) {
        bail!(
            "position {} was computed by one engine only, or could not be compared",
            lost.seq
        );
    }
    count_nan_as_divergence(&mut report);
    match args.format {
        Format::Text => print(&text(&report))?,
        Format::Json => print(&(serde_json::to_string_pretty(&report)? + "\n"))?,
    }
    Ok(if report.first_divergence_token.is_some() {
        EXIT_DIVERGED
    } else {
        EXIT_MATCH
    })
}

/// NaN logits are never a pass, even where both engines give the same ones.
fn count_nan_as_divergence(report: &mut TokensReport) {
    for position in &mut report.positions {
        let sides = [&position.left, &position.right];
        if sides.into_iter().flatten().any(|record| record.nan_count > 0) {
            position.verdict = Verdict::Diverged;
            report.status = Status::Diverged;
        }
    }
    report.first_divergence_token = report.positions.iter().find(|p| p.diverged()).map(|p| p.seq);
}

/// Records the prompt and the continuation that llama.cpp chooses.
fn record_cpp(runner: &Path, args: &Args, database: &Path) -> Result<()> {
    let mut command = Command::new(runner);
    command
        .arg("--model")
        .arg(&args.model)
        .args(["--prompt", &args.prompt]);
    // An end token is no reason to compare fewer positions than were asked for.
    command.args(["--max-tokens", &args.max_tokens.to_string(), "--ignore-eos"]);
    command
        .env("BITNET_TRACE_DIR", database)
        .env("BITNET_TRACE_RUN", CPP)
        .env("BITNET_TRACE_SELECT", SELECTION)
        .env("BITNET_TRACE_VALUES", "full");
    let out = command
        .output()
        .with_context(|| format!("{} can't be run", runner.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "the C++ engine ended with {}: {}",
        out.status,
        said.trim()
    );
    Ok(())
}

/// Records the same prompt, through the Rust engine's own tokenizer, and llama.cpp's continuation.
fn record_rust(args: &Args, database: &Path) -> Result<()> {
    let recorder = Recorder::builder(database)
        .run(RUST)
        .engine(bitnet_models::engine_info())
        .select(SELECTION)
        .build()?;
    let mut load = LoadOptions::new(&args.model, recorder.clone());
    load.tokenizer.clone_from(&args.tokenizer);
    let mut engine = Engine::load(load, &mut |_, _| {})?;
    let forced = generated_ids(database, CPP)?;
    let forced: Vec<u32> = forced
        .split(',')
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let mut options = GenerateOptions::new(Prompt::Text(args.prompt.clone()), args.max_tokens);
    options.teacher_force = forced;
    options.ignore_eos = true;
    generate(&mut engine, &options, &mut |_| {})?;
    recorder.finish()?;
    Ok(())
}

/// A line a position, and what a match is.
fn text(report: &TokensReport) -> String {
    let mut lines = String::new();
    for position in &report.positions {
        let mark = if position.diverged() { '✗' } else { '✓' };
        let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.5}"));
        let (cosine, rel_l2) = (
            number(position.cosine),
            position.rel_l2.map_or("-".to_owned(), |n| format!("{n:.2e}")),
        );
        let first = report.first_divergence_token == Some(position.seq);
        let arrow = if first { " ← First divergence" } else { "" };
        lines += &format!(
            "{mark} t={} cosine={cosine} rel_l2={rel_l2}{arrow}\n",
            position.seq
        );
    }
    let (compared, tolerance) = (report.compared, &report.tolerance);
    lines + &format!("{compared} positions compared; a match is: {tolerance}\n")
}
