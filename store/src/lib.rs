//! Opens runs, indexes them in SQLite and hands out their tensors where they lie.
//!
//! A *run* is a directory of Parquet parts and a manifest; a *database* is a folder of runs. [`Database::open`]
//! compares the files with `index.sqlite` beside the runs and reads what is new or changed, so that the
//! index is up to date afterwards. The index is a cache: it may be deleted at any time, is replaced when
//! it is damaged or of another version, and is kept in memory where the folder cannot be written. So are
//! the *row tables* beside it, all that [`Run::open`] looks at: the records' scalar columns, in causal
//! order, which [`Run::rows`] reads where they are mapped. [`Run::records`] copies those of a position, layer, stage or request;
//! [`Run::tensor`] borrows a row's values from the mapped part, at the byte offset that its table holds.
//! [`export`] takes records out, as `.npy` or `.trace` files. [`Database::sql`] is for questions of your own.
//! [`Run::completeness`] tells whether something is missing. Nothing that a file says is believed: whatever
//! is wrong with it is a [`StoreError`] that says what, where, and what to try.
//!
//! ```
//! use bitnet_trace_store::{Database, Filter, Run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use bitnet_trace::{Recorder, Slice, Tap};
//! # let traces = tempfile::tempdir()?;
//! # let recorder = Recorder::builder(traces.path()).run("rust").build()?;
//! # recorder.record(Tap::new("attn_norm", 0, 3), &Slice::new(&[3.0f32, 4.0], &[2]));
//! # recorder.finish()?;
//! let database = Database::open(traces.path())?;
//! for run in database.runs() {
//!     println!("{}: {} records of {}", run.name, run.records, run.engine.name);
//! }
//! let run = database.newest()?; // or Run::open("traces/run=rust")
//! let norms = Filter { seq: Some(3..=3), stage: Some("*_norm".into()), ..Filter::default() };
//! for row in run.records(&norms) {
//!     let tensor = run.tensor(&row)?;
//!     let values = tensor.values().unwrap_or_default(); // no copy: a slice of the mapped file
//!     assert_eq!((row.meta.stage.as_str(), values), ("attn_norm", &[3.0, 4.0][..]));
//! }
//! let sql = "SELECT count(*) FROM records WHERE nan_count > 0";
//! assert_eq!(database.sql().query_row(sql, [], |r| r.get::<_, i64>(0))?, 0);
//! # Ok(())
//! # }
//! ```

mod completeness;
mod database;
mod error;
pub mod export;
pub mod import;
mod index;
mod meta;
mod part;
mod records;
mod recover;
mod rows;
mod run;
mod scan;
mod table;
mod tensor;
mod traces;
mod update;
mod verify;

pub use bitnet_trace_schema as schema;
pub use completeness::{Completeness, Reason};
pub use database::{Database, RunSummary};
pub use error::StoreError;
pub use meta::{Meta, Standing};
pub use records::{Filter, Row};
pub use recover::{RecoverOptions, RecoverOutcome, RecoverReport, recover, runs_in};
pub use rows::{At, Columns, Position, Rows};
pub use run::{Located, PartValues, Run, Stretches};
pub use rusqlite;
pub use tensor::TensorRef;
pub use traces::Traces;
