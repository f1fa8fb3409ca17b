//! Opens bitnet-diff runs, indexes them in SQLite and hands out zero-copy tensors.

mod completeness;
mod database;
mod error;
mod index;
mod part;
mod records;
mod run;
mod scan;
mod tensor;
mod update;

pub use bitnet_trace_schema as schema;
pub use completeness::{Completeness, Reason};
pub use database::{Database, RunSummary};
pub use error::StoreError;
pub use records::{Filter, Row};
pub use run::Run;
pub use rusqlite;
pub use tensor::TensorRef;
