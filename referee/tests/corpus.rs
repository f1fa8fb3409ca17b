//! The seeds of the fuzz target of model files, and changes of them.
#![allow(missing_docs)]

#[path = "../../fuzz/src/gguf.rs"]
mod gguf;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn every_seed_of_a_model_file_is_refereed_or_refused() {
    replay::replay("gguf", 150, gguf::check);
}
