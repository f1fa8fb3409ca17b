//! Finds where, and whether, two inference engines diverge.
//!
//! Two runs are [`Side`]s: metadata and [`records::Records`], stored or in memory. [`plan::plan`] says which
//! record belongs to which and in what causal order, and how ([`plan::Explained`]); a run that has other names or
//! layouts is read through a [`mapping::Mapped`], whose [`mapping::Mapping`] people write or [`align::align`]
//! proposes from the values alone. [`fn@compare`] carries that out, with a
//! [`judge::Verdict`] on each pair, under a [`Tolerance`], and keeps what the verdicts come to ([`compare::verdicts()`] keeps
//! them all). Before any tensor, the token ids are compared ([`ids`]). From the verdicts and the stage graph follow the
//! origins: the diverged records whose inputs are clean.
//!
//! What a command prints is a value first: [`FirstReport`], [`CompareReport`], [`TokensReport`],
//! [`query::QueryReport`]. [`render`] makes text of them, serde the JSON that `schemas/*.schema.json`
//! describe; [`exit`] has the exit codes.
//!
//! ```
//! use bitnet_diff::{FirstReport, Options, StoredRecords, compare};
//! use bitnet_trace_schema::StageGraph;
//! use bitnet_trace_store::{Filter, Run};
//! # use bitnet_trace::{Engine, Recorder, Slice, Tap};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let traces = std::env::temp_dir().join(format!("bitnet-diff-doc-{}", std::process::id()));
//! # for (name, x) in [("cpp", 1.0f32), ("rust", 1.5)] {
//! #     let recorder = Recorder::builder(&traces).run(name).engine(Engine::new(name, "")).build()?;
//! #     recorder.record(Tap::new("attn_norm", 0, 3), &Slice::new(&[1.0f32, 2.0], &[2]));
//! #     recorder.record(Tap::new("q_proj", 0, 3), &Slice::new(&[x, 2.0], &[2]));
//! #     recorder.finish()?;
//! # }
//!
//! let left = StoredRecords::new(Run::open(traces.join("run=cpp"))?, &Filter::default());
//! let right = StoredRecords::new(Run::open(traces.join("run=rust"))?, &Filter::default());
//! let (left, right) = (left.side(), right.side());
//! let (graph, options) = (StageGraph::builtin(), Options::default());
//! let report = FirstReport::of(&compare(&left, &right, &graph, &options, &|_, _| ())?);
//!
//! let first = report.first_divergence.expect("q_proj differs");
//! assert_eq!((first.seq, first.layer, first.stage.as_str()), (3, 0, "q_proj"));
//! # std::fs::remove_dir_all(&traces)?;
//! # Ok(())
//! # }
//! ```
// Allowed in one place: to call what was compiled for the vectors that the processor was asked for.
#![deny(unsafe_code)]

pub mod align;
pub mod checks;
pub mod compare;
pub mod cross;
pub mod doctor;
mod error;
pub mod exit;
pub mod exporting;
pub mod first;
pub mod floor;
pub mod ids;
pub mod importing;
pub mod inputs;
pub mod judge;
pub mod local;
pub mod logits;
pub mod mapping;
pub mod metrics;
pub mod neighbourhood;
mod notes;
pub mod num;
mod origin;
pub mod plan;
pub mod preload;
pub mod query;
pub mod recording;
pub mod records;
pub mod recover;
pub mod render;
pub mod report;
pub mod rounding;
pub mod runs;
pub mod select;
pub mod setup;
pub mod shape;
mod spread;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod three;
pub mod tokens;
pub mod tolerance;
pub mod upstream;

pub use compare::{Comparison, Options, Status, compare};
pub use error::Error;
pub use first::FirstReport;
pub use records::{Side, StoredRecords};
pub use summary::CompareReport;
pub use tokens::{TokensReport, tokens};
pub use tolerance::{Gates, Tolerance};
