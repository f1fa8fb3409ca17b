//! The nearest recorded inputs of a stage, by the vocabulary.

use bitnet_trace_schema::{InputLayer, LAYER_ALL, StageGraph};
use std::collections::HashSet;

/// Unrecorded stages that are looked through on the way to recorded ones.
const MOST_LOOKED_THROUGH: usize = 64;

/// A stage that another one is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Upstream<'a> {
    /// Its stage.
    pub stage: &'a str,
    /// Its layer.
    pub layer: i32,
    /// Whether it is read at every position up to that of the output, and not there alone.
    pub history: bool,
}

/// Walks from `stage` of `layer` against the data flow. `found` says whether an input is there; where it is not, its
/// own inputs stand in for it. Nothing is visited twice.
///
/// `layers` is the number of layers; a stage outside of the vocabulary has no inputs.
pub fn nearest<'a>(
    graph: &'a StageGraph,
    layers: i32,
    stage: &'a str,
    layer: i32,
    mut found: impl FnMut(Upstream<'a>) -> bool,
) {
    let mut seen = HashSet::new();
    let mut open = vec![Upstream {
        stage,
        layer,
        history: false,
    }];
    while let Some(at) = open.pop() {
        let Some(stage) = graph.get(at.stage).filter(|_| seen.len() < MOST_LOOKED_THROUGH) else {
            continue;
        };
        let mut deeper = Vec::new();
        for input in &stage.inputs {
            // A damaged run may hold any layer number.
            let (name, layer) = graph.resolve(input, at.layer.max(LAYER_ALL), layers);
            let input = Upstream {
                stage: name,
                layer,
                history: at.history || input.layer == InputLayer::History,
            };
            if seen.insert(input) && !found(input) {
                deeper.push(input);
            }
        }
        open.extend(deeper.into_iter().rev());
    }
}
