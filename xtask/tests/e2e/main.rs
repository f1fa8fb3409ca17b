//! The built programs on real engines: llama.cpp and bitnet.cpp against the Rust engine.
//!
//! `make e2e` runs them after `make setup` has built the programs in release and fetched llama.cpp and the model;
//! that is why `cargo test` alone leaves them out.
#![cfg(feature = "inference")]

mod align;
mod archs;
mod bad_input;
mod bitnet;
mod control;
mod crossval;
#[cfg(feature = "faults")]
mod evidence;
mod faults;
mod ggml_adapter;
mod judge;
mod preload;
mod quant;
mod replay;
mod selection;
mod support;
mod ternary;
mod third_party;
mod trouble;
mod unmodified;
