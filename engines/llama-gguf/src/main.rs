//! Runs a GGUF model with the llama-gguf engine, and records it where `BITNET_TRACE_DIR` says so.
//!
//! Exit codes: 0 for success, 2 for every error.

use anyhow::{Context, Result, anyhow, ensure};
use bitnet_trace::{Engine, Model as ModelInfo, Recorder, Settings};
use clap::Parser;
use llama_gguf::backend::cpu::CpuBackend;
use llama_gguf::model::{InferenceContext, Model, ModelLoader};
use llama_gguf_recorder::Observed;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  llama-gguf-runner --model model.gguf --tokens 504,3575,282 --max-tokens 4
  bitnet-diff record --into traces --name rust -- llama-gguf-runner --model model.gguf --tokens 504,3575,282

The ids of the continuation go to stdout.
Exit codes: 0 success, 2 error.";

/// Continues token ids greedily with the llama-gguf engine.
#[derive(Parser)]
#[command(name = "llama-gguf-runner", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Args {
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The token ids to continue.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// Most tokens to generate. The last one is not fed back: prompt + N - 1 positions are computed.
    #[arg(long, value_name = "N", default_value_t = 4)]
    max_tokens: usize,
    /// Most prompt tokens in one forward call, of which the engine computes logits for the last alone.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llama-gguf-runner: error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let recorder = Recorder::from_env(Engine::new("llama-gguf", "0.14.0"));
    let loader = ModelLoader::load(&args.model).with_context(|| format!("{}", args.model.display()))?;
    let arch = format!("{:?}", loader.architecture()).to_lowercase();
    let model = loader.build_model().context("building the model")?;
    recorder.set_model(ModelInfo {
        path: args.model.display().to_string(),
        arch: Some(arch),
        ..ModelInfo::default()
    });
    recorder.set_settings(Settings {
        kv_type: Some("F32".into()),
        flash_attention: Some(false),
        ..Settings::default()
    });
    recorder.describe(|info| info.prompt_tokens = Some(args.tokens.len() as u64));
    let backend = Arc::new(Observed::new(CpuBackend::new(), recorder.clone()));
    let mut context = InferenceContext::new(model.config(), backend.clone());
    let mut forward = |ids: &[u32]| -> Result<u32> {
        backend.begin(context.position, ids);
        check_replay(&recorder)?;
        let logits = model.forward(ids, &mut context)?;
        let logits = logits.as_f32()?;
        ensure!(!logits.is_empty(), "the model gave no logits");
        let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        Ok(u32::try_from(best)?)
    };
    let mut next = 0;
    for ids in args.tokens.chunks(args.batch as usize) {
        next = forward(ids)?;
    }
    let mut generated = Vec::new();
    while generated.len() < args.max_tokens {
        if let Some(&last) = generated.last() {
            next = forward(&[last])?;
        }
        generated.push(next);
    }
    let text: Vec<String> = generated.iter().map(u32::to_string).collect();
    println!("{}", text.join(","));
    recorder.finish()?;
    check_replay(&recorder) // whether anything was replayed is known at the end only
}

/// An engine that was to go on with recorded tensors, and cannot, does not go on.
fn check_replay(recorder: &Recorder) -> Result<()> {
    match recorder.replay_error() {
        Some(error) => Err(anyhow!("the replay stopped: {error}")),
        None => Ok(()),
    }
}
