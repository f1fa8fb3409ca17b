//! A GGUF inference engine on candle with a tracepoint at every stage.
//!
//! [`Gguf`] is a model file, opened and checked, [`Tokenizer`] gives the ids that
//! llama.cpp gives, [`Engine`] computes the forward pass of architecture `llama` or of a BitNet,
//! and [`generate`] runs it on a prompt. With the feature `trace` every stage of the trace
//! vocabulary, from `embeddings` to `logits`, goes to a `bitnet_trace::Recorder` for every position;
//! without it, nothing is computed or copied for that. With the feature `faults`,
//! a `Fault` can be planted at one layer or all, from one position on.
//!
#![cfg_attr(feature = "cpu", doc = "```")]
#![cfg_attr(not(feature = "cpu"), doc = "```ignore")]
//! use bitnet_models::{Engine, GenerateOptions, LoadOptions, Prompt, TinySpec, generate, write_tiny_model};
//! use bitnet_trace::Recorder;
//!
//! let dir = tempfile::tempdir()?;
//! let model = dir.path().join("tiny.gguf");
//! write_tiny_model(&model, &TinySpec::default())?;
//!
//! // Records when BITNET_TRACE_DIR is set.
//! let recorder = Recorder::from_env(bitnet_models::engine_info());
//! let mut engine = Engine::load(LoadOptions::new(&model, recorder), &mut |_, _| {})?;
//! let options = GenerateOptions::new(Prompt::Text("The capital".to_owned()), 3);
//! let generation = generate(&mut engine, &options, &mut |_| {})?;
//! assert!(!generation.generated_ids.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
// Without a backend only files and tokenizers can be read, and the rest of the plumbing idles.
#![cfg_attr(not(feature = "cpu"), allow(dead_code))]

mod activations;
mod config;
mod error;
mod sampler;
mod tokenizer;

pub use activations::Activations;
pub use bitnet_gguf::Gguf;
pub use config::Config;
pub use error::Error;
pub use sampler::greedy;
pub use tokenizer::{TextStream, Tokenizer};

#[cfg(feature = "cpu")]
mod arch;
#[cfg(feature = "cpu")]
mod attention;
#[cfg(feature = "cpu")]
mod dequantize;
#[cfg(feature = "cpu")]
mod engine;
#[cfg(all(feature = "cpu", feature = "faults"))]
mod fault;
#[cfg(all(feature = "cpu", not(feature = "faults")))]
#[path = "fault/off.rs"]
mod fault;
#[cfg(feature = "cpu")]
mod file;
#[cfg(feature = "cpu")]
mod forward;
#[cfg(feature = "cpu")]
mod kv_cache;
#[cfg(feature = "cpu")]
mod model;
#[cfg(feature = "cpu")]
mod op;
#[cfg(feature = "cpu")]
mod ops;
#[cfg(feature = "cpu")]
mod product;
#[cfg(feature = "cpu")]
mod rope;
#[cfg(feature = "cpu")]
mod taps;
#[cfg(feature = "cpu")]
mod ternary;
#[cfg(all(test, feature = "cpu"))]
mod tests;
#[cfg(feature = "cpu")]
mod tiny;
#[cfg(feature = "cpu")]
mod weights;

#[cfg(feature = "cpu")]
pub use {
    arch::ARCHITECTURES,
    dequantize::dequantize_gguf,
    engine::{Engine, GenerateOptions, Generation, LoadOptions, Prompt, generate, threads},
    kv_cache::KvType,
    product::product,
    taps::engine_info,
    tiny::{TinyArch, TinySpec, TinyType, write_tiny_model},
};

#[cfg(all(feature = "cpu", feature = "faults"))]
pub use fault::{FAULTS, Fault, FaultClass};
