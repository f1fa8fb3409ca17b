//! The recorded inputs of a record, as evidence for what is said of its output.

use crate::{
    judge::{Outcome, Verdict},
    num,
    plan::Key,
    upstream::{Upstream, nearest},
};
use bitnet_trace_schema::{StageGraph, Text};
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

/// The worst of the compared records of a layer and stage, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    seq: i64,
    records: u64,
    verdict: Verdict,
    rel_l2: Option<f64>,
}

impl Seen {
    /// Adds a record that was compared, which is later than those before.
    pub(crate) fn add(seen: &mut Option<Self>, seq: i64, outcome: &Outcome) {
        let this = Self {
            seq,
            records: 1,
            verdict: outcome.verdict,
            rel_l2: outcome.rel_l2(),
        };
        let rank = |s: &Self| (s.verdict == Verdict::Diverged, s.rel_l2.unwrap_or(0.0));
        match seen {
            Some(so_far) if rank(&this) > rank(so_far) => {
                let records = so_far.records + 1;
                *so_far = Self { records, ..this };
            }
            Some(so_far) => so_far.records += 1,
            None => *seen = Some(this),
        }
    }
}

/// The inputs of the record of this key, by the vocabulary; none for a stage outside of it. `places` are the layers and stages
/// of both runs; `found` tells of a layer and stage what was compared of the record's own token, or, if its history is read,
/// of that and the ones before.
pub(crate) fn inputs(
    graph: &StageGraph,
    places: &BTreeSet<(i32, &Text)>,
    key: &Key,
    found: &dyn Fn(i32, &str, bool) -> Option<Seen>,
) -> Inputs {
    let layers = places.last().map_or(-1, |(layer, _)| *layer).saturating_add(1);
    let recorded: BTreeSet<&str> = places.iter().map(|(_, stage)| stage.as_str()).collect();
    let mut result = Inputs::default();
    nearest(graph, layers, &key.stage, key.layer, |input| {
        let Upstream {
            stage,
            layer,
            history,
        } = input;
        let Some(seen) = found(layer, stage, history) else {
            let exists = !OPTIONAL.contains(&stage) || recorded.contains(stage);
            if exists && !result.not_compared.iter().any(|n| n == stage) {
                result.not_compared.push(stage.to_owned());
            }
            return false;
        };
        let record = InputRecord {
            stage: stage.to_owned(),
            layer,
            seq: seen.seq,
            records: seen.records,
            verdict: seen.verdict,
            rel_l2: seen.rel_l2,
        };
        // Read twice, as itself and as a history: the history is the wider one.
        match result
            .compared
            .iter_mut()
            .find(|i| i.stage == record.stage && i.layer == record.layer)
        {
            Some(known) if known.records < record.records => *known = record,
            Some(_) => {}
            None => result.compared.push(record),
        }
        true
    });
    result
}
