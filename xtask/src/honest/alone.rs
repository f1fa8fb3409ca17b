//! Honest runs, each held against the mathematics of its model alone: no reference engine and no calibration.

use crate::{
    lab::{self, Engine, Feed, Lab, PROMPTS},
    places,
};
use anyhow::{Context, Result};
use bitnet_models::{TinyArch, TinySpec, TinyType, write_tiny_model};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What `bitnet-diff judge` said of one run.
pub struct Alone {
    model: String,
    config: &'static str,
    prompt: String,
    told: u64,
    refused: u64,
    /// The record that came closest to what rounding explains: its share of that, and its stage.
    worst: Option<(f64, String)>,
    verdict: String,
}

impl Alone {
    /// Judges a run.
    ///
    /// # Errors
    /// Where `bitnet-diff` can't be run.
    pub fn of(
        lab: &Lab,
        run: &str,
        file: &Path,
        model: &str,
        config: &'static str,
        prompt: String,
    ) -> Result<Self> {
        let (_, judged) = lab.ask("judge", &[run], &["--model", &file.to_string_lossy()])?;
        let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
        let stages = list(&judged["stages"]).into_iter();
        let units = stages.filter_map(|stage| {
            let name = stage["stage"].as_str()?.to_owned();
            Some((stage["left"]["units"].as_f64()?, name))
        });
        let refused = list(&judged["refused"]).into_iter();
        let first = &judged["origin"]["first"];
        let verdict = judged["verdict"].as_str().unwrap_or("error");
        Ok(Self {
            model: model.to_owned(),
            config,
            prompt,
            told: judged["told"].as_u64().unwrap_or(0),
            refused: refused.filter_map(|reason| reason["count"].as_u64()).sum(),
            worst: units.max_by(|a, b| a.0.total_cmp(&b.0)),
            verdict: match first["stage"].as_str() {
                Some(stage) => format!("off at {}, {}, {stage}", first["seq"], first["layer"]),
                None => verdict.to_owned(),
            },
        })
    }

    /// Whether an honest run was called off, or nothing could be told of it.
    pub fn is_alarm(&self) -> bool {
        self.verdict != "clean"
    }
}

/// A model that is judged in runs of one engine alone.
struct Other {
    name: &'static str,
    engine: Engine,
    file: fn(&Lab) -> Result<PathBuf>,
}

const fn tiny(name: &'static str, file: fn(&Lab) -> Result<PathBuf>) -> Other {
    Other {
        name,
        engine: Engine::LlamaCpp,
        file,
    }
}

const GEMMA: &str = "Gemma-3-270M-Q4_K_M";

/// Architectures that only llama.cpp runs, and an engine that is not ours.
const OTHERS: [Other; 11] = [
    tiny("tiny-llama-F32", |lab| written(lab, TinyArch::Llama, "f32")),
    tiny("tiny-llama-Q4_1", |lab| written(lab, TinyArch::Llama, "q4_1")),
    tiny("tiny-qwen2-F32", |lab| written(lab, TinyArch::Qwen2, "f32")),
    tiny("tiny-qwen2-Q4_1", |lab| written(lab, TinyArch::Qwen2, "q4_1")),
    tiny("tiny-qwen3-F32", |lab| written(lab, TinyArch::Qwen3, "f32")),
    tiny("tiny-qwen3-Q4_1", |lab| written(lab, TinyArch::Qwen3, "q4_1")),
    tiny("tiny-gemma3-F32", |lab| written(lab, TinyArch::Gemma3, "f32")),
    tiny("tiny-gemma3-Q4_1", |lab| written(lab, TinyArch::Gemma3, "q4_1")),
    tiny(GEMMA, |_| {
        lab::existing(places::root().join("target/demo/models/gemma-3-270m-q4_k_m.gguf"))
    }),
    Other {
        name: "SmolLM2-Q4_1, llama-gguf",
        engine: Engine::LlamaGguf,
        file: |_| lab::smollm2("q4_1"),
    },
    Other {
        name: "SmolLM2-F32, llama-gguf",
        engine: Engine::LlamaGguf,
        file: |_| lab::smollm2("f32"),
    },
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    OTHERS.iter().map(|other| other.name)
}

