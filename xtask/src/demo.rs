//! The demo: one prompt through llama.cpp and the Rust engine, a BitNet through bitnet.cpp and the Rust engine, and
//! questions about them.

use crate::{places, print};
use anyhow::{Context, Result, bail, ensure};
use bitnet_trace_schema::Manifest;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Where, and with what, the demo runs.
#[derive(clap::Args)]
pub struct Args {
    /// The prompt that both engines get
    #[arg(long, default_value = "The capital of France is the city of")]
    prompt: String,
    /// How many tokens they generate
    #[arg(long, default_value_t = 6)]
    max_tokens: u32,
    /// The fault that is planted in the Rust engine in the second step
    #[arg(long, default_value = "missing-residual@layer=6,from=3")]
    fault: String,
}

struct Demo<'a> {
    args: &'a Args,
    bin: PathBuf,
    runner: PathBuf,
    bitnet: PathBuf,
    traces: PathBuf,
}

/// Records the runs and tells the story.
///
/// # Errors
/// Where something of the set-up is missing, a program fails, or the story is not the expected one.
pub fn run(args: &Args) -> Result<()> {
    let root = places::root();
    let models = root.join("target/demo/models");
    let demo = Demo {
        args,
        bin: std::env::current_exe()?
            .parent()
            .context("the program has no directory")?
            .to_owned(),
        runner: root.join("target/demo/bin/cpp-runner"),
        bitnet: root.join("target/demo/bitnet/bin/cpp-runner"),
        traces: PathBuf::from("target/demo/traces"),
    };
    std::env::set_current_dir(&root)?;
    let (q4, f32) = (
        models.join("smollm2-135m-q4_1.gguf"),
        models.join("smollm2-135m-f32.gguf"),
    );
    for needed in [&demo.runner, &q4] {
        ensure!(
            needed.is_file(),
            "{} is missing; `make demo` builds and fetches it",
            needed.display()
        );
    }
    let began = Instant::now();

    if !f32.is_file() {
        say("Dequantising the model, for a control on F32 weights")?;
        demo.must(
            Command::new(demo.bin.join("bitnet-cli"))
                .arg("dequantize")
                .args([&q4, &f32]),
            &[0],
        )?;
    }
    if demo.traces.exists() {
        fs::remove_dir_all(&demo.traces)
            .with_context(|| format!("cannot remove {}", demo.traces.display()))?;
    }
    say(&format!(
        "Recording the prompt {:?} through both engines",
        args.prompt
    ))?;
    let fault = ["--fault", &args.fault];
    let runner = &demo.runner;
    demo.record_pair(
        runner,
        "cpp-f32",
        &[("rust-f32", &[]), ("rust-fault", &fault)],
        &f32,
    )?;
    demo.record_pair(runner, "cpp", &[("rust", &[])], &q4)?;
    demo.show(&["runs"], &[], 0)?;

    say("1. The control: F32 weights, F32 KV cache. Do the engines match, stage by stage?")?;
    demo.show(&["first"], &["cpp-f32", "rust-f32"], 0)?;

    say(&format!(
        "2. The same with a fault planted in the Rust engine ({}). Is it found?",
        args.fault
    ))?;
    demo.show(&["first"], &["cpp-f32", "rust-fault"], 1)?;

    say("3. The Q4_1 model as users run it. The logits are percents apart: is one of the engines wrong?")?;
    demo.show(&["tokens"], &["cpp", "rust"], 1)?;
    demo.show(&["judge"], &["cpp", "rust"], 0)?;
    demo.show(
        &[
            "query", "--seq", "3", "--layer", "0", "--run", "cpp", "--run", "rust",
        ],
        &[],
        0,
    )?;

    demo.bitnet(&models)?;

    say(&format!(
        "Done in {:.0} s. The traces are in {}:",
        began.elapsed().as_secs_f64(),
        demo.traces.display()
    ))?;
    let traces = demo.traces.display();
    print(&format!(
        "  target/release/bitnet-diff compare {traces}/run=cpp-f32 {traces}/run=rust-fault\n  \
         duckdb -c \"SELECT run, count(*) FROM read_parquet('{traces}/**/*.parquet', hive_partitioning=true) GROUP BY run\"\n"
    ))
}

