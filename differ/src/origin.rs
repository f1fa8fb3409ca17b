//! Where a divergence began: the diverged records whose inputs are clean.
//!
//! One pass in the direction of the data flow gives every place of the model a state: *clean* or *dirty*
//! where its record was compared, and elsewhere the worst state of its own inputs. A diverged record
//! whose inputs are not dirty is an origin.

use crate::{
    judge::{Outcome, Reason, Verdict},
    plan::{Place, Step},
    records::Side,
};
use bitnet_trace_schema::{Input, InputLayer, StageGraph, StageScope};
use std::collections::BTreeSet;

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

/// The origins among the diverged records of a comparison, found position by position in causal order.
///
/// A stage outside of the vocabulary has unknown inputs: it is an origin only if nothing of its request
/// diverged before it.
pub(crate) struct Origins<'a> {
    graph: &'a StageGraph,
    layers: Vec<i32>,
    /// Inputs of each stage, by rank.
    sources: Vec<Vec<Source>>,
    /// Rank of what the first layer reads.
    before_layers: Option<usize>,
    /// Every place in the direction of the data flow: (row, rank).
    flow: Vec<(usize, usize)>,
    /// Where each place of the plan is in a table; none outside of the vocabulary.
    at: Vec<Option<usize>>,
    request: Option<i32>,
    /// The last request in which a record diverged.
    diverged: Option<i32>,
    /// States of the positions before, as each class of visits sees them.
    histories: Vec<Vec<State>>,
    /// What follows is of one position and class; it is kept for its room.
    table: Vec<State>,
    latest: Vec<u32>,
    /// Diverged steps of the class, of which each names the one before it in its place.
    steps: Vec<(usize, usize)>,
    last: Vec<usize>,
}

/// No step.
const NONE: usize = usize::MAX;

