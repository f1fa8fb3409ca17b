//! Which record of one run belongs to which of the other, and in what order they happened.
//!
//! Records pair by key (request, seq, layer, stage) and visit: the n-th record of a key on one side
//! belongs to the n-th on the other, counted in order of pass and occurrence. Names, pass numbers and
//! op_index may differ, so a prompt that was decoded in one batch pairs with the same prompt taken token
//! by token.
//!
//! The order is causal: by request, then seq (a token depends on no later one), then the order in
//! which the left run executed. A record that the left run lacks is placed by the vocabulary.
//!
//! [`AlignPlan::lines`] and [`Explained`] say how each step pairs, or why it does not. That is asked for apart: a
//! comparison needs the steps only.

mod how;

pub use how::{Explained, How, LayoutLine, Missing, MissingLine, NameLine, PlanLine, PlanReport, Rule};

use crate::records::Records;
use bitnet_trace_schema::{RecordMeta, StageGraph};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What a record is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Key {
    /// Which sequence of a batch.
    pub request: i32,
    /// Token position, from 0.
    pub seq: i64,
    /// Layer from 0; -1 and -2 where there is none.
    pub layer: i32,
    /// Word of the stage vocabulary.
    pub stage: String,
}

impl Key {
    /// The key of a record.
    pub fn of(meta: &RecordMeta) -> Self {
        Self {
            request: meta.request,
            seq: meta.seq,
            layer: meta.layer,
            stage: meta.stage.clone(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.request != 0 {
            write!(f, "request={}, ", self.request)?;
        }
        write!(f, "seq={}, layer={}, stage={}", self.seq, self.layer, self.stage)
    }
}

/// Records of several runs that belong together. `rows` has one entry a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// Their key.
    pub key: Key,
    /// How many records of this key came before, in each run.
    pub visit: u32,
    /// Row in each run's records, where it has one.
    pub rows: Vec<Option<usize>>,
}

/// A record of the left run, of the right one, or of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The key.
    pub key: Key,
    /// How many records of this key came before, on each side.
    pub visit: u32,
    /// Row in the left records.
    pub left: Option<usize>,
    /// Row in the right records.
    pub right: Option<usize>,
}

/// Two runs, aligned: what is compared with what, in causal order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlignPlan {
    /// The steps, in causal order.
    pub steps: Vec<Step>,
}

/// Aligns two runs.
pub fn plan(left: &dyn Records, right: &dyn Records, graph: &StageGraph) -> AlignPlan {
    let steps = align(&[left, right], graph).into_iter().map(|a| Step {
        key: a.key,
        visit: a.visit,
        left: a.rows[0],
        right: a.rows[1],
    });
    AlignPlan {
        steps: steps.collect(),
    }
}

/// Key and visit of a row, borrowed.
type Place<'a> = (i32, i64, i32, &'a str, u32);

/// Aligns any number of runs; the order is that of the first, the others' own records are placed by the
/// vocabulary.
pub fn align(runs: &[&dyn Records], graph: &StageGraph) -> Vec<Aligned> {
    let mut aligned: Vec<Aligned> = Vec::new();
    let mut known: HashMap<Place<'_>, usize> = HashMap::new();
    for (run, records) in runs.iter().enumerate() {
        let mut extra: Vec<(usize, Option<usize>)> = Vec::new(); // entry, the one before it in this run
        let mut before = None;
        for (row, place) in visits(*records) {
            let at = *known.entry(place).or_insert_with(|| {
                let meta = records.meta(row);
                aligned.push(Aligned {
                    key: Key::of(meta),
                    visit: place.4,
                    rows: vec![None; runs.len()],
                });
                extra.push((aligned.len() - 1, before));
                aligned.len() - 1
            });
            aligned[at].rows[run] = Some(row);
            before = Some(at);
        }
        if run > 0 && !extra.is_empty() {
            let order = merged(&aligned, &extra, graph);
            // The map holds places in the old order.
            let mut moved = vec![0; aligned.len()];
            for (new, &old) in order.iter().enumerate() {
                moved[old] = new;
            }
            for at in known.values_mut() {
                *at = moved[*at];
            }
            let mut slots: Vec<Option<Aligned>> = aligned.into_iter().map(Some).collect();
            aligned = order.into_iter().filter_map(|old| slots[old].take()).collect();
        }
    }
    aligned
}

