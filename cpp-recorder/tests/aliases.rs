//! The ggml adapter's table of aliases is that of the stage vocabulary.

use bitnet_trace_schema::{StageGraph, StageScope};
use std::collections::BTreeSet;

const HEADER: &str = include_str!("../include/bitnet_trace_ggml_stages.hpp");

#[test]
fn the_adapter_and_the_vocabulary_have_the_same_aliases_and_scopes() {
    // Rows such as: {"q_rope", "Qcur", "ROPE", Scope::layer, Layout::heads},
    let rows = HEADER.lines().filter_map(|line| line.trim().strip_prefix("{\""));
    let adapter: BTreeSet<String> = rows
        .map(|row| {
            let words: Vec<&str> = row
                .split([',', '"', ' ', '}'])
                .filter(|w| !w.is_empty())
                .collect();
            let [stage, name, op, scope, _layout] = words[..] else {
                panic!("not a row of the table: {row}")
            };
            format!("{stage} {name}/{op} {scope}")
        })
        .collect();

    let mut vocabulary = BTreeSet::new();
    for stage in StageGraph::builtin().stages() {
        let scope = if stage.scope == StageScope::Layer {
            "Scope::layer"
        } else {
            "Scope::model"
        };
        for alias in stage.aliases.get("ggml").into_iter().flatten() {
            vocabulary.insert(format!("{} {alias} {scope}", stage.name));
        }
    }
    assert!(vocabulary.len() > 30);
    assert_eq!(adapter, vocabulary);
}
