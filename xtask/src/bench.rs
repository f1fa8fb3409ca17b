//! How much slower the C++ engine is when everything is recorded.

use crate::{places, print};
use anyhow::{Context, Result, ensure};
use bitnet_diff::doctor::median;
use bitnet_trace_schema::{Manifest, RunState};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// What a recorded run may cost, against the same run without recording.
const REACH: f64 = 1.15;

/// With what, and how often, the engine runs.
#[derive(clap::Args)]
pub struct Args {
    /// How often each way; the two ways take turns, and medians are printed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many tokens are generated
    #[arg(long, default_value_t = 32)]
    max_tokens: u32,
    /// The prompt
    #[arg(
        long,
        default_value = "The capital of France is Paris, and the capital of Germany is Berlin. The"
    )]
    prompt: String,
    /// The C++ runner [default: target/demo/bin/cpp-runner]
    #[arg(long, value_name = "FILE")]
    runner: Option<PathBuf>,
}

/// Times in seconds of one model's runs, and what was recorded.
#[derive(Default)]
struct Timed {
    without: Vec<f64>,
    with: Vec<f64>,
    bytes: u64,
    records: u64,
    engine: String,
}

/// Prints the table.
///
/// # Errors
/// Where something of the set-up is missing, a run fails, is not recorded whole, or says something else when it is
/// recorded.
pub fn run(args: &Args) -> Result<()> {
    let demo = places::root().join("target/demo");
    let default = demo.join("bin/cpp-runner");
    let runner = args.runner.as_ref().unwrap_or(&default);
    let dir = demo.join("bench");
    let mut lines = Vec::new();
    for weights in ["q4_1", "f32"] {
        let model = demo.join(format!("models/smollm2-135m-{weights}.gguf"));
        for needed in [runner, &model] {
            ensure!(
                needed.is_file(),
                "{} is missing; `make demo` builds and fetches it",
                needed.display()
            );
        }
        let timed = time(args, runner, &model, &dir);
        let _ = fs::remove_dir_all(&dir);
        lines.push((weights, timed?));
    }
    let mut out = format!(
        "{}\n{}, one thread, every stage, full values; {} tokens generated; medians of {}\n\n",
        machine(),
        lines[0].1.engine,
        args.max_tokens,
        args.runs
    );
    out += "weights   without      with   ratio   reach   recorded\n";
    for (weights, timed) in &lines {
        let (without, with) = (median(&timed.without), median(&timed.with));
        let ratio = with / without;
        out += &format!(
            "{weights:<7} {without:>7.3} s {with:>7.3} s {ratio:>7.3} {} {REACH:.2}   {} records, {:.1} MB\n",
            if ratio <= REACH { " ≤" } else { " >" },
            timed.records,
            timed.bytes as f64 / 1e6
        );
    }
    print(&out)
}

/// Runs the engine in turns without and with recording.
fn time(args: &Args, runner: &Path, model: &Path, dir: &Path) -> Result<Timed> {
    let mut timed = Timed::default();
    let once = |record: bool| -> Result<(f64, Vec<u8>)> {
        let mut command = Command::new(runner);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BITNET_TRACE_") {
                command.env_remove(name);
            }
        }
        command
            .arg("--model")
            .arg(model)
            .args([
                "--threads",
                "1",
                "--ignore-eos",
                "--max-tokens",
                &args.max_tokens.to_string(),
            ])
            .args(["--prompt", &args.prompt])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        if record {
            command
                .env("BITNET_TRACE_DIR", dir)
                .env("BITNET_TRACE_RUN", "bench");
        }
        let _ = fs::remove_dir_all(dir);
        let start = Instant::now();
        let out = command
            .output()
            .with_context(|| format!("{} can't be run", runner.display()))?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(
            out.status.success(),
            "{} failed: {}",
            runner.display(),
            out.status
        );
        Ok((seconds, out.stdout))
    };
    once(false)?; // brings the model into the page cache
    for _ in 0..args.runs {
        let (seconds, alone) = once(false)?;
        timed.without.push(seconds);
        let (seconds, recorded) = once(true)?;
        timed.with.push(seconds);
        ensure!(alone == recorded, "recording changes what the engine says");
        let manifest = fs::read(dir.join("run=bench/run.json")).context("nothing was recorded")?;
        let manifest = Manifest::from_json(&manifest)?;
        ensure!(
            manifest.state == RunState::Complete && manifest.dropped.total == 0,
            "the run was not recorded whole"
        );
        timed.records = manifest.records;
        timed.bytes = manifest.parts.iter().map(|p| p.bytes).sum();
        timed.engine = format!(
            "{} {}, recorder {}",
            manifest.engine.name, manifest.engine.version, manifest.writer.version
        );
    }
    Ok(timed)
}

/// Processor, kernel, file system and load: what the figures depend on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{model}, {cores} cores, Linux {}, load {load} at the end",
        kernel.trim()
    )
}
