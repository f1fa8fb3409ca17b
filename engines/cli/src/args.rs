//! The command line.

use std::path::PathBuf;

use bitnet_models::{Activations, KvType, TinyType};
use clap::{Parser, Subcommand};

const RUN_EXAMPLES: &str = "\
Examples:
  bitnet-cli run --model model.gguf --prompt \"The capital of France is\" --max-tokens 16
  bitnet-cli run --model model.gguf --tokens 504,3575,282 --max-tokens 4 --verbose
  bitnet-cli run --model model.gguf --tokens 504,3575 --teacher-force 282,4649 --max-tokens 2

Record every stage of every position (in builds with the feature trace):
  BITNET_TRACE_DIR=traces BITNET_TRACE_RUN=rust bitnet-cli run --model model.gguf --prompt Hello --max-tokens 4

The continuation goes to stdout, everything else to stderr.
Exit codes: 0 success, 2 error.";

/// Runs GGUF models (architectures llama and bitnet) on the CPU and records their tensors.
#[derive(Parser)]
#[command(name = "bitnet-cli", version, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Continue a prompt, greedily.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Write a copy of a quantised model with every weight as F32.
    ///
    /// The metadata is carried over unchanged, except general.file_type. On F32 weights two right engines
    /// agree to about 1e-6, so that small differences show.
    Dequantize(DequantizeArgs),
    /// Write a small random llama model, for tests. The same options give the same bytes.
    Tiny(TinyArgs),
}

/// Options of `run`.
#[derive(clap::Args)]
pub struct RunArgs {
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// A tokenizer.json, in place of the tokenizer in the GGUF.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// The text to continue.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "tokens",
        conflicts_with = "tokens"
    )]
    pub prompt: Option<String>,
    /// The token ids to continue, in place of a text; no BOS is added.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub tokens: Option<Vec<u32>>,
    /// What products with quantised weights do to their activations.
    ///
    /// reference: round them to 8 bits as llama.cpp and bitnet.cpp do (to the bit for I2_S, TQ1_0 and TQ2_0);
    /// reference-fma: the same as gcc compiles it, which fuses multiply and add; exact: dequantise the weights when
    /// they are loaded (4 bytes each) and compute in f32, so that what remains of a difference is not the rounding.
    #[arg(long, value_name = "HOW", default_value_t = Activations::default())]
    pub activations: Activations,
    /// Element type of the KV cache: f32, or f16 as most C++ programs have it.
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default())]
    pub kv_type: KvType,
    /// Most tokens to generate. The last one is not fed back: prompt + N - 1 positions are computed.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_tokens: usize,
    /// Feed these ids as the first tokens of the continuation, in place of the engine's own choices.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub teacher_force: Vec<u32>,
    /// Most prompt tokens in one forward call; 1 takes the prompt token by token.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub batch: usize,
    /// Threads; the default is RAYON_NUM_THREADS, or one a physical core.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// Take control tokens written in the prompt (<|im_start|>) for those tokens, and print generated ones.
    #[arg(long)]
    pub special: bool,
    /// Go on after an end-of-generation token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Plant a fault, `NAME[=VALUE][@layer=L][,from=P][,stage=S]`; can be given several times.
    #[cfg(feature = "faults")]
    #[arg(long, value_name = "FAULT", long_help = fault_help())]
    pub fault: Vec<bitnet_models::Fault>,
    /// Print token ids, timings and where the trace went to stderr.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Options of `dequantize`.
#[derive(clap::Args)]
pub struct DequantizeArgs {
    /// The quantised model.
    pub input: PathBuf,
    /// The F32 copy; replaced when it exists.
    pub output: PathBuf,
}

/// Options of `tiny`.
#[derive(clap::Args)]
pub struct TinyArgs {
    /// The model to write; replaced when it exists.
    pub output: PathBuf,
    /// Types of the weights: f32, or q4_1 (with a Q8_0 embedding table).
    #[arg(long = "type", value_name = "TYPE", default_value = "f32")]
    pub weights: TinyType,
    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(feature = "faults")]
fn fault_help() -> String {
    let mut help = "Plant a fault, NAME[=VALUE][@layer=L][,from=P][,stage=S], at layer L (default: all), from position P \
                    (default: 0) on and at stage S (default: as listed); can be given several times:\n"
        .to_owned();
    for class in bitnet_models::FAULTS {
        help += &format!(
            "  {:<21} {}; at {}",
            class.form(),
            class.meaning,
            class.stages.join(", ")
        );
        let elsewhere = class
            .elsewhere
            .iter()
            .filter(|stage| !class.stages.contains(stage));
        let elsewhere: Vec<_> = elsewhere.copied().collect();
        match elsewhere.len() {
            0 => {}
            1..10 => help += &format!(" (or {})", elsewhere.join(", ")),
            _ => help += " (or any other)",
        }
        help += "\n";
    }
    help + "Examples: --fault rope-base=5000@layer=6,from=3 --fault weight-scale=2@stage=ffn_up"
}
