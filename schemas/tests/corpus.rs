//! The seeds of the fuzz targets that belong to this crate, and changes of them.
#![allow(missing_docs)]

#[path = "../../fuzz/src/manifest.rs"]
mod manifest;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/selection.rs"]
mod selection;
#[path = "../../fuzz/src/stages.rs"]
mod stages;
#[path = "../../fuzz/src/trace_file.rs"]
mod trace_file;

use replay::replay;

#[test]
fn every_seed_of_a_manifest_is_read_or_refused() {
    replay("manifest", 2000, manifest::check);
}

#[test]
fn every_seed_of_a_selection_selects_what_it_says_or_is_refused() {
    replay("selection", 200, selection::check);
}

#[test]
fn every_seed_of_a_stage_file_is_read_or_refused() {
    replay("stages", 200, stages::check);
}

#[test]
fn every_seed_of_a_trace_file_comes_back_as_it_was_or_is_refused() {
    replay("trace_file", 500, trace_file::check);
}
