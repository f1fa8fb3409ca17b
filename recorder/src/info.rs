use crate::{Model, Observation, Settings};

/// What an engine tells of a run beside its tensors; all of it goes to the manifest (`run.json`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunInfo {
    /// The model. Size and BLAKE3 of the file at `path` are computed where they are absent.
    pub model: Option<Model>,
    /// How the engine is set up.
    pub settings: Settings,
    /// The prompt's text.
    pub prompt: Option<String>,
    /// Number of tokens of the prompt of request 0.
    pub prompt_tokens: Option<u64>,
    /// How recording may touch the engine's numbers.
    pub observation: Observation,
}
