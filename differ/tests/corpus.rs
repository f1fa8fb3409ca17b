//! The seeds of the fuzz targets that belong to this crate, and changes of them.
#![allow(missing_docs)]

#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/tolerance.rs"]
mod tolerance;

use replay::replay;

#[test]
fn every_seed_of_a_tolerance_file_is_read_or_refused() {
    replay("tolerance", 500, tolerance::check);
}
