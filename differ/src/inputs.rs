//! The recorded inputs of a record, as evidence for what is said of its output.

use crate::{
    compare::Comparison,
    judge::Verdict,
    num,
    upstream::{Upstream, nearest},
};
use serde::Serialize;
use std::collections::BTreeSet;

/// Stages that only some architectures compute: without a record of them, they are taken not to exist.
const OPTIONAL: [&str; 8] = [
    "embd_scaled",
    "q_norm",
    "k_norm",
    "q_scaled",
    "attn_sub_norm",
    "attn_post_norm",
    "ffn_sub_norm",
    "ffn_post_norm",
];

/// An input that was compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputRecord {
    /// Its stage.
    pub stage: String,
    /// Its layer.
    pub layer: i32,
    /// The position of its worst record: that of the output, or an earlier one where a history is read.
    pub seq: i64,
    /// Records that were looked at.
    pub records: u64,
    /// The worst verdict of them.
    pub verdict: Verdict,
    /// The largest relative L2 of them.
    #[serde(serialize_with = "num::json_option")]
    pub rel_l2: Option<f64>,
}

/// The inputs of a record.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Inputs {
    /// The nearest ones that were compared.
    pub compared: Vec<InputRecord>,
    /// Stages between them and the output that were not recorded on both sides: a fault may be in these.
    pub not_compared: Vec<String>,
}

/// The inputs of a step, by the vocabulary; none for a stage outside of it.
pub fn inputs(comparison: &Comparison<'_>, step: usize) -> Inputs {
    let key = comparison.key(step);
    let keys = || comparison.plan.steps.iter().map(|s| &s.key);
    let layers = keys().map(|k| k.layer).max().unwrap_or(-1).saturating_add(1);
    let recorded: BTreeSet<&str> = keys().map(|k| k.stage.as_str()).collect();
    let mut result = Inputs::default();
    nearest(comparison.graph, layers, &key.stage, key.layer, |input| {
        let Upstream {
            stage,
            layer,
            history,
        } = input;
        let Some(found) = worst(comparison, step, stage, layer, history) else {
            let exists = !OPTIONAL.contains(&stage) || recorded.contains(stage);
            if exists && !result.not_compared.iter().any(|n| n == stage) {
                result.not_compared.push(stage.to_owned());
            }
            return false;
        };
        // Read twice, as itself and as a history: the history is the wider one.
        match result
            .compared
            .iter_mut()
            .find(|i| i.stage == found.stage && i.layer == found.layer)
        {
            Some(known) if known.records < found.records => *known = found,
            Some(_) => {}
            None => result.compared.push(found),
        }
        true
    });
    result
}

/// The worst compared record of a stage and layer: of the step's own token, or of its history.
fn worst(
    comparison: &Comparison<'_>,
    step: usize,
    stage: &str,
    layer: i32,
    history: bool,
) -> Option<InputRecord> {
    let of = comparison.key(step);
    let mut found: Option<InputRecord> = None;
    for (other, outcome) in comparison.plan.steps.iter().zip(&comparison.outcomes) {
        let key = &other.key;
        let token = key.seq == of.seq || (history && key.seq < of.seq);
        let same = key.request == of.request && key.layer == layer && key.stage == stage;
        if !same || !token || !outcome.verdict.is_compared() {
            continue;
        }
        let this = InputRecord {
            stage: stage.to_owned(),
            layer,
            seq: key.seq,
            records: 1,
            verdict: outcome.verdict,
            rel_l2: outcome.rel_l2(),
        };
        found = Some(match found {
            None => this,
            Some(mut so_far) => {
                so_far.records += 1;
                let rank = |r: &InputRecord| (r.verdict == Verdict::Diverged, r.rel_l2.unwrap_or(0.0));
                if rank(&this) > rank(&so_far) {
                    InputRecord {
                        records: so_far.records,
                        ..this
                    }
                } else {
                    so_far
                }
            }
        });
    }
    found
}
