use crate::{FORMAT_VERSION, levels::LevelError};

/// Why bytes are not a readable part of a run: one variant for each way they can be malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// They do not begin as Parquet does.
    #[error("it is not a Parquet file (it does not begin with PAR1)")]
    NotParquet,
    /// A Parquet file without its end.
    #[error("it is cut off (it does not end with PAR1)")]
    CutOff,
    /// A footer that cannot be read or contradicts the file.
    #[error("the footer is damaged: {problem}")]
    Footer {
        /// What is wrong.
        problem: String,
    },
    /// A Parquet file that is not a part of a run, or one of another version.
    #[error("it has the trace format {found}, this program reads version {FORMAT_VERSION}")]
    Version {
        /// The version in its footer, in words.
        found: String,
    },
    /// A part that belongs to another run.
    #[error("it is a part of the run {found:?}, not of {expected:?}")]
    OtherRun {
        /// The run in its footer.
        found: String,
        /// The run that was expected.
        expected: String,
    },
    /// A column that is missing, wrongly typed, or holds what it may not.
    #[error("the column {column:?} {problem}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong.
        problem: String,
    },
    /// Pages of `values` that cannot be read in place.
    #[error("`values` cannot be read in place: {problem}")]
    Layout {
        /// What is wrong.
        problem: String,
    },
    /// Damaged levels of a page of `values`.
    #[error("page {page} of `values` in row group {row_group} is damaged: {source}")]
    Levels {
        /// The row group, from 0.
        row_group: usize,
        /// The page in it, from 0.
        page: usize,
        /// What is wrong.
        source: LevelError,
    },
    /// A row whose columns contradict each other.
    #[error("row {row} contradicts itself: {problem}")]
    Row {
        /// The row in the part, from 0.
        row: u64,
        /// What is wrong.
        problem: String,
    },
    /// The Parquet library could not decode it.
    #[error("it is damaged: {problem}")]
    Decode {
        /// The library's words.
        problem: String,
    },
    /// A row beyond the last.
    #[error("it has no row {row}")]
    NoSuchRow {
        /// The row that was asked for, from 0.
        row: u64,
    },
}
