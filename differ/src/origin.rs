//! Where a divergence began: the diverged records whose inputs are clean.
//!
//! One pass in the direction of the data flow gives every place of the model a state: *clean* or *dirty*
//! where its record was compared, and elsewhere the worst state of its own inputs. A diverged record
//! whose inputs are not dirty is an origin.

use crate::{
    judge::{Outcome, Reason, Verdict},
    plan::{AlignPlan, Step},
};
use bitnet_trace_schema::{InputLayer, StageGraph, StageScope};
use std::collections::{BTreeSet, HashSet};

/// Repeated visits of a key that are told apart; those after them share the last one's state.
const VISITS: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum State {
    /// Nothing is known of it, nor of what it is made from.
    #[default]
    Unknown,
    Clean,
    Dirty,
}

/// Where an input is found in the table of one token.
#[derive(Clone, Copy)]
enum Source {
    /// The row of the stage itself.
    Here(usize),
    /// The row of the layer before, or what the first layer reads.
    Before(usize),
    /// The row of the stage itself, this token and all before it.
    History(usize),
    /// The row of the last layer.
    Last(usize),
    /// The row of what has no layer.
    Model(usize),
}

/// The origins among diverged records, as steps of the plan in causal order.
///
/// A stage outside of the vocabulary has unknown inputs: it is an origin only if nothing of its request
/// diverged before it. `clean` says of a step that did not diverge whether it is known to pass no error on; where it is
/// not, its inputs stand in for it.
pub fn origins(
    plan: &AlignPlan,
    outcomes: &[Outcome],
    graph: &StageGraph,
    clean: &dyn Fn(usize) -> bool,
) -> Vec<usize> {
    let diverged = |i: &usize| outcomes[*i].verdict == Verdict::Diverged;
    if !(0..outcomes.len()).any(|i| diverged(&i)) {
        return Vec::new();
    }
    let flow = Flow::new(plan, graph);
    let visits = plan
        .steps
        .iter()
        .map(|s| s.visit.min(VISITS - 1))
        .max()
        .unwrap_or(0);
    let mut dirty_inputs = HashSet::new();
    let mut evaluated = HashSet::new();
    for visit in 0..=visits {
        flow.run(plan, outcomes, clean, visit, &mut |step, inputs| {
            evaluated.insert(step);
            if inputs == State::Dirty {
                dirty_inputs.insert(step);
            }
        });
    }
    let mut requests_seen = HashSet::new();
    let found: Vec<usize> = (0..outcomes.len())
        .filter(diverged)
        .filter(|i| {
            let first_of_request = requests_seen.insert(plan.steps[*i].key.request);
            // Judged by its own inputs, whatever became of them.
            if matches!(outcomes[*i].reason.as_deref(), Some(Reason::Local(_))) {
                true
            } else if evaluated.contains(i) {
                !dirty_inputs.contains(i) && begins(&outcomes[*i])
            } else {
                first_of_request
            }
        })
        .collect();
    if found.is_empty() {
        // A drift beyond the floor, or an engine that records an output before its inputs, and not in the vocabulary's order.
        return (0..outcomes.len()).find(diverged).into_iter().collect();
    }
    found
}

/// Whether the divergence can have begun at this record: not where only its error is beyond the floor, and not its gain.
fn begins(outcome: &Outcome) -> bool {
    !matches!(outcome.reason.as_deref(), Some(Reason::Floor(reason)) if !reason.begins)
}

/// The vocabulary, made ready for one pass a token.
struct Flow<'a> {
    graph: &'a StageGraph,
    layers: Vec<i32>,
    sources: Vec<Vec<Source>>,
    /// Rank of what the first layer reads.
    before_layers: Option<usize>,
}

impl<'a> Flow<'a> {
    fn new(plan: &AlignPlan, graph: &'a StageGraph) -> Self {
        let layers: BTreeSet<i32> = plan
            .steps
            .iter()
            .map(|s| s.key.layer)
            .filter(|&l| l >= 0)
            .collect();
        let source = |input: &bitnet_trace_schema::Input| {
            let rank = graph.rank(&input.stage)?;
            let scope = graph.get(&input.stage)?.scope;
            Some(match (scope, input.layer) {
                (StageScope::Layer, InputLayer::Same) => Source::Here(rank),
                (StageScope::Layer, InputLayer::Previous) => Source::Before(rank),
                (StageScope::Layer, InputLayer::Last) => Source::Last(rank),
                (_, InputLayer::History) => Source::History(rank),
                _ => Source::Model(rank),
            })
        };
        let stages = graph.stages().iter();
        Self {
            layers: layers.into_iter().collect(),
            sources: stages
                .map(|s| s.inputs.iter().filter_map(source).collect())
                .collect(),
            before_layers: graph.before_layers().and_then(|stage| graph.rank(&stage.name)),
            graph,
        }
    }

