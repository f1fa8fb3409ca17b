//! The seeds of the fuzz targets that belong to this crate, and changes of them.
#![allow(missing_docs)]

#[path = "../../fuzz/src/floor.rs"]
mod floor;
#[path = "../../fuzz/src/mapping.rs"]
mod mapping;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/tolerance.rs"]
mod tolerance;

use replay::replay;

#[test]
fn every_seed_of_a_tolerance_file_is_read_or_refused() {
    replay("tolerance", 500, tolerance::check);
}

#[test]
fn every_seed_of_a_floor_file_is_read_or_refused() {
    replay("floor", 500, floor::check);
}

#[test]
fn every_seed_of_a_mapping_file_is_read_or_refused() {
    replay("mapping", 500, mapping::check);
}
