//! Finds where, and whether, two inference engines diverge.
#![forbid(unsafe_code)]

pub mod compare;
mod error;
pub mod first;
pub mod ids;
pub mod inputs;
pub mod judge;
pub mod logits;
pub mod metrics;
mod notes;
pub mod num;
pub mod origin;
pub mod plan;
pub mod query;
pub mod records;
pub mod render;
pub mod report;
pub mod runs;
pub mod select;
pub mod shape;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod tolerance;

pub use error::Error;
