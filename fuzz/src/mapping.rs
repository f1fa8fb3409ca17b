//! Mapping files.

use bitnet_diff::mapping::{Mapping, Which};
use bitnet_trace_schema::{RecordMeta, StageGraph};

/// Text is a mapping whose layouts are permutations and whose names lead to stages; or an error.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mapping = match Mapping::from_toml(text, "m.toml") {
        Ok(mapping) => mapping,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let graph = StageGraph::builtin();
    for entry in &mapping.entries {
        let _ = (entry.is_for(Which::Left, "x"), entry.is_for(Which::Right, ""));
        for (name, layer) in [
            ("blk.3.q", 0),
            ("Qcur-2147483648", -1),
            ("", i32::MIN),
            ("ü", i32::MAX),
        ] {
            let mut meta = RecordMeta::empty();
            (meta.name, meta.stage, meta.layer) = (name.into(), name.into(), layer);
            if let Some((stage, _)) = entry.target((&meta).into(), 0, (name, layer), &graph) {
                assert!(!stage.is_empty());
            }
        }
        let Some(convention) = &entry.convention else {
            continue;
        };
        for elements in [0, 1, 6, 8, 64].into_iter().filter(|&n| convention.fits(n)) {
            let mut from: Vec<usize> = (0..elements).map(|i| convention.source(elements, i)).collect();
            from.sort_unstable();
            assert!(from.into_iter().eq(0..elements), "{convention:?} of {elements}");
        }
    }
}
