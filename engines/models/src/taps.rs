//! The tracepoints: what the forward pass calls, and how that becomes records.
//!
//! This file and the `pass.record(..)` lines of the forward pass are all that tracing
//! takes. Without the feature `trace` the bodies are empty and the calls disappear.

use std::path::Path;

use bitnet_trace::{Engine, Recorder, Tap};
use candle_core::Tensor;

use crate::error::Error;
use crate::gguf::Gguf;

/// The layer of stages that belong to none: embeddings, final norm, logits.
pub(crate) const NO_LAYER: i32 = -1;
/// The layer of `all_layers_out`.
pub(crate) const ALL_LAYERS: i32 = -2;

/// This engine's name and version in a run's manifest.
pub fn engine_info() -> Engine {
    Engine::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The recorder of one engine.
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub(crate) struct Taps {
    recorder: Recorder,
}

/// What changes an engine's numbers, and what it was asked.
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub(crate) struct RunFacts<'a> {
    pub(crate) batch: usize,
    pub(crate) fault: Option<String>,
    pub(crate) prompt: &'a str,
    pub(crate) prompt_tokens: usize,
}

#[cfg_attr(not(feature = "trace"), allow(unused_variables))]
impl Taps {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { recorder }
    }

    /// Whether anything is recorded; a constant `false` without the feature.
    pub(crate) fn is_on(&self) -> bool {
        cfg!(feature = "trace") && self.recorder.is_on()
    }

    /// Whether a stage after the last layer is recorded for a position from `first_pos` on.
    pub(crate) fn wants_outputs(&self, first_pos: usize) -> bool {
        let pass = Pass {
            taps: self,
            first_pos,
        };
        pass.wants("final_norm", NO_LAYER) || pass.wants("logits", NO_LAYER)
    }

    /// Tells the manifest which model runs. The recorder hashes its file, beside the engine's work.
    pub(crate) fn describe_model(
        &self,
        gguf: &Gguf,
        arch: &str,
        tokenizer: Option<&Path>,
    ) -> Result<(), Error> {
        #[cfg(feature = "trace")]
        if self.is_on() {
            self.recorder.set_model(bitnet_trace::Model {
                path: gguf.path().display().to_string(),
                arch: Some(arch.to_owned()),
                weight_types: gguf.type_counts(),
                tokenizer_blake3: tokenizer.map(hash).transpose()?,
                ..bitnet_trace::Model::default()
            });
        }
        Ok(())
    }

    /// Tells the manifest how the engine is set up and what it was asked.
    pub(crate) fn describe_run(&self, facts: RunFacts<'_>) {
        #[cfg(feature = "trace")]
        if self.is_on() {
            self.recorder.set_settings(bitnet_trace::Settings {
                threads: u32::try_from(crate::threads()).ok(),
                batch: u32::try_from(facts.batch).ok(),
                kv_type: Some(bitnet_trace::DType::F32.name().to_owned()),
                flash_attention: Some(false),
                fault: facts.fault,
                ..Default::default()
            });
            // A tap copies what was computed anyway: nothing is fused, and recording takes no compute thread.
            self.recorder.set_observation(bitnet_trace::Observation {
                fusion_may_differ: Some(false),
                threads_may_differ: Some(false),
                ..Default::default()
            });
            self.recorder.set_prompt(facts.prompt, facts.prompt_tokens);
        }
    }

    /// Begins a forward pass over `ids` at positions from `first_pos`.
    pub(crate) fn begin_pass(&self, first_pos: usize, ids: &[u32]) -> Pass<'_> {
        #[cfg(feature = "trace")]
        {
            self.recorder.begin_pass();
            self.recorder.tokens(0, first_pos as i64, ids);
        }
        Pass {
            taps: self,
            first_pos,
        }
    }
}

/// One forward pass being recorded.
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub(crate) struct Pass<'a> {
    taps: &'a Taps,
    first_pos: usize,
}

#[cfg_attr(not(feature = "trace"), allow(unused_variables))]
impl Pass<'_> {
    /// Whether a tensor of this stage is recorded, for any of the pass's tokens.
    pub(crate) fn wants(&self, stage: &str, layer: i32) -> bool {
        cfg!(feature = "trace") && self.taps.recorder.wants(&self.tap(stage, layer).token_axis(0))
    }

    /// A tensor [T, ..].
    pub(crate) fn record(&self, stage: &str, layer: i32, tensor: &Tensor) {
        #[cfg(feature = "trace")]
        self.taps
            .recorder
            .record(self.tap(stage, layer).token_axis(0), tensor);
    }

    /// The batch's rows of a cache, [kv_heads, T, head_dim].
    pub(crate) fn record_cached(&self, stage: &str, layer: i32, tensor: &Tensor) {
        #[cfg(feature = "trace")]
        self.taps
            .recorder
            .record(self.tap(stage, layer).token_axis(1), tensor);
    }

    /// Attention scores [heads, T, keys]; a token's record holds the keys up to itself.
    pub(crate) fn record_scores(&self, stage: &str, layer: i32, tensor: &Tensor) {
        #[cfg(feature = "trace")]
        self.taps
            .recorder
            .record(self.tap(stage, layer).token_axis(1).causal_axis(2), tensor);
    }

    /// Attention probabilities [heads, T, keys], of every key that the batch saw: mass on a future key is a
    /// finding.
    pub(crate) fn record_probs(&self, stage: &str, layer: i32, tensor: &Tensor) {
        #[cfg(feature = "trace")]
        self.taps
            .recorder
            .record(self.tap(stage, layer).token_axis(1), tensor);
    }

    fn tap<'s>(&self, stage: &'s str, layer: i32) -> Tap<'s> {
        Tap::new(stage, layer, self.first_pos as i64)
    }
}

/// BLAKE3 of a tokenizer file, as hex.
#[cfg(feature = "trace")]
fn hash(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