impl<'a> Origins<'a> {
    /// Of a comparison of these runs.
    pub(crate) fn new(sides: [&Side<'_>; 2], graph: &'a StageGraph) -> Self {
        let layers: BTreeSet<i32> = sides
            .iter()
            .flat_map(|side| side.records.places())
            .map(|(layer, _)| layer)
            .filter(|&layer| layer >= 0)
            .collect();
        let source = |input: &Input| {
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
        let mut origins = Self {
            layers: layers.into_iter().collect(),
            sources: stages
                .map(|s| s.inputs.iter().filter_map(source).collect())
                .collect(),
            before_layers: graph.before_layers().and_then(|stage| graph.rank(&stage.name)),
            flow: Vec::new(),
            at: Vec::new(),
            request: None,
            diverged: None,
            histories: Vec::new(),
            table: Vec::new(),
            latest: Vec::new(),
            steps: Vec::new(),
            last: Vec::new(),
            graph,
        };
        origins.flow = origins.flow();
        origins
    }

    /// Row of the table for what has no layer.
    fn model_row(&self) -> usize {
        self.layers.len()
    }

    fn flow(&self) -> Vec<(usize, usize)> {
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

    /// Learns where the places of the plan are, which go on from those before.
    pub(crate) fn places(&mut self, places: &[Place]) {
        let stages = self.graph.stages().len();
        for (layer, stage) in places {
            let row = self.layers.binary_search(layer).unwrap_or(self.model_row());
            let rank = self.graph.rank(stage);
            self.at.push(rank.map(|rank| row * stages + rank));
        }
    }

    /// The origins among the steps of the next position, in their order. Positions before the first at which something
    /// diverged may be left out.
    ///
    /// `clean` says of a step that did not diverge whether it is known to pass no error on; where it is not, its inputs
    /// stand in for it.
    pub(crate) fn position(
        &mut self,
        request: i32,
        steps: &[Step],
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
    ) -> Vec<usize> {
        let size = (self.layers.len() + 1) * self.graph.stages().len();
        if self.request.replace(request) != Some(request) {
            self.histories.clear();
        }
        let class = |step: &Step| step.visit.min(VISITS - 1);
        let classes = steps.iter().map(class).max().map_or(1, |last| last as usize + 1);
        while self.histories.len() < classes {
            // Without visits of a class, those before it are all that it sees.
            let before = self.histories.last().cloned();
            self.histories
                .push(before.unwrap_or_else(|| vec![State::Unknown; size]));
        }
        // Of diverged steps that the vocabulary places, whether their inputs are dirty.
        let mut placed: Vec<Option<bool>> = vec![None; steps.len()];
        for visit in 0..self.histories.len() {
            self.run(visit, (steps, outcomes), clean, &mut |step, inputs| {
                placed[step] = Some(inputs == State::Dirty);
            });
        }
        let diverged = (0..steps.len()).filter(|&i| outcomes[i].verdict == Verdict::Diverged);
        let is_origin = |&i: &usize| {
            let first_of_request = self.diverged.replace(request) != Some(request);
            let outcome = &outcomes[i];
            // Judged by its own inputs, whatever became of them.
            if matches!(outcome.reason.as_deref(), Some(Reason::Local(_))) {
                return true;
            }
            match placed[i] {
                Some(dirty) => !dirty && begins(outcome),
                None => first_of_request,
            }
        };
        diverged.filter(is_origin).collect()
    }

    /// One pass over a position for one class of visits: calls `seen` with each of its diverged steps that the
    /// vocabulary places, and the state of that step's inputs.
    fn run(
        &mut self,
        class: usize,
        (steps, outcomes): (&[Step], &[Outcome]),
        clean: &dyn Fn(usize) -> bool,
        seen: &mut dyn FnMut(usize, State),
    ) {
        self.states(class, steps, outcomes, clean);
        let stages = self.graph.stages().len();
        let model = self.model_row() * stages;
        let history = &mut self.histories[class];
        let table = &mut self.table;
        for &(row, rank) in &self.flow {
            let at = row * stages + rank;
            let inputs = self.sources[rank].iter().map(|&source| match source {
                Source::Here(rank) => table[row * stages + rank],
                Source::Before(rank) if row > 0 => table[(row - 1) * stages + rank],
                Source::Before(_) => self
                    .before_layers
                    .map_or(State::Unknown, |rank| table[model + rank]),
                Source::History(rank) => {
                    let at = row * stages + rank;
                    history[at].max(table[at])
                }
                Source::Last(rank) if model > 0 => table[model - stages + rank],
                Source::Last(_) => State::Unknown,
                Source::Model(rank) => table[model + rank],
            });
            let inputs = inputs.max().unwrap_or_default();
            match table[at] {
                State::Unknown => table[at] = inputs,
                State::Clean => {}
                State::Dirty => {
                    let mut next = self.last[at];
                    while next != NONE {
                        let (step, before) = self.steps[next];
                        seen(step, inputs);
                        next = before;
                    }
                }
            }
        }
        for (all, one) in history.iter_mut().zip(table) {
            *all = (*all).max(*one);
        }
    }

    /// The states of a position's compared records up to a class of visits, and for each place the diverged steps of
    /// exactly that class.
    fn states(&mut self, visit: usize, steps: &[Step], outcomes: &[Outcome], clean: &dyn Fn(usize) -> bool) {
        let size = self.histories[visit].len();
        self.table.clear();
        self.table.resize(size, State::Unknown);
        self.latest.clear();
        self.latest.resize(size, 0);
        self.last.clear();
        self.last.resize(size, NONE);
        self.steps.clear();
        for (i, (step, outcome)) in steps.iter().zip(outcomes).enumerate() {
            let class = step.visit.min(VISITS - 1);
            let Some(at) = self.at[step.place as usize] else {
                continue;
            };
            if class as usize > visit || !outcome.verdict.is_compared() {
                continue;
            }
            let state = if outcome.verdict == Verdict::Diverged {
                State::Dirty
            } else if clean(i) {
                State::Clean
            } else {
                State::Unknown
            };
            if class > self.latest[at] {
                self.latest[at] = class;
                self.table[at] = state;
            } else if class == self.latest[at] {
                self.table[at] = self.table[at].max(state);
            }
            if class as usize == visit && state == State::Dirty {
                self.steps.push((i, self.last[at]));
                self.last[at] = self.steps.len() - 1;
            }
        }
    }
}

/// Whether the divergence can have begun at this record: not where only its error is beyond the floor, and not its gain.
fn begins(outcome: &Outcome) -> bool {
    !matches!(outcome.reason.as_deref(), Some(Reason::Floor(reason)) if !reason.begins)
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