    /// Row of the table for what has no layer.
    fn model_row(&self) -> usize {
        self.layers.len()
    }

    fn row(&self, layer: i32) -> usize {
        self.layers.binary_search(&layer).unwrap_or(self.model_row())
    }

    /// Every place in the direction of the data flow: (row, rank).
    fn places(&self) -> Vec<(usize, usize)> {
        let stages: Vec<(usize, StageScope)> =
            self.graph.stages().iter().map(|s| s.scope).enumerate().collect();
        let model = |before: bool| {
            let of_model = stages.iter().filter(|(_, scope)| *scope != StageScope::Layer);
            let part = of_model.filter(move |(rank, _)| self.graph.is_before_layers(*rank) == before);
            part.map(|&(rank, _)| (self.model_row(), rank))
        };
        let layers = (0..self.layers.len()).flat_map(|row| {
            let of_layer = stages.iter().filter(|(_, scope)| *scope == StageScope::Layer);
            of_layer.map(move |&(rank, _)| (row, rank))
        });
        model(true).chain(layers).chain(model(false)).collect()
    }

    /// One pass over all tokens for one visit: calls `seen` with each of its diverged steps that the
    /// vocabulary places, and the state of that step's inputs.
    fn run(
        &self,
        plan: &AlignPlan,
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
        visit: u32,
        seen: &mut dyn FnMut(usize, State),
    ) {
        let stages = self.graph.stages().len();
        let size = (self.layers.len() + 1) * stages;
        let places = self.places();
        let mut history = vec![State::Unknown; size];
        let mut request = None;
        let mut start = 0;
        for token in plan
            .steps
            .chunk_by(|a, b| (a.key.request, a.key.seq) == (b.key.request, b.key.seq))
        {
            if request.replace(token[0].key.request) != Some(token[0].key.request) {
                history.fill(State::Unknown);
            }
            let (states, steps) = self.states(token, &outcomes[start..], &|i| clean(start + i), visit, size);
            let mut table = states;
            for &(row, rank) in &places {
                let at = row * stages + rank;
                let inputs = self.sources[rank].iter().map(|&source| match source {
                    Source::Here(rank) => table[row * stages + rank],
                    Source::Before(rank) if row > 0 => table[(row - 1) * stages + rank],
                    Source::Before(_) => {
                        let at = self.before_layers.map(|rank| self.model_row() * stages + rank);
                        at.map_or(State::Unknown, |at| table[at])
                    }
                    Source::History(rank) => {
                        let at = row * stages + rank;
                        history[at].max(table[at])
                    }
                    Source::Last(rank) if self.model_row() > 0 => {
                        table[(self.model_row() - 1) * stages + rank]
                    }
                    Source::Last(_) => State::Unknown,
                    Source::Model(rank) => table[self.model_row() * stages + rank],
                });
                let inputs = inputs.max().unwrap_or_default();
                match table[at] {
                    State::Unknown => table[at] = inputs,
                    State::Clean => {}
                    State::Dirty => steps[at].iter().for_each(|&step| seen(start + step, inputs)),
                }
            }
            for (all, one) in history.iter_mut().zip(&table) {
                *all = (*all).max(*one);
            }
            start += token.len();
        }
    }

    /// The states of a token's compared records up to `visit`, and for each place the diverged steps of
    /// exactly that visit.
    fn states(
        &self,
        token: &[Step],
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
        visit: u32,
        size: usize,
    ) -> (Vec<State>, Vec<Vec<usize>>) {
        let mut latest = vec![0; size];
        let mut states = vec![State::Unknown; size];
        let mut steps = vec![Vec::new(); size];
        for (i, (step, outcome)) in token.iter().zip(outcomes).enumerate() {
            let class = step.visit.min(VISITS - 1);
            let Some(rank) = self.graph.rank(&step.key.stage) else {
                continue;
            };
            if class > visit || !outcome.verdict.is_compared() {
                continue;
            }
            let at = self.row(step.key.layer) * self.graph.stages().len() + rank;
            let state = if outcome.verdict == Verdict::Diverged {
                State::Dirty
            } else if clean(i) {
                State::Clean
            } else {
                State::Unknown
            };
            if class > latest[at] {
                latest[at] = class;
                states[at] = state;
            } else if class == latest[at] {
                states[at] = states[at].max(state);
            }
            if class == visit && state == State::Dirty {
                steps[at].push(i);
            }
        }
        (states, steps)
    }
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
