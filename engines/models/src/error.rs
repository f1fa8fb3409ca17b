//! Everything that can go wrong, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file cannot be read, is damaged, or lacks metadata.
    #[error(transparent)]
    Gguf(#[from] bitnet_gguf::Error),
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The stored run that was to be replayed could not be, or not any further.
    #[error("the replay stopped: {0}")]
    Replay(bitnet_trace::ReplayError),
    /// The output cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing to a stream failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// Input and output are one file.
    #[error("{} is both input and output; give another output path", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// A hyperparameter has a value that the architecture cannot have.
    #[error("metadata key {key:?} of {} is {value}: {reason}", path.display())]
    Hyperparameter {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value as text.
        value: String,
        /// Why it is impossible, or not supported.
        reason: &'static str,
    },
    /// The architecture is not supported.
    #[error("{} has architecture {found:?}; supported: {}", path.display(), supported.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        found: String,
        /// The names that would do.
        supported: &'static [&'static str],
    },
    /// A weight is absent.
    #[error("{} has no tensor {name:?}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A weight has another shape than the hyperparameters say.
    #[error(
        "tensor {name:?} of {} has shape {found:?}, expected {expected:?} (slowest dimension first)",
        path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that follows from the metadata.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A weight's type has no kernel in this engine.
    #[error("tensor {name:?} of {} is of type {type_name}, which this engine cannot compute with", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// ggml's name of the type.
        type_name: &'static str,
    },
    /// Activations for a product that are not whole tokens.
    #[error("{found} activations are not whole rows of the {columns} that {weight:?} is multiplied with")]
    ActivationCount {
        /// The matrix.
        weight: String,
        /// Its columns.
        columns: usize,
        /// Activations that were given.
        found: usize,
    },
    /// Tensors the forward pass would silently ignore.
    #[error(
        "{} has {count} tensors that architecture {arch:?} does not use, the first is {name:?}; \
         leaving them out would compute another model",
        path.display()
    )]
    UnusedTensors {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        arch: String,
        /// How many.
        count: usize,
        /// One of them.
        name: String,
    },
    /// The GGUF's tokenizer is of a kind that is not built here.
    #[error(
        "{}: {key} is {value:?}, for which no tokenizer is built in (supported: {supported}); \
         give the model's tokenizer.json with --tokenizer",
        path.display()
    )]
    UnknownTokenizer {
        /// The model file.
        path: PathBuf,
        /// `tokenizer.ggml.model` or `tokenizer.ggml.pre`.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values that would do.
        supported: &'static str,
    },
    /// The tokenizer's data contradict each other.
    #[error("the tokenizer in {} is unusable: {reason}", path.display())]
    BadTokenizer {
        /// The GGUF or the tokenizer.json.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Text was given but there is no tokenizer.
    #[error(
        "{} holds no tokenizer; give the model's tokenizer.json with --tokenizer, or token ids with --tokens",
        path.display()
    )]
    NoTokenizer {
        /// The model file.
        path: PathBuf,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer failed: {0}")]
    Tokenize(String),
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// Nothing to compute.
    #[error("the prompt is empty: there is no token to start from")]
    EmptyPrompt,
    /// A batch of no tokens.
    #[error("the batch size must be at least 1")]
    ZeroBatch,
    /// More positions than the model was made for.
    #[error(
        "{needed} positions are needed and the model's context length is {context}; \
         shorten the prompt or lower --max-tokens"
    )]
    ContextExceeded {
        /// Prompt tokens and generated tokens that are fed back.
        needed: usize,
        /// `<arch>.context_length`.
        context: usize,
    },
    /// A fault description that cannot be planted.
    #[cfg(feature = "faults")]
    #[error("fault {spec:?}: {reason}")]
    Fault {
        /// As it was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensor library failed.
    #[cfg(feature = "cpu")]
    #[error("tensor computation failed: {0}")]
    Compute(#[from] candle_core::Error),
}
