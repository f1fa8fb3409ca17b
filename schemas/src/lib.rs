//! What the bytes of a trace mean.
//!
//! A *run* is one execution of one inference engine: a directory that holds a
//! manifest ([`Manifest`]) and Parquet parts. A part's row is a *record*
//! ([`RecordMeta`] and its values): one token's slice of one tensor, found by its
//! key (`seq`, `layer`, `stage`). [`StageGraph`] is the vocabulary of stages and how
//! they feed each other; [`columns`] are the Parquet columns, [`levels`] the
//! encoding of their nested `values`; [`run_dir`] names the files and
//! [`INDEX_DDL`] the SQLite index that a reader keeps beside them. [`selection`] is the
//! language that says which records a run keeps, [`trace_file`] the format of the older tracing crate, and
//! [`quant`] what packed elements are worth.
//!
//! The crate has no I/O and no threads: recorder and store both depend on it, and
//! on nothing else of each other.
//!
//! ```
//! use bitnet_trace_schema::StageGraph;
//!
//! let stages = StageGraph::builtin();
//! let q = stages.get("q_rope").expect("in the vocabulary");
//! assert_eq!(q.inputs[0].stage, "q_norm");
//! ```
//!
//! `FORMAT.md` beside this crate describes the format in prose.
#![forbid(unsafe_code)]

pub mod columns;
mod dtype;
#[cfg(feature = "part")]
pub mod journal;
mod layout;
pub mod levels;
mod manifest;
#[cfg(feature = "part")]
pub mod part;
pub mod quant;
mod record;
pub mod run_dir;
pub mod selection;
mod stage;
mod stats;
mod text;
pub mod trace_file;

pub use dtype::{DType, UnknownDType};
pub use layout::Layout;
pub use manifest::{
    Dropped, Engine, Imported, Manifest, ManifestError, Model, Observation, Owner, PartEntry, Preset,
    RecoveredPart, Recovery, Replayed, RunState, Sequence, Settings, ValuesMode, Writer,
};
pub use record::RecordMeta;
pub use stage::{Input, InputLayer, Place, Stage, StageError, StageGraph, StageScope};
pub use stats::Stats;
pub use text::Text;

/// The format version that this crate describes, as it stands in manifests and Parquet footers.
pub const FORMAT_VERSION: u32 = 1;

/// Layer number of records that belong to the model and not to a layer (embeddings, final norm, logits).
pub const LAYER_MODEL: i32 = -1;

/// Layer number of `all_layers_out`: the residual stream after the last layer.
pub const LAYER_ALL: i32 = -2;

/// SQL that creates the tables of `index.sqlite`.
pub const INDEX_DDL: &str = include_str!("../index.sql");
