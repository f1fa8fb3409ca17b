use bitnet_trace_schema::DType;
use std::fmt;
use std::path::PathBuf;

/// A record's key, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which sequence of a batch.
    pub request: i32,
    /// The token's position.
    pub seq: i64,
    /// The layer.
    pub layer: i32,
    /// The stage.
    pub stage: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.request != 0 {
            write!(f, "request={}, ", self.request)?;
        }
        let Self {
            seq, layer, stage, ..
        } = self;
        write!(f, "seq={seq}, layer={layer}, stage={stage}")
    }
}

/// Why a stored run cannot be replayed, or not any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The run, or a file of it, cannot be read.
    #[error("cannot replay {path}: {cause}", path = path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// What was given to [`Replay::at`](crate::Replay::at) is not an expression.
    #[error("the selection of what is replayed is wrong: {0}")]
    Selection(#[from] bitnet_trace_schema::selection::SelectionError),
    /// A variable of the environment that is neither 0 nor 1.
    #[error("{name}={value:?} is neither \"1\" nor \"0\"")]
    Flag {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Records of the run are missing, and nobody can tell which.
    #[error("the run {run} is not whole: {why}; replay a complete run, or allow a partial replay")]
    Incomplete {
        /// The stored run.
        run: String,
        /// What it lacks.
        why: String,
    },
    /// The run keeps no values.
    #[error(
        "the run {run} has statistics only, no values to replay; record it with BITNET_TRACE_VALUES=full"
    )]
    NoValues {
        /// The stored run.
        run: String,
    },
    /// Something that both runs must have in common.
    #[error("{what} here is {found}, in the run {run} it was {expected}")]
    Setting {
        /// What it is.
        what: &'static str,
        /// The stored run.
        run: String,
        /// There.
        expected: String,
        /// Here.
        found: String,
    },
    /// Other tokens.
    #[error(
        "the token at request {request}, seq={seq} is {found} here and {expected} in the run {run}: another prompt; if it \
         is meant, allow it (--other-prompt, BITNET_TRACE_REPLAY_OTHER_PROMPT=1)"
    )]
    Token {
        /// The stored run.
        run: String,
        /// Which sequence of a batch.
        request: i32,
        /// The position.
        seq: i64,
        /// The id there.
        expected: i32,
        /// The id here.
        found: i64,
    },
    /// A position beyond the run.
    #[error("the run {run} has no seq={seq} of request {request}: it computed fewer tokens")]
    Position {
        /// The stored run.
        run: String,
        /// Which sequence of a batch.
        request: i32,
        /// The position.
        seq: i64,
    },
    /// A record that the run lacks.
    #[error("the run {run} has no record of {place}{why}")]
    Missing {
        /// The stored run.
        run: String,
        /// The record.
        place: Place,
        /// What may be the reason, after a colon; or nothing.
        why: String,
    },
    /// A record of another shape.
    #[error("{place} has the shape {found:?} here and {expected:?} in the run {run}")]
    Shape {
        /// The stored run.
        run: String,
        /// The record.
        place: Place,
        /// There.
        expected: Vec<i64>,
        /// Here.
        found: Vec<i64>,
    },
    /// A record of another element type.
    #[error("{place} is of {found} here and of {expected} in the run {run}")]
    DType {
        /// The stored run.
        run: String,
        /// The record.
        place: Place,
        /// There.
        expected: DType,
        /// Here.
        found: DType,
    },
    /// An element type that is not replayed.
    #[error("{place} is of {dtype}: only F32, F16 and BF16 are replayed")]
    Unsupported {
        /// The record.
        place: Place,
        /// Its element type.
        dtype: DType,
    },
    /// A record whose bytes are not those that were recorded.
    #[error("{place} of the run {run} is damaged: {cause}")]
    Damaged {
        /// The stored run.
        run: String,
        /// The record.
        place: Place,
        /// What is wrong with it.
        cause: String,
    },
    /// A tensor of the engine's that cannot be written.
    #[error("stage {stage}, layer {layer} cannot be replaced: {cause}")]
    Target {
        /// The stage.
        stage: String,
        /// The layer.
        layer: i32,
        /// Why.
        cause: String,
    },
    /// The graph told too late what its rows are.
    #[error("rows were replaced before the graph told their tokens, which are others than expected: {cause}")]
    Foretold {
        /// How they differ.
        cause: String,
    },
    /// Nothing was replaced at all.
    #[error("no tensor of the engine was replaced: {why}")]
    Nothing {
        /// What may be the reason.
        why: String,
    },
}
