use bitnet_trace_schema::DType;
use std::path::PathBuf;

/// Why a recorder could not be made, or a run could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The trace directory can't be made or written to.
    #[error("cannot write traces to {dir}: {cause}; make the directory writable or choose another one")]
    Directory {
        /// The directory of the database.
        dir: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A run name that cannot name a directory everywhere.
    #[error(
        "{0:?} is not a run name: use 1 to 128 of A-Z a-z 0-9 . _ - that do not start with a dot, such as {suggestion:?}",
        suggestion = bitnet_trace_schema::run_dir::sanitize_run_name(.0)
    )]
    RunName(String),
    /// What was given to [`RecorderBuilder::select`](crate::RecorderBuilder::select) is not an expression.
    #[error("wrong selection: {0}")]
    Selection(#[from] bitnet_trace_schema::selection::SelectionError),
    /// The stored run cannot be replayed.
    #[error(transparent)]
    Replay(#[from] crate::ReplayError),
    /// Every name from `<name>` to `<name>-9999` is taken.
    #[error("{dir} already holds ten thousand runs named {name:?}; choose another name")]
    TooManyRuns {
        /// The directory of the database.
        dir: PathBuf,
        /// The name that was asked for.
        name: String,
    },
    /// The writer thread could not be started.
    #[error("cannot start the writer thread: {0}")]
    Thread(String),
    /// The recorder gave up while the engine ran, or the engine did. The parts that were sealed are valid.
    #[error("the run {run} is incomplete: {cause}")]
    Failed {
        /// The run's name.
        run: String,
        /// What went wrong first.
        cause: String,
    },
}

/// Why a tensor was not recorded.
///
/// Engines need not look at it: [`Recorder::record`](crate::Recorder::record) counts it in the
/// manifest (`dropped`) under [`TensorError::reason`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The number of elements or of bytes does not fit an address.
    #[error("the shape {0:?} has more elements than memory has addresses")]
    ShapeOverflow(Vec<usize>),
    /// Another number of strides than of dimensions.
    #[error("{strides} strides for a tensor of {dims} dimensions")]
    Strides {
        /// Number of strides.
        strides: usize,
        /// Number of dimensions.
        dims: usize,
    },
    /// A byte stride that is not a whole number of elements.
    #[error("the byte stride {stride} is not a multiple of the element size {size}")]
    ByteStride {
        /// The stride in bytes.
        stride: i64,
        /// The element's size in bytes.
        size: usize,
    },
    /// Shape, strides and offset reach outside the data.
    #[error("elements {first} to {last} are addressed in data that holds {available}")]
    OutOfBounds {
        /// Lowest element addressed, counted from the start of the data.
        first: i128,
        /// Highest element addressed.
        last: i128,
        /// Elements in the data.
        available: usize,
    },
    /// The token axis is not an axis of the tensor.
    #[error("token axis {axis} of a tensor of {dims} dimensions")]
    TokenAxis {
        /// The axis asked for.
        axis: usize,
        /// Number of dimensions.
        dims: usize,
    },
    /// The causal axis is not an axis of the tensor, or is its token axis.
    #[error("causal axis {axis} of a tensor of {dims} dimensions, whose token axis is {token_axis:?}")]
    CausalAxis {
        /// The axis asked for.
        axis: usize,
        /// Number of dimensions.
        dims: usize,
        /// The token axis.
        token_axis: Option<usize>,
    },
    /// Another number of positions, or of requests, than of tokens.
    #[error("{found} {what} for {tokens} tokens")]
    PerToken {
        /// `positions` or `requests`.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// Tokens along the token axis, or 1.
        tokens: usize,
    },
    /// A position below 0, or one that does not fit.
    #[error("{0} is not a token position")]
    Position(i64),
    /// A tensor or slice that a Parquet page cannot hold.
    #[error("{0} bytes: a tensor and the f32 values of a slice must stay below 2 GiB")]
    TooLarge(u128),
    /// There is no memory for a copy.
    #[error("no memory for a copy of {0} bytes")]
    OutOfMemory(usize),
    /// The queue is full, and the recorder is not to wait.
    #[error("the queue is full")]
    QueueFull,
    /// More tokens than a batch can have.
    #[error("{0} tokens along the token axis; at most 1048576 are taken")]
    TooManyTokens(usize),
    /// A tensor of a packed dtype that is not whole blocks.
    #[error("a tensor of {dtype} cannot be recorded: {problem}")]
    Packed {
        /// The packed dtype.
        dtype: DType,
        /// What is wrong, in a few words.
        problem: &'static str,
    },
    /// A dtype that the format has no word for.
    #[error("tensors of dtype {0} cannot be recorded")]
    DType(String),
    /// The tensor's data cannot be read by the CPU.
    #[error("the tensor's data could not be read: {0}")]
    Unreadable(String),
    /// An empty stage, or a layer below -2.
    #[error("stage {stage:?} of layer {layer} cannot be a key")]
    Key {
        /// The stage.
        stage: String,
        /// The layer.
        layer: i32,
    },
    /// The engine could not hand the tensor over, for the reason it gave.
    #[error("{0}")]
    Refused(String),
    /// The run is sealed, or its writer gave up.
    #[error("the recorder does not write any more")]
    Closed,
}

impl TensorError {
    /// The words under which the manifest counts this error.
    pub fn reason(&self) -> String {
        match self {
            Self::ShapeOverflow(_) => "shape overflows".into(),
            Self::Strides { .. } => "strides do not match the shape".into(),
            Self::ByteStride { .. } => "byte stride is not a multiple of the element size".into(),
            Self::OutOfBounds { .. } => "shape, strides and offset reach outside the data".into(),
            Self::TokenAxis { .. } => "token axis outside the shape".into(),
            Self::CausalAxis { .. } => "causal axis outside the shape".into(),
            Self::PerToken { what, .. } => format!("number of {what} is not the number of tokens"),
            Self::Position(_) => "not a token position".into(),
            Self::TooLarge(_) => "2 GiB or more".into(),
            Self::OutOfMemory(_) => "no memory for a copy".into(),
            Self::QueueFull => "queue full".into(),
            Self::TooManyTokens(_) => "too many tokens".into(),
            Self::Packed { dtype, problem } => format!("{dtype}: {problem}"),
            Self::DType(name) => format!("dtype {name}"),
            Self::Unreadable(_) => "data could not be read".into(),
            Self::Key { .. } => "stage or layer cannot be a key".into(),
            Self::Refused(reason) => reason.clone(),
            Self::Closed => "the writer gave up".into(),
        }
    }
}
