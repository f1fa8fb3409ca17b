//! Pairs of runs that are both right: engines, thread counts, batch shapes, cache types and fused attention. Each pair
//! must be a match by a floor that was measured on other prompts; and each run alone must be clean by the referee.

mod alone;

use crate::{
    EXIT_MATCH,
    lab::{self, CALIBRATION, Engine, Feed, Lab, PROMPTS},
    models::{self, MODELS, Model},
};
use alone::Alone;
use anyhow::{Result, ensure};
use clap::builder::PossibleValuesParser;
use serde_json::Value;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// A pair was called different.
const EXIT_ALARM: u8 = 1;

/// What is compared.
#[derive(clap::Args)]
pub struct Args {
    /// Only this model; can be given several times
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(model_names()))]
    model: Vec<String>,
    /// Only pairs of these two configurations, such as `cpp|rust`, and their runs; can be given several times
    #[arg(long, value_name = "A|B", value_parser = pair)]
    pair: Vec<(&'static str, &'static str)>,
    /// How many prompts are judged, of those that the floor is not measured on
    #[arg(long, default_value_t = PROMPTS.len() - CALIBRATION)]
    prompts: usize,
    /// Keep the runs here while they are needed, at most 3 GB [default: target]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write the table into this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// A way to run an engine.
struct Config {
    name: &'static str,
    engine: Role,
    options: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// llama.cpp, or bitnet.cpp where llama.cpp lacks the type.
    Cpp,
    Rust,
}

const fn config(name: &'static str, engine: Role, options: &'static [&'static str]) -> Config {
    Config {
        name,
        engine,
        options,
    }
}

/// One thread, an F32 cache, no flash attention and the prompt in one batch, unless it says otherwise.
const CONFIGS: [Config; 12] = [
    config("cpp", Role::Cpp, &[]),
    config("cpp again", Role::Cpp, &[]),
    config("cpp, 2 threads", Role::Cpp, &["--threads", "2"]),
    config("cpp, token by token", Role::Cpp, &["--batch", "1"]),
    config("cpp, batches of 4", Role::Cpp, &["--batch", "4"]),
    config("cpp, F16 cache", Role::Cpp, &["--kv-type", "f16"]),
    config(
        "cpp, flash attention",
        Role::Cpp,
        &["--kv-type", "f16", "--flash-attn", "on"],
    ),
    config("rust", Role::Rust, &["--threads", "1"]),
    config("rust, 2 threads", Role::Rust, &["--threads", "2"]),
    config(
        "rust, token by token",
        Role::Rust,
        &["--threads", "1", "--batch", "1"],
    ),
    config(
        "rust, batches of 4",
        Role::Rust,
        &["--threads", "1", "--batch", "4"],
    ),
    config(
        "rust, F16 cache",
        Role::Rust,
        &["--threads", "1", "--kv-type", "f16"],
    ),
];

/// The pairs, of every model.
const PAIRS: [(&str, &str); 13] = [
    ("cpp", "cpp again"),
    ("cpp", "cpp, 2 threads"),
    ("cpp", "cpp, token by token"),
    ("cpp", "cpp, batches of 4"),
    ("cpp", "cpp, F16 cache"),
    ("cpp, F16 cache", "cpp, flash attention"),
    ("cpp", "rust"),
    ("cpp, 2 threads", "rust, 2 threads"),
    ("cpp, token by token", "rust, token by token"),
    ("cpp, F16 cache", "rust, F16 cache"),
    ("rust", "rust, 2 threads"),
    ("rust", "rust, token by token"),
    ("cpp, batches of 4", "rust, batches of 4"),
];

/// The names of all models.
fn model_names() -> Vec<&'static str> {
    MODELS
        .iter()
        .map(|model| model.name)
        .chain(alone::names())
        .collect()
}

fn pair(text: &str) -> Result<(&'static str, &'static str), String> {
    let known = PAIRS.iter().find(|(a, b)| text == format!("{a}|{b}"));
    known.copied().ok_or_else(|| {
        let known: Vec<_> = PAIRS.iter().map(|(a, b)| format!("{a}|{b}")).collect();
        format!("it is one of: {}", known.join("; "))
    })
}

/// One pair on one prompt.
struct Judged {
    model: &'static str,
    pair: (&'static str, &'static str),
    prompt: usize,
    code: i32,
    /// Median relative L2 of layer_out in the first and in the last layer.
    growth: Option<(f64, f64)>,
    /// How close the stage that came closest to its limit came to it.
    ratio: Option<f64>,
    /// What was named, where the pair was called different.
    named: String,
}

/// Records, calibrates, judges and tells. Returns the exit code.
///
/// # Errors
/// Where something of the set-up is missing or a program fails.
pub fn run(args: &Args) -> Result<u8> {
    let held_out = PROMPTS.len() - CALIBRATION;
    ensure!(
        (1..=held_out).contains(&args.prompts),
        "--prompts is 1 to {held_out}"
    );
    let (mut judged, mut alone) = (Vec::new(), Vec::new());
    for model in models::chosen(&args.model) {
        let (pairs, runs) = judge(model, args)?;
        judged.extend(pairs);
        alone.extend(runs);
    }
    if args.pair.is_empty() {
        alone.extend(alone::others(&args.model, args.into.as_deref())?);
    }
    let document = document(&judged) + &alone::table(&alone);
    lab::publish(&document, args.write.as_deref())?;
    let clean = judged.iter().all(|pair| pair.code == 0) && !alone.iter().any(Alone::is_alarm);
    Ok(match clean {
        true => EXIT_MATCH,
        false => EXIT_ALARM,
    })
}

