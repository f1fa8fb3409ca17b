//! Files that extend the vocabulary of stages.

use bitnet_trace_schema::StageGraph;
use std::collections::BTreeSet;

/// Text extends the vocabulary to one whose stages are found and whose inputs lead somewhere, or is an error.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let graph = match StageGraph::builtin().extended(text) {
        Ok(graph) => graph,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let names: BTreeSet<_> = graph.stages().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names.len(), graph.stages().len());
    for (rank, stage) in graph.stages().iter().enumerate() {
        assert_eq!(graph.rank(&stage.name), Some(rank));
        for input in &stage.inputs {
            for layer in [i32::MIN, -2, -1, 0, 1, i32::MAX] {
                let (read, _) = graph.resolve(input, layer, 2);
                assert!(names.contains(read), "{read:?}");
            }
        }
        for (family, aliases) in &stage.aliases {
            for alias in aliases {
                let (name, op) = alias.split_once('/').unwrap_or((alias, "ANY"));
                assert!(graph.by_alias(family, name, op).is_some(), "{family} {alias}");
            }
        }
    }
}
