//! What a run's manifest is told of the engine, and where its forward passes begin.
//!
//! This file and the `tap!`s of the forward pass are all that tracing takes. Without the feature `trace` the bodies
//! are empty and the calls disappear.

use std::path::Path;

use bitnet_trace::{Engine, LAYER_MODEL, Pass, Recorder, Tap};

use crate::activations::Activations;
use crate::error::Error;
use crate::kv_cache::KvType;
use bitnet_gguf::Gguf;

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
    pub(crate) activations: Activations,
    pub(crate) kv_type: KvType,
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
        let wants = |stage| {
            self.recorder
                .wants(&Tap::new(stage, LAYER_MODEL, first_pos as i64).token_axis(0))
        };
        cfg!(feature = "trace") && (wants("final_norm") || wants("logits"))
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
                kv_type: Some(facts.kv_type.to_string().to_uppercase()),
                flash_attention: Some(false),
                fault: facts.fault,
                extra: [("activations".to_owned(), facts.activations.to_string())].into(),
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

    /// That the engine is still doing what it was asked for: it goes on with what is replayed, or does not go on.
    pub(crate) fn check_replay(&self) -> Result<(), Error> {
        let stopped = self.recorder.replay_error();
        stopped.map_or(Ok(()), |error| Err(Error::Replay(error.clone())))
    }

    /// Begins a forward pass over `ids` at positions from `first_pos`.
    pub(crate) fn begin_pass(&self, first_pos: usize, ids: &[u32]) -> Pass<'_> {
        self.recorder.pass(0, first_pos as i64, ids)
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
