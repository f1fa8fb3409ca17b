use crate::{
    floor::FloorError,
    ids::{IdDifference, IdList},
    mapping::MappingError,
    plan::Key,
    tolerance::ToleranceError,
};
use bitnet_trace_schema::StageError;
use bitnet_trace_store::StoreError;
use std::path::PathBuf;

/// Why there is no verdict. Every one ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run or database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tolerance is unusable.
    #[error(transparent)]
    Tolerance(#[from] ToleranceError),
    /// The floor is unusable.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// Nothing to measure a floor on.
    #[error(
        "no two of the {runs} runs are of one prompt (the same prompt token ids), so there is nothing to compare; record each prompt at least twice"
    )]
    NoPairs {
        /// Runs that were given.
        runs: usize,
    },
    /// The user's stage file is unusable.
    #[error(transparent)]
    Stages(#[from] StageError),
    /// The mapping file is unusable, or does not fit the run.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A program that was to be run failed.
    #[error("{message}")]
    Program {
        /// How.
        message: String,
    },
    /// The model file cannot be refereed.
    #[error(transparent)]
    Referee(#[from] bitnet_referee::Error),
    /// The model file is not the one that a run was recorded with.
    #[error(
        "{} is not the model of the run {run}: its blake3 differs from that of {recorded}, with which it was recorded; give that file with --model",
        path.display()
    )]
    OtherModel {
        /// The run.
        run: String,
        /// The path of its model when it was recorded.
        recorded: String,
        /// The file that was given.
        path: PathBuf,
    },
    /// A run lacks records that its engine offered.
    #[error(
        "the run {run} is incomplete: {}; a fault may hide in what is missing. Record it again, or pass --allow-incomplete to compare what is there",
        reasons.join("; ")
    )]
    Incomplete {
        /// The run.
        run: String,
        /// Why, as sentences.
        reasons: Vec<String>,
    },
    /// The engines were given different prompts.
    #[error("{}", token_ids_message(left, right, difference))]
    TokenIds {
        /// The left run.
        left: String,
        /// The right run.
        right: String,
        /// The first difference.
        difference: Box<IdDifference>,
    },
    /// A run has no record, or none that the filters take.
    #[error("{run} has no record{}; {known}", if filters.is_empty() { String::new() } else { format!(" that {filters} takes") })]
    NoRecords {
        /// The run.
        run: String,
        /// The filters, as on a command line; empty without any.
        filters: String,
        /// What it has, in words.
        known: String,
    },
    /// A run keeps no values, and values are all that can tell.
    #[error(
        "{run} keeps no values at the positions that both runs have, and they are what is compared; record it with BITNET_TRACE_VALUES=full"
    )]
    NoValues {
        /// The run.
        run: String,
    },
    /// A mapping that a file cannot hold.
    #[error("the mapping cannot be written: {0}")]
    Write(#[from] toml::ser::Error),
    /// No record of one run belongs to one of the other.
    #[error(
        "{left} and {right} have no record in common: {left} has {left_has}, {right} has {right_has}; compare runs of the same prompt and stages"
    )]
    NothingInCommon {
        /// The left run.
        left: String,
        /// The right run.
        right: String,
        /// What the left run has, in words.
        left_has: String,
        /// What the right run has, in words.
        right_has: String,
    },
    /// Records belong together, and not one of them could be compared.
    #[error("not one of {pairs} pairs of records could be compared; the first: {key}: {reason}")]
    NothingCompared {
        /// Pairs.
        pairs: u64,
        /// The first of them.
        key: Key,
        /// Why it could not be compared.
        reason: String,
    },
    /// Elements that contradict their metadata.
    #[error(
        "{run}, {key}: the record has {found} elements where its shape has {expected}; the part is damaged, record the run anew"
    )]
    Elements {
        /// The run.
        run: String,
        /// The record.
        key: Key,
        /// Elements found.
        found: u64,
        /// Elements of its shape.
        expected: i64,
    },
    /// Elements that are not those that were recorded.
    #[error(
        "{run}, {key}: the elements do not have the blake3 of the record; the part is damaged, record the run anew"
    )]
    Hash {
        /// The run.
        run: String,
        /// The record.
        key: Key,
    },
}

impl Error {
    /// The error's name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Tolerance(_) => "tolerance",
            Self::Floor(_) => "floor",
            Self::NoPairs { .. } => "no_pairs",
            Self::Stages(_) => "stages",
            Self::Mapping(_) => "mapping",
            Self::Io { .. } => "io",
            Self::Program { .. } => "program",
            Self::Referee(_) => "referee",
            Self::OtherModel { .. } => "other_model",
            Self::Incomplete { .. } => "incomplete",
            Self::TokenIds { .. } => "token_ids",
            Self::NoRecords { .. } => "no_records",
            Self::NoValues { .. } => "no_values",
            Self::Write(_) => "mapping",
            Self::NothingInCommon { .. } => "nothing_in_common",
            Self::NothingCompared { .. } => "nothing_compared",
            Self::Elements { .. } | Self::Hash { .. } => "damaged",
        }
    }
}

fn token_ids_message(left: &str, right: &str, d: &IdDifference) -> String {
    let list = |ids| IdList {
        ids,
        from: d.ids_from,
        mark: d.seq,
    };
    // Of other requests it is not known where the prompt ends.
    let what = if d.request == 0 {
        "the prompts have different token ids".to_owned()
    } else {
        format!("the token ids of request {} differ", d.request)
    };
    let width = left.chars().count().max(right.chars().count()) + 1;
    let name = |name: &str| format!("{name}:{}", " ".repeat(width - 1 - name.chars().count()));
    format!(
        "{what}, first at seq={}\n  {} {}\n  {} {}\n\
         {}Tensors of different tokens cannot be compared. Check tokenizer, BOS and chat\ntemplate, or feed both engines the same ids.",
        d.seq,
        name(left),
        list(&d.left_ids),
        name(right),
        list(&d.right_ids),
        d.cause
            .map(|cause| format!("It looks as if {cause}.\n").replace(": ", ":\n"))
            .unwrap_or_default(),
    )
}
