use super::record::{MAX_DIMS, MAX_TEXT};
use std::fmt;

/// A `.trace` file that cannot be used: where, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TraceFileError {
    /// The line, from 1: of what is wrong in JSON that is none, else the one that the record begins in.
    pub line: u64,
    /// What is wrong.
    pub problem: TraceProblem,
}

/// What is wrong with a `.trace` file: one variant for each way in which it can be malformed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceProblem {
    /// No record.
    #[error("the file holds no record")]
    Empty,
    /// Something that is not an object.
    #[error("a record is a JSON object, which begins with '{{'")]
    NoObject,
    /// An object that is not closed.
    #[error("the file ends inside a record: it was cut off")]
    CutOff,
    /// Not JSON, or a key of another type.
    #[error("not a record: {message} (column {column})")]
    Json {
        /// What the parser says.
        message: String,
        /// Column in the line, from 1.
        column: usize,
    },
    /// No key that says what was recorded.
    #[error("the record has neither a stage nor a name")]
    NoStage,
    /// Neither shape nor number of elements.
    #[error("the record has neither a shape nor num_elements")]
    NoShape,
    /// Nothing that could be compared.
    #[error("the record has neither blake3 nor rms, so there is nothing to compare")]
    NothingToCompare,
    /// A hash that is none.
    #[error("blake3 is not 64 hex digits")]
    Hash,
    /// A dtype that is not known, of the bytes that were hashed.
    #[error("blake3_of is {0:?}, which is no dtype")]
    DType(String),
    /// A number that the key cannot have.
    #[error("{key} is {value}, which it cannot be")]
    Number {
        /// The key.
        key: &'static str,
        /// The number.
        value: Shown,
    },
    /// Another number of elements than the shape says.
    #[error("num_elements is {found}, and the shape {shape:?} has another number")]
    Elements {
        /// The number.
        found: i64,
        /// The shape.
        shape: Vec<i64>,
    },
    /// A shape that no tensor has.
    #[error("the shape is no tensor's: a dimension below 0, more than {MAX_DIMS}, or too many elements")]
    Shape,
    /// A text that no engine gives.
    #[error("{key} is a text of {bytes} bytes, more than {MAX_TEXT}")]
    Text {
        /// The key.
        key: &'static str,
        /// Its length.
        bytes: usize,
    },
}

/// A number, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shown {
    /// An integer.
    Integer(i64),
    /// Another number.
    Real(f64),
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(n) => n.fmt(f),
            Self::Real(x) => x.fmt(f),
        }
    }
}

impl TraceProblem {
    pub(super) fn json(error: &serde_json::Error) -> Self {
        if error.is_eof() {
            return Self::CutOff;
        }
        let text = error.to_string();
        // The line counts from the object on; the file's is told beside it.
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(m, _)| m);
        Self::Json {
            message: message.to_owned(),
            column: error.column(),
        }
    }
}
