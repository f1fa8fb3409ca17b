//! Finds where, and whether, two inference engines diverge.
#![forbid(unsafe_code)]

pub mod compare;
mod error;
pub mod ids;
pub mod inputs;
pub mod judge;
pub mod metrics;
pub mod num;
pub mod origin;
pub mod plan;
pub mod records;
pub mod select;
pub mod shape;
#[cfg(test)]
mod testing;
pub mod tolerance;

pub use error::Error;
