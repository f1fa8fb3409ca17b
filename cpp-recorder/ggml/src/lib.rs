//! Follows ggml's graph through a forward call and records its stages.
//!
//! A graph shows its nodes one at a time, in order of execution, to the evaluation callback of ggml's scheduler. An
//! [`Observer`] is asked of each node whether its data is wanted ([`Observer::ask`]), and shown those that are, once
//! they are computed ([`Observer::data`]). What a record needs besides its own bytes comes from the inputs of other
//! nodes: token ids from the embedding's GET_ROWS, positions from the first ROPE, cells of the KV cache from SET_ROWS,
//! rows that were kept from the last layer's GET_ROWS, and which tokens are of one sequence from the cells or, in a cache
//! that sequences share, from the attention mask. What comes before these are known is held back.
//!
//! The observer never reads ggml's structs itself: a [`Host`] tells it of tensors. There are two. Programs that are
//! compiled with `bitnet_trace_ggml.h` read the fields with their own `ggml.h`; the preload library reads them in a
//! layout that it has verified. Operators and element types are known by name, for their numbers differ between versions.
//!
//! No tensor, however odd, ends the host: what can't be recorded is counted in the run's manifest.

mod cells;
mod node;
mod pass;
mod read;
mod record;
mod sequences;
mod stages;

pub use node::{Host, Node, Raw};
pub use pass::Observer;

/// Whether a node of `host` is one of a known stage: the graph is a model's.
pub fn is_stage(host: &impl Host, node: &Node) -> bool {
    stages::of(host, node).0.is_some()
}
