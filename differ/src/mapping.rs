//! What a run's tensors are called, and in which order their elements lie, where another run knows them otherwise.
//!
//! A [`Mapped`] run looks like the one that it wraps, with other stages, layers and element orders: those that
//! the vocabulary's aliases and a [`Mapping`] give. Whatever compares records needs not know of it.

mod convention;
mod file;
mod mapped;
#[cfg(test)]
mod tests;

pub use convention::{Convention, ConventionName, head_major};
pub(crate) use file::layer_of;
pub use file::{Entry, Mapping, MappingError, Which};
pub use mapped::{Mapped, Naming};
pub(crate) use mapped::{Source, gathered, permuted, sources, split_layer};
