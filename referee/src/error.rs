//! Why a model cannot be refereed, and why a single stage cannot.

use std::path::PathBuf;

/// Why a model file is of no use to the referee.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read, is damaged, or lacks metadata.
    #[error(transparent)]
    Gguf(#[from] bitnet_gguf::Error),
    /// An architecture whose stages are not known.
    #[error("{} has architecture {found:?}; the referee knows {}", path.display(), known.join(", "))]
    Architecture {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        found: String,
        /// The names that would do.
        known: Vec<&'static str>,
    },
    /// A hyperparameter that the architecture cannot have, or that is not known here.
    #[error("metadata key {key:?} of {}: {reason}", path.display())]
    Hyperparameter {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why the exact result of one stage cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The model has no such stage.
    #[error("{0} is no stage of this model")]
    NoStage(String),
    /// What the stage is computed from was not recorded.
    #[error("its input {0} was not recorded")]
    NotRecorded(String),
    /// The id of the token is not known.
    #[error("the token's id is not known")]
    NoTokenId,
    /// A recorded input has another length than the model says.
    #[error("its input {stage} has {found} elements, the model says {expected}")]
    Length {
        /// The input's stage.
        stage: String,
        /// Elements that it must have.
        expected: usize,
        /// Elements that it has.
        found: usize,
    },
    /// A weight that is missing, of another shape, or of a type that is not known.
    #[error("the model's {0}")]
    Weight(String),
    /// Something that the referee does not know.
    #[error("{0}")]
    Unknown(String),
}