impl Demo<'_> {
    /// A small BitNet in its 2-bit type, in the reference's arithmetic and without its rounding.
    fn bitnet(&self, models: &Path) -> Result<()> {
        if !self.bitnet.is_file() {
            return say("4. BitNet is left out: bitnet.cpp needs a processor with AVX2");
        }
        let model = models.join("bitnet-i2_s.gguf");
        let mut fixture = Command::new(std::env::current_exe()?);
        fixture
            .args(["fixture", "bitnet", "--type", "i2_s", "-o"])
            .arg(&model);
        self.must(&mut fixture, &[0])?;
        say(
            "4. A BitNet in I2_S: bitnet.cpp against the Rust engine, in its arithmetic and with exact activations",
        )?;
        let arithmetic = |how| ["--activations", how];
        self.record_pair(
            &self.bitnet,
            "bitnet-cpp",
            &[
                ("bitnet-rust", &arithmetic("reference-fma")),
                ("bitnet-exact", &arithmetic("exact")),
            ],
            &model,
        )?;
        // One 8-bit code that rounds the other way on another processor is 2e-3.
        let floor = ["compare", "--rel-l2", "5e-3"];
        self.show(&floor, &["bitnet-cpp", "bitnet-rust"], 0)?;
        self.show(&["first"], &["bitnet-cpp", "bitnet-exact"], 0)
    }

    /// Records a C++ engine, then the Rust engine, with more arguments, on the ids that the first one generated.
    fn record_pair(&self, runner: &Path, cpp: &str, rust: &[(&str, &[&str])], model: &Path) -> Result<()> {
        let tokens = self.args.max_tokens.to_string();
        let common = [
            "--prompt",
            &self.args.prompt,
            "--max-tokens",
            &tokens,
            "--ignore-eos",
        ];
        let mut runner = Command::new(runner);
        // A random model's text is noise.
        let quiet = *runner.get_program() == *self.bitnet;
        self.record(cpp, runner.arg("--model").arg(model).args(common), quiet)?;
        let ids = generated_ids(&self.traces, cpp)?;
        for (name, more) in rust {
            let mut engine = Command::new(self.bin.join("bitnet-cli"));
            engine
                .arg("run")
                .arg("--model")
                .arg(model)
                .args(common)
                .args(["--teacher-force", &ids])
                .args(*more);
            self.record(name, &engine, quiet)?;
        }
        Ok(())
    }

    /// Runs `program` under `bitnet-diff record`; `quiet` leaves out what it prints.
    fn record(&self, name: &str, program: &Command, quiet: bool) -> Result<()> {
        let mut record = Command::new(self.bin.join("bitnet-diff"));
        record
            .env_remove("BITNET_TRACE_SELECT")
            .env_remove("BITNET_TRACE_VALUES");
        record
            .args(["record", "--into"])
            .arg(&self.traces)
            .args(["--name", name, "--"]);
        record.arg(program.get_program()).args(program.get_args());
        if quiet {
            record.stdout(Stdio::null());
        }
        self.must(&mut record, &[0])
    }

    /// Prints a command of bitnet-diff and runs it on runs of the demo's database (or on the database).
    fn show(&self, command: &[&str], runs: &[&str], expected: i32) -> Result<()> {
        let mut words: Vec<String> = command.iter().map(|&w| w.to_owned()).collect();
        if runs.is_empty() {
            words.insert(1, self.traces.display().to_string());
        }
        words.extend(
            runs.iter()
                .map(|run| format!("{}/run={run}", self.traces.display())),
        );
        print(&format!("\n$ bitnet-diff {}\n", words.join(" ")))?;
        self.must(
            Command::new(self.bin.join("bitnet-diff")).args(&words),
            &[expected],
        )
    }

    fn must(&self, command: &mut Command, codes: &[i32]) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command
            .status()
            .with_context(|| format!("{program} can't be run; `make demo` builds it"))?;
        match status.code() {
            Some(code) if codes.contains(&code) => Ok(()),
            _ => bail!("{program} ended with {status}, where {codes:?} was expected"),
        }
    }
}

/// The ids that a recorded run fed after its prompt, as `--teacher-force` takes them.
pub fn generated_ids(database: &Path, run: &str) -> Result<String> {
    let path = database
        .join(bitnet_trace_schema::run_dir::dir_name(run))
        .join(bitnet_trace_schema::run_dir::MANIFEST);
    let manifest =
        Manifest::from_json(&fs::read(&path).with_context(|| format!("no run at {}", path.display()))?)?;
    let prompt = manifest
        .prompt_tokens
        .context("the run does not say how long its prompt is")?;
    let sequence = manifest.sequences.first().context("the run has no token ids")?;
    let fed = sequence.ids.iter().skip(prompt as usize);
    let ids: Vec<String> = fed
        .map(|id| id.context("an id is unknown").map(|id| id.to_string()))
        .collect::<Result<_>>()?;
    Ok(ids.join(","))
}

fn say(text: &str) -> Result<()> {
    print(&format!("\n── {text}\n"))
}
