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

pub(crate) mod folding;
mod how;
mod lines;
mod positions;

pub use how::{Explained, How, Missing, Rule};
pub use lines::{LayoutLine, MissingLine, NameLine, PlanLine, PlanReport};

use crate::records::Records;
use bitnet_trace_schema::{StageGraph, Text};
use bitnet_trace_store::Meta;
use positions::Positions;
use serde::Serialize;
use std::fmt;

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
    pub stage: Text,
}

impl Key {
    /// The key of a record.
    pub fn of(meta: Meta<'_>) -> Self {
        Self {
            request: meta.request,
            seq: meta.seq,
            layer: meta.layer,
            stage: meta.stage.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// A record of the left run, of the right one, or of both: a comparison has very many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Number of its layer and stage among those of the plan.
    pub(crate) place: u32,
    /// How many records of this key came before, on each side.
    pub visit: u32,
    left: RowOf,
    right: RowOf,
}

/// Row in a run's records, if it has one.
#[derive(Clone, Copy, PartialEq)]
struct RowOf(u32);

impl RowOf {
    const NONE: Self = Self(u32::MAX);

    /// A row beyond what 32 bits count is none: it is missing, and never a match.
    fn new(row: Option<usize>) -> Self {
        let row = row.and_then(|row| u32::try_from(row).ok());
        row.map_or(Self::NONE, Self)
    }

    fn get(self) -> Option<usize> {
        (self != Self::NONE).then_some(self.0 as usize)
    }
}

impl fmt::Debug for RowOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Step {
    /// Row in the left records.
    pub fn left(&self) -> Option<usize> {
        self.left.get()
    }

    /// Row in the right records.
    pub fn right(&self) -> Option<usize> {
        self.right.get()
    }
}

/// A layer and a stage.
pub(crate) type Place = (i32, Text);

/// The steps of one position begin here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PositionAt {
    pub(crate) request: i32,
    pub(crate) seq: i64,
    /// The first of them.
    pub(crate) first: usize,
}

/// Steps of one position after another.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Stretch {
    pub(crate) positions: Vec<PositionAt>,
    pub(crate) steps: Vec<Step>,
}

impl Stretch {
    /// Position and steps, one position after another.
    pub(crate) fn by_position(&self) -> impl Iterator<Item = (PositionAt, &[Step])> {
        let ends = self.positions.iter().skip(1).map(|next| next.first);
        let ends = ends.chain([self.steps.len()]);
        let positions = self.positions.iter().zip(ends);
        positions.map(|(at, end)| (*at, &self.steps[at.first..end]))
    }

    /// The position of a step.
    pub(crate) fn at(&self, step: usize) -> PositionAt {
        self.positions[self.positions.partition_point(|at| at.first <= step) - 1]
    }

    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.steps.clear();
    }
}

/// Two runs, aligned: what is compared with what, in causal order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlignPlan {
    pub(crate) places: Vec<Place>,
    pub(crate) stretch: Stretch,
}

/// A step and its key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed<'a> {
    /// Which sequence of a batch.
    pub request: i32,
    /// Token position, from 0.
    pub seq: i64,
    /// Layer from 0; -1 and -2 where there is none.
    pub layer: i32,
    /// Word of the stage vocabulary.
    pub stage: &'a Text,
    /// The step.
    pub step: Step,
}

impl Placed<'_> {
    /// Row in the left records.
    pub fn left(&self) -> Option<usize> {
        self.step.left()
    }

    /// Row in the right records.
    pub fn right(&self) -> Option<usize> {
        self.step.right()
    }

    /// The key of its records.
    pub fn key(&self) -> Key {
        Key {
            request: self.request,
            seq: self.seq,
            layer: self.layer,
            stage: self.stage.clone(),
        }
    }
}

impl AlignPlan {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.stretch.steps.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stretch.steps.is_empty()
    }

    /// The steps, in causal order.
    pub fn iter(&self) -> impl Iterator<Item = Placed<'_>> {
        let positions = self.stretch.by_position();
        positions.flat_map(move |(at, steps)| steps.iter().map(move |step| self.placed(at, *step)))
    }

    /// One of the steps.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn step(&self, step: usize) -> Placed<'_> {
        self.placed(self.stretch.at(step), self.stretch.steps[step])
    }

    fn placed(&self, at: PositionAt, step: Step) -> Placed<'_> {
        let (layer, stage) = &self.places[step.place as usize];
        Placed {
            request: at.request,
            seq: at.seq,
            layer: *layer,
            stage,
            step,
        }
    }
}

/// Aligns two runs.
pub fn plan(left: &dyn Records, right: &dyn Records, graph: &StageGraph) -> AlignPlan {
    let mut ahead = Steps::new(left, right, graph);
    let mut plan = AlignPlan::default();
    while ahead.next_into(&mut plan.stretch).is_some() {}
    plan.places = ahead.places_from(0).collect();
    plan
}

/// The steps of a plan that is made as far as it is asked for.
pub(crate) struct Steps<'a>(Positions<'a>);

/// What was planned of a position.
pub(crate) struct Planned {
    /// Whether it has the places of the position before.
    pub(crate) is_as_before: bool,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(left: &'a dyn Records, right: &'a dyn Records, graph: &'a StageGraph) -> Self {
        Self(Positions::new(&[left, right], graph))
    }

    /// Records that no step has been made of, of the run that has more of them.
    pub(crate) fn left(&self) -> usize {
        self.0.left()
    }

    /// Layers and stages that were met so far, from this number on.
    pub(crate) fn places_from(&self, known: usize) -> impl Iterator<Item = Place> {
        let places = self.0.places()[known..].iter();
        places.map(|&(layer, stage)| (layer, stage.clone()))
    }

    /// Puts the steps of the next position behind those that are there; none where there is no more.
    pub(crate) fn next_into(&mut self, stretch: &mut Stretch) -> Option<Planned> {
        let position = self.0.next()?;
        stretch.positions.push(PositionAt {
            request: position.request,
            seq: position.seq,
            first: stretch.steps.len(),
        });
        stretch
            .steps
            .extend(position.entries().map(|(place, visit, mut rows)| Step {
                place,
                visit,
                left: RowOf::new(rows.next().flatten()),
                right: RowOf::new(rows.next().flatten()),
            }));
        Some(Planned {
            is_as_before: position.is_as_before,
        })
    }
}

/// Aligns any number of runs; the order is that of the first, the others' own records are placed by the
/// vocabulary.
pub fn align(runs: &[&dyn Records], graph: &StageGraph) -> Vec<Aligned> {
    let mut positions = Positions::new(runs, graph);
    let mut aligned = Vec::new();
    while let Some(position) = positions.next() {
        let (request, seq, places) = (position.request, position.seq, position.places);
        aligned.extend(position.entries().map(|(place, visit, rows)| {
            let (layer, stage) = places[place as usize];
            let stage = stage.clone();
            Aligned {
                key: Key {
                    request,
                    seq,
                    layer,
                    stage,
                },
                visit,
                rows: rows.collect(),
            }
        }));
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    fn shown(plan: &AlignPlan) -> Vec<String> {
        let side = |row: Option<usize>| row.map_or("-".to_owned(), |r| r.to_string());
        plan.iter()
            .map(|s| {
                format!(
                    "{}/{}/{}#{} {} {}",
                    s.seq,
                    s.layer,
                    s.stage,
                    s.step.visit,
                    side(s.left()),
                    side(s.right())
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
