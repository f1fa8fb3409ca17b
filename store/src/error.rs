use bitnet_trace_schema::{
    FORMAT_VERSION, ManifestError, levels::LevelError, part::PartError, trace_file::TraceFileError,
};
use std::path::PathBuf;

/// Why a database, a run or a part could not be read: one variant for each way it can be unusable.
///
/// Every message says what is wrong, where, and what to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Nothing has this path.
    #[error("{} does not exist; give a run's directory (…/run=NAME) or a database (the folder that holds them)", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A file where a directory is needed.
    #[error("{} is a file; give the run's directory (…/run=NAME) or the database that holds it", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A run's directory where a database is needed.
    #[error("{} is a run, not a database; give the folder that holds it", path.display())]
    IsARun {
        /// The path.
        path: PathBuf,
    },
    /// A directory that holds no run.
    #[error("{} holds no run (no run=NAME directory); it holds {found}; record one with BITNET_TRACE_DIR set to it", path.display())]
    NoRuns {
        /// The directory.
        path: PathBuf,
        /// What it holds, in words.
        found: String,
    },
    /// A name that no run can have.
    #[error("{name:?} is not a run name: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot")]
    RunName {
        /// The name.
        name: String,
    },
    /// A run that the database does not hold.
    #[error("{} holds no run {name:?}; it holds {known}", path.display())]
    UnknownRun {
        /// The database.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names that exist, in words.
        known: String,
    },
    /// A run's directory without `run.json`.
    #[error("{} has no run.json, so it is not a run that the recorder made; delete it or record it anew", path.display())]
    NoManifest {
        /// The run's directory.
        path: PathBuf,
    },
    /// A manifest of absurd size, which is not read.
    #[error("{} has {bytes} bytes, more than a manifest can have ({limit}); record the run anew", path.display())]
    ManifestSize {
        /// `run.json`.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Largest size that is read.
        limit: u64,
    },
    /// A manifest that cannot be used.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// `run.json`.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A manifest that lists two parts of one number, or one by a name that the recorder does not give.
    #[error("{}: the manifest lists the part {file:?}, {problem}; record the run anew", path.display())]
    PartName {
        /// `run.json`.
        path: PathBuf,
        /// The part.
        file: String,
        /// What is wrong with its name.
        problem: &'static str,
    },
    /// A part whose size is not the one in the manifest.
    #[error("{} has {found} bytes where run.json lists {listed}: it was cut off or changed; copy it again, or record the run anew", path.display())]
    PartSize {
        /// The part.
        path: PathBuf,
        /// Bytes in the manifest.
        listed: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// A part whose row count is not the one in the manifest.
    #[error("{} has {found} rows where run.json lists {listed}: it was changed; copy it again, or record the run anew", path.display())]
    PartRows {
        /// The part.
        path: PathBuf,
        /// Rows in the manifest.
        listed: u64,
        /// Rows of the file.
        found: u64,
    },
    /// A part of no bytes.
    #[error("{} is empty; record the run anew", path.display())]
    EmptyPart {
        /// The part.
        path: PathBuf,
    },
    /// A file that does not begin as Parquet does.
    #[error("{} is not a Parquet file (it does not begin with PAR1); record the run anew", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file without its end.
    #[error("{} is cut off (it does not end with PAR1); copy it again, or record the run anew", path.display())]
    CutOff {
        /// The part.
        path: PathBuf,
    },
    /// A footer that cannot be read or contradicts the file.
    #[error("{}: the footer is damaged: {problem}; copy the part again, or record the run anew", path.display())]
    Footer {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A Parquet file that is not a part of a run, or one of another version.
    #[error("{} has the trace format {found}, this program reads version {FORMAT_VERSION}; use the bitnet-diff that fits, or record the run anew", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in its footer, in words.
        found: String,
    },
    /// A part that belongs to another run.
    #[error("{} is a part of the run {found:?}, not of {expected:?}; put it back where it belongs", path.display())]
    OtherRun {
        /// The part.
        path: PathBuf,
        /// The run in its footer.
        found: String,
        /// The run in the manifest.
        expected: String,
    },
    /// A column that is missing, wrongly typed, or holds what it may not.
    #[error("{}: the column {column:?} {problem}; record the run anew", path.display())]
    Column {
        /// The part.
        path: PathBuf,
        /// The column.
        column: String,
        /// What is wrong.
        problem: String,
    },
    /// Pages of `values` that cannot be read in place.
    #[error("{}: `values` cannot be read in place: {problem}; parts are written with plain, uncompressed values and whole rows in each page", path.display())]
    Layout {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Damaged levels of a page of `values`.
    #[error("{}: page {page} of `values` in row group {row_group} is damaged: {source}; copy the part again, or record the run anew", path.display())]
    Levels {
        /// The part.
        path: PathBuf,
        /// The row group, from 0.
        row_group: usize,
        /// The page in it, from 0.
        page: usize,
        /// What is wrong.
        source: LevelError,
    },
    /// A row whose columns contradict each other.
    #[error("{}: row {row} contradicts itself: {problem}; record the run anew", path.display())]
    Row {
        /// The part.
        path: PathBuf,
        /// The row in the part, from 0.
        row: u64,
        /// What is wrong.
        problem: String,
    },
    /// A part of more rows than are numbered.
    #[error("{} has {rows} rows, more than are read of one part ({limit}); record fewer rows a part", path.display())]
    TooManyRows {
        /// The part.
        path: PathBuf,
        /// Its rows.
        rows: u64,
        /// Most rows of a part that is read.
        limit: u64,
    },
    /// The Parquet library could not decode a part.
    #[error("{} is damaged: {problem}; copy it again, or record the run anew", path.display())]
    Decode {
        /// The part.
        path: PathBuf,
        /// The library's words.
        problem: String,
    },
    /// A part that was replaced while the run was open.
    #[error("{} changed while it was open; run the command again", path.display())]
    Changed {
        /// The part or run.
        path: PathBuf,
    },
    /// A row that is not of this run.
    #[error("{} has no part {part} with the values of row {row}; take rows from the run that is asked for their tensors", path.display())]
    ForeignRow {
        /// The run.
        path: PathBuf,
        /// The part number in the row.
        part: u32,
        /// The row in that part.
        row: u64,
    },
    /// A `.trace` file that is malformed.
    #[error("{}:{}: {}; write the file anew, or take it away", path.display(), source.line, source.problem)]
    TraceFile {
        /// The file.
        path: PathBuf,
        /// Where in it, and what is wrong.
        source: TraceFileError,
    },
    /// A `.trace` file of absurd size, which is not read, or something that is no file.
    #[error("{} {problem}", path.display())]
    NotATraceFile {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder without `.trace` files.
    #[error("{} holds no .trace or .jsonl file; it holds {found}", path.display())]
    NoTraceFiles {
        /// The folder.
        path: PathBuf,
        /// What it holds, in words.
        found: String,
    },
    /// SQLite failed.
    #[error("the index {path} failed: {source}; delete it if this persists: it is a cache and is rebuilt")]
    Index {
        /// The index, in words.
        path: String,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        Self::Io { action, path, source }
    }

    /// What is wrong with the part at `path`.
    pub(crate) fn part(path: PathBuf, error: PartError) -> Self {
        match error {
            PartError::NotParquet => Self::NotParquet { path },
            PartError::CutOff => Self::CutOff { path },
            PartError::Footer { problem } => Self::Footer { path, problem },
            PartError::Version { found } => Self::Version { path, found },
            PartError::OtherRun { found, expected } => Self::OtherRun {
                path,
                found,
                expected,
            },
            PartError::Column { column, problem } => Self::Column {
                path,
                column,
                problem,
            },
            PartError::Layout { problem } => Self::Layout { path, problem },
            PartError::Levels {
                row_group,
                page,
                source,
            } => Self::Levels {
                path,
                row_group,
                page,
                source,
            },
            PartError::Row { row, problem } => Self::Row { path, row, problem },
            PartError::Decode { problem } => Self::Decode { path, problem },
            // The index has it.
            PartError::NoSuchRow { .. } => Self::Changed { path },
            other => Self::Decode {
                path,
                problem: other.to_string(),
            },
        }
    }
}