/// Rows in causal order, each with its place.
fn visits(records: &dyn Records) -> Vec<(usize, Place<'_>)> {
    let mut rows: Vec<usize> = (0..records.len()).collect();
    let visit_order = |row: usize| {
        let m = records.meta(row);
        (m.pass, m.occurrence, m.op_index)
    };
    rows.sort_by_key(|&row| visit_order(row));
    let mut seen: HashMap<(i32, i64, i32, &str), u32> = HashMap::new();
    let mut places: Vec<(usize, Place<'_>)> = rows
        .into_iter()
        .map(|row| {
            let m = records.meta(row);
            let count = seen.entry((m.request, m.seq, m.layer, &m.stage)).or_default();
            let visit = *count;
            *count += 1;
            (row, (m.request, m.seq, m.layer, m.stage.as_str(), visit))
        })
        .collect();
    places.sort_by_key(|&(row, place)| {
        let m = records.meta(row);
        (m.request, m.seq, m.op_index, m.pass, m.occurrence, place.4)
    });
    places
}

/// The order of `aligned` in which the entries `extra`, which now stand at its end, are where they
/// belong.
fn merged(aligned: &[Aligned], extra: &[(usize, Option<usize>)], graph: &StageGraph) -> Vec<usize> {
    let base = aligned.len() - extra.len();
    // Entries of a token stand together; the largest vocabulary place so far makes them searchable.
    let mut groups: BTreeMap<(i32, i64), (usize, Vec<Rank>)> = BTreeMap::new();
    for (at, entry) in aligned[..base].iter().enumerate() {
        let key = (entry.key.request, entry.key.seq);
        let (_, ranks) = groups.entry(key).or_insert((at, Vec::new()));
        let so_far = ranks.last().copied().unwrap_or_default();
        ranks.push(rank(entry, graph).map_or(so_far, |r| r.max(so_far)));
    }
    let mut slot_of: HashMap<usize, usize> = HashMap::new();
    // (where to insert, order of arrival, entry)
    let mut inserts: Vec<(usize, usize, usize)> = Vec::with_capacity(extra.len());
    for (arrival, &(at, before)) in extra.iter().enumerate() {
        let key = (aligned[at].key.request, aligned[at].key.seq);
        let slot = match (groups.get(&key), rank(&aligned[at], graph)) {
            (Some((start, ranks)), Some(rank)) => start + ranks.partition_point(|&r| r <= rank),
            // A stage of nobody's vocabulary: after the record before it, if that is of the same token.
            (Some((start, _)), None) => before
                .filter(|&b| (aligned[b].key.request, aligned[b].key.seq) == key)
                .map_or(*start, |b| slot_of.get(&b).copied().unwrap_or(b + 1)),
            // A token that is new: before the next one.
            (None, _) => groups.range(key..).next().map_or(base, |(_, (start, _))| *start),
        };
        slot_of.insert(at, slot);
        inserts.push((slot, arrival, at));
    }
    inserts.sort_unstable();
    let mut order = Vec::with_capacity(aligned.len());
    let mut next = inserts.into_iter().peekable();
    for at in 0..=base {
        while let Some((_, _, entry)) = next.next_if(|i| i.0 == at) {
            order.push(entry);
        }
        if at < base {
            order.push(at);
        }
    }
    order
}

/// Visit, and place among the records of the token.
type Rank = (u32, bitnet_trace_schema::Place);

fn rank(entry: &Aligned, graph: &StageGraph) -> Option<Rank> {
    Some((entry.visit, graph.place(&entry.key.stage, entry.key.layer)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    fn shown(plan: &AlignPlan) -> Vec<String> {
        let side = |row: Option<usize>| row.map_or("-".to_owned(), |r| r.to_string());
        let steps = plan.steps.iter();
        steps
            .map(|s| {
                let k = &s.key;
                format!(
                    "{}/{}/{}#{} {} {}",
                    k.seq,
                    k.layer,
                    k.stage,
                    s.visit,
                    side(s.left),
                    side(s.right)
                )
            })
            .collect()
    }

    fn align_two(left: &Memory, right: &Memory) -> Vec<String> {
        shown(&plan(left, right, &StageGraph::builtin()))
    }

    #[test]
    fn the_order_is_that_of_execution_and_never_the_alphabet() {
        let mut left = Memory::default();
        for (seq, layer, stage) in [
            (0, -1, "embeddings"),
            (0, 0, "attn_norm"),
            (0, -2, "all_layers_out"),
            (0, -1, "logits"),
            (1, -1, "embeddings"),
        ] {
            left.push(seq, layer, stage, &[1.0]);
        }
        assert_eq!(
            align_two(&left, &left),
            [
                "0/-1/embeddings#0 0 0",
                "0/0/attn_norm#0 1 1",
                "0/-2/all_layers_out#0 2 2",
                "0/-1/logits#0 3 3",
                "1/-1/embeddings#0 4 4"
            ]
        );
    }

    #[test]
    fn a_batch_pairs_with_token_by_token() {
        let (mut batch, mut single) = (Memory::default(), Memory::default());
        for stage in ["attn_norm", "q_proj"] {
            batch.push_at(0, 0, 0, stage, &[1.0]);
            batch.same_op(1, 0, stage, &[2.0]);
        }
        for seq in 0..2 {
            for stage in ["attn_norm", "q_proj"] {
                single.push_at(seq as i32, seq, 0, stage, &[1.0]);
            }
        }
        assert_eq!(
            align_two(&batch, &single),
            [
                "0/0/attn_norm#0 0 0",
                "0/0/q_proj#0 2 1",
                "1/0/attn_norm#0 1 2",
                "1/0/q_proj#0 3 3"
            ]
        );
    }

    #[test]
    fn what_only_the_right_run_has_is_placed_by_the_vocabulary() {
        let (mut left, mut right) = (Memory::default(), Memory::default());
        for stage in ["attn_norm", "k_proj", "q_proj", "attn_out"] {
            left.push(0, 0, stage, &[1.0]);
        }
        left.push(0, -1, "logits", &[1.0]);
        for (layer, stage) in [
            (-1, "embeddings"),
            (0, "q_rope"),
            (0, "mine"),
            (0, "layer_out"),
            (-2, "all_layers_out"),
        ] {
            right.push(0, layer, stage, &[1.0]);
        }
        right.push(5, 0, "q_proj", &[1.0]);
        assert_eq!(
            align_two(&left, &right),
            [
                "0/-1/embeddings#0 - 0",
                "0/0/attn_norm#0 0 -",
                "0/0/k_proj#0 1 -",
                "0/0/q_proj#0 2 -",
                "0/0/q_rope#0 - 1",
                "0/0/mine#0 - 2",
                "0/0/attn_out#0 3 -",
                "0/0/layer_out#0 - 3",
                "0/-2/all_layers_out#0 - 4",
                "0/-1/logits#0 4 -",
                "5/0/q_proj#0 - 5"
            ]
        );
    }

    #[test]
    fn an_extra_visit_pairs_with_nothing() {
        let (mut left, mut right) = (Memory::default(), Memory::default());
        left.push_at(0, 3, 0, "q_proj", &[1.0]);
        left.push_at(4, 3, 0, "q_proj", &[2.0]);
        right.push_at(7, 3, 0, "q_proj", &[1.0]);
        assert_eq!(align_two(&left, &right), ["3/0/q_proj#0 0 0", "3/0/q_proj#1 1 -"]);
    }

    #[test]
    fn a_third_run_joins_what_the_first_two_have() {
        let mut runs = [Memory::default(), Memory::default(), Memory::default()];
        runs[0].push(0, 0, "attn_out", &[1.0]);
        runs[1].push(0, 0, "q_proj", &[1.0]);
        runs[2].push(0, 0, "q_proj", &[1.0]);
        runs[2].push(0, 0, "attn_out", &[1.0]);
        let runs: Vec<&dyn Records> = runs.iter().map(|r| r as &dyn Records).collect();
        let rows: Vec<_> = align(&runs, &StageGraph::builtin())
            .into_iter()
            .map(|a| a.rows)
            .collect();
        assert_eq!(rows, [vec![None, Some(0), Some(0)], vec![Some(0), None, Some(1)]]);
    }
}