/// All pairs of one model, and each of their runs.
fn judge(model: &Model, args: &Args) -> Result<(Vec<Judged>, Vec<Alone>)> {
    let lab = Lab::new(args.into.as_deref())?;
    let file = (model.file)(&lab)?;
    let pairs: Vec<_> = match args.pair.as_slice() {
        [] => PAIRS.to_vec(),
        given => given.to_vec(),
    };
    // The first one generates, and the others are fed with its tokens.
    let configs: Vec<&Config> = CONFIGS
        .iter()
        .filter(|config| config.name == "cpp" || pairs.iter().any(|(a, b)| [a, b].contains(&&config.name)))
        .collect();
    let bar = lab::progress((CALIBRATION + args.prompts) * configs.len());
    let record = |prompt: usize| -> Result<Vec<String>> {
        let mut runs = Vec::new();
        for config in &configs {
            let run = run_name(config.name, prompt);
            bar.set_message(format!("{}: {run}", model.name));
            let (engine, mut options) = match config.engine {
                Role::Cpp => (model.cpp, Vec::new()),
                Role::Rust => (Engine::Rust, vec!["--activations", model.activations]),
            };
            options.extend(config.options);
            match runs.is_empty() {
                true => lab.record(&run, engine, &file, &Feed::Text(PROMPTS[prompt]), &options)?,
                false => {
                    let ids = lab.ids(&run_name("cpp", prompt))?;
                    lab.record(&run, engine, &file, &Feed::Ids(&ids), &options)?;
                }
            }
            runs.push(run);
            bar.inc(1);
        }
        Ok(runs)
    };
    let mut trusted = Vec::new();
    for prompt in 0..CALIBRATION {
        trusted.extend(record(prompt)?);
    }
    let names: Vec<&str> = trusted.iter().map(String::as_str).collect();
    bar.set_message(format!("{}: calibrating", model.name));
    let floor = lab.calibrate(&names)?;
    names.iter().try_for_each(|run| lab.remove(run))?;

    let (mut judged, mut alone) = (Vec::new(), Vec::new());
    for prompt in CALIBRATION..CALIBRATION + args.prompts {
        for (run, config) in record(prompt)?.iter().zip(&configs) {
            let number = (prompt + 1).to_string();
            alone.push(Alone::of(&lab, run, &file, model.name, config.name, number)?);
        }
        for &pair in &pairs {
            judged.push(judge_pair(&lab, model, pair, prompt, &floor)?);
        }
    }
    bar.finish_and_clear();
    Ok((judged, alone))
}

fn run_name(config: &str, prompt: usize) -> String {
    format!("{}-{prompt}", config.replace(", ", "-").replace(' ', "-"))
}

fn judge_pair(
    lab: &Lab,
    model: &Model,
    pair: (&'static str, &'static str),
    prompt: usize,
    floor: &Path,
) -> Result<Judged> {
    let (a, b) = (run_name(pair.0, prompt), run_name(pair.1, prompt));
    let floor = floor.to_string_lossy();
    let by_floor = ["--floor", floor.as_ref(), "--local=never"];
    let (code, first) = lab.ask("first", &[&a, &b], &by_floor)?;
    let (_, compared) = lab.ask("compare", &[&a, &b], &by_floor)?;
    let layers = compared["growth"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let median = |layer: Option<&Value>| layer.and_then(|layer| layer["median_rel_l2"].as_f64());
    Ok(Judged {
        model: model.name,
        pair,
        prompt,
        code,
        growth: median(layers.first()).zip(median(layers.last())),
        ratio: first["floor"]["largest"]["of_limit"].as_f64(),
        named: named(&first),
    })
}

/// What a document of `first` says that is no match.
fn named(first: &Value) -> String {
    match (&first["first_divergence"], &first["error"]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, error) => error["message"].as_str().unwrap_or_default().to_owned(),
        (place, _) => format!(
            "{}, {}, {}",
            place["seq"],
            place["layer"],
            place["stage"].as_str().unwrap_or_default()
        ),
    }
}

/// The table.
fn document(judged: &[Judged]) -> String {
    let alarms = judged.iter().filter(|pair| pair.code != 0).count();
    let mut out = format!(
        "# Pairs of runs that are both right\n\n\
         Written by `make honest`. Each configuration of both engines is recorded on {CALIBRATION} prompts, from which `bitnet-diff calibrate`\n\
         measures one floor for each model. Pairs on other prompts are then judged with `bitnet-diff first --floor FLOOR --local=never`: each should end\n\
         with exit code 0. `cpp` is llama.cpp for SmolLM2-135M and bitnet.cpp for the BitNet fixture (2 layers, random weights); engines compute\n\
         with one thread, an F32 KV cache, no flash attention and the prompt in one batch, unless it says otherwise. layer_out is the median\n\
         relative L2 over the positions, in the first and in the last layer; the ratio is that of the stage which came closest to its limit.\n\n\
         {} pairs, {alarms} of them called different.\n\n\
         | Model | Left | Right | Prompt | layer_out | Ratio | Exit |\n|---|---|---|---|---|---|---|\n",
        judged.len()
    );
    for pair in judged {
        let growth = pair
            .growth
            .map(|(first, last)| format!("{first:.1e} → {last:.1e}"));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {}{} |",
            pair.model,
            pair.pair.0,
            pair.pair.1,
            pair.prompt + 1,
            growth.unwrap_or_default(),
            pair.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            pair.code,
            match pair.named.as_str() {
                "" => String::new(),
                named => format!(" ({named})"),
            }
        );
    }
    out
}