fn written(lab: &Lab, arch: TinyArch, weights: &str) -> Result<PathBuf> {
    let path = lab.file("tiny.gguf");
    let spec = TinySpec {
        arch,
        weights: weights.parse::<TinyType>().map_err(anyhow::Error::msg)?,
        ..TinySpec::default()
    };
    write_tiny_model(&path, &spec)?;
    Ok(path)
}

/// Ways to run an engine, as `--pair` names them.
type Way = (&'static str, &'static [&'static str]);

const WAYS_OF_CPP: [Way; 4] = [
    ("cpp", &[]),
    ("cpp, token by token", &["--batch", "1"]),
    ("cpp, F16 cache", &["--kv-type", "f16"]),
    (
        "cpp, flash attention",
        &["--kv-type", "f16", "--flash-attn", "on"],
    ),
];
const WAYS_OF_LLAMA_GGUF: [Way; 2] = [
    ("llama-gguf", &[]),
    ("llama-gguf, token by token", &["--batch", "1"]),
];

/// Records the others that `names` has, or all, in every way, and judges each run.
///
/// # Errors
/// Where something of the set-up is missing or a program fails.
pub fn others(names: &[String], into: Option<&Path>) -> Result<Vec<Alone>> {
    let chosen: Vec<&Other> = OTHERS
        .iter()
        .filter(|other| names.is_empty() || names.iter().any(|name| name == other.name))
        .collect();
    let bar = lab::progress(chosen.len());
    let mut judged = Vec::new();
    let last = PROMPTS.len() - 1;
    for other in chosen {
        bar.set_message(other.name);
        let lab = Lab::new(into)?;
        let file = (other.file)(&lab)?;
        let prompt = PROMPTS[last];
        let mut judge = |run: &str, config, prompt: String| -> Result<()> {
            let alone = Alone::of(&lab, run, &file, other.name, config, prompt)?;
            judged.push(alone);
            lab.remove(run)
        };
        match other.engine {
            Engine::LlamaGguf => {
                lab.record("tokens", Engine::LlamaCpp, &file, &Feed::Text(prompt), &[])?;
                let ids = lab.ids("tokens")?;
                for (config, options) in WAYS_OF_LLAMA_GGUF {
                    lab.record("run", other.engine, &file, &Feed::Ids(&ids), options)?;
                    judge("run", config, (last + 1).to_string())?;
                }
            }
            engine => {
                for (config, options) in WAYS_OF_CPP {
                    lab.record("run", engine, &file, &Feed::Text(prompt), options)?;
                    judge("run", config, (last + 1).to_string())?;
                }
            }
        }
        if other.name == GEMMA {
            // Beyond the window of 512 tokens, in a layer with a window and in the one behind it, which has none.
            let long = PROMPTS.join(" ").repeat(5);
            let select = "layer=4-5,stage=k_cache|v_cache;layer=3-5,seq=0|1|255|511-514|600";
            lab.record_selected("run", other.engine, &file, &Feed::Text(&long), &[], Some(select))
                .context("a prompt beyond the window")?;
            judge("run", "cpp", "601 tokens and more".to_owned())?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(judged)
}

/// The table.
pub fn table(judged: &[Alone]) -> String {
    let alarms = judged.iter().filter(|run| run.is_alarm()).count();
    let mut out = format!(
        "\n## Each run alone\n\n\
         `bitnet-diff judge RUN`: every record against the exact result of its own recorded inputs, with no other engine and no calibration.\n\
         Each should be clean. The worst is the record that came closest to what rounding explains, in units of that; refused are records\n\
         whose inputs were not recorded (fused attention) or are not selected.\n\n\
         {} runs, {alarms} of them called off.\n\n\
         | Model | Run | Prompt | Records told | Refused | Worst | Verdict |\n|---|---|---|---|---|---|---|\n",
        judged.len()
    );
    for run in judged {
        let worst = run.worst.as_ref();
        let worst = worst.map(|(units, stage)| format!("{units:.2}, {stage}"));
        out += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            run.model,
            run.config,
            run.prompt,
            run.told,
            run.refused,
            worst.unwrap_or_default(),
            run.verdict
        );
    }
    out
}
