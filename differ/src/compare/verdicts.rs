//! A verdict on every pair of a plan, kept.

use super::{
    Comparison, Options, Stopped, check,
    fold::{Fold, Found},
    take_all,
    work::Take,
};
use crate::{
    Error,
    floor::Judgement,
    ids::TokenIds,
    judge::Outcome,
    local::LocalView,
    plan::{AlignPlan, Key, Place, PositionAt, Step},
    records::Side,
};
use bitnet_trace_schema::StageGraph;

/// A verdict on every pair of two runs: for what must look at all of them, such as a floor of medians over positions.
/// About a hundred bytes a pair.
pub struct Verdicts<'a> {
    /// The left run, the reference.
    pub left: &'a Side<'a>,
    /// The right run.
    pub right: &'a Side<'a>,
    /// The vocabulary.
    pub graph: &'a StageGraph,
    /// How they were compared.
    pub options: &'a Options,
    /// What with what, in causal order, as far as it was compared.
    pub plan: AlignPlan,
    /// One outcome for each step of the plan.
    pub outcomes: Vec<Outcome>,
    /// What the floor said, where one was given.
    pub floor: Option<Judgement>,
    /// What the referee said, where it was asked.
    pub local: Option<LocalView>,
    ids: TokenIds,
    verified: Option<u64>,
    stopped: Option<Stopped>,
}

/// Judges every pair of two runs, by the floor of the options where there is one. `progress` is called now and then with
/// the pairs done and all pairs.
///
/// # Errors
/// Those of [`super::compare()`].
pub fn verdicts<'a>(
    left: &'a Side<'a>,
    right: &'a Side<'a>,
    graph: &'a StageGraph,
    options: &'a Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Verdicts<'a>, Error> {
    let (ids, kept, verified, stopped) = take_all(left, right, graph, options, progress, Kept::new)?;
    let Kept { plan, outcomes } = kept;
    let mut verdicts = Verdicts {
        left,
        right,
        graph,
        options,
        plan,
        outcomes,
        floor: None,
        local: None,
        ids,
        verified,
        stopped,
    };
    check(left, right, &verdicts.ids, &verdicts.found())?;
    let Verdicts { plan, outcomes, .. } = &mut verdicts;
    let judged = |(floor, file): &(_, String)| Judgement::of(floor, file, plan, graph, outcomes);
    verdicts.floor = options.floor.as_ref().map(judged);
    Ok(verdicts)
}

impl<'a> Verdicts<'a> {
    /// The key of a step.
    pub fn key(&self, step: usize) -> Key {
        self.plan.step(step).key()
    }

    /// What the verdicts come to.
    pub fn comparison(&self) -> Comparison<'a> {
        let found = self.found();
        Comparison {
            left: self.left,
            right: self.right,
            graph: self.graph,
            options: self.options,
            floor: self.floor.clone(),
            local: self.local.clone(),
            ids: self.ids.clone(),
            counts: found.counts,
            verified: self.verified,
            stopped: self.stopped,
            found,
        }
    }

    fn found(&self) -> Found {
        let mut fold = Fold::new(self.left, self.right, self.graph);
        fold.places(&mut self.plan.places.clone());
        let clean = |step| self.floor.as_ref().is_none_or(|f| f.knows_clean(step));
        for (at, steps) in self.plan.stretch.by_position() {
            let outcomes = &self.outcomes[at.first..at.first + steps.len()];
            fold.take(at, steps, outcomes, &|step| clean(at.first + step));
        }
        fold.finish()
    }
}

/// Keeps all of it.
#[derive(Default)]
struct Kept {
    plan: AlignPlan,
    outcomes: Vec<Outcome>,
}

impl Kept {
    fn new(pairs: usize) -> Self {
        let mut kept = Self::default();
        kept.plan.stretch.steps.reserve_exact(pairs);
        kept.outcomes.reserve_exact(pairs);
        kept
    }
}

impl Take for Kept {
    fn places(&mut self, places: &mut Vec<Place>) {
        self.plan.places.append(places);
    }

    fn position(&mut self, at: PositionAt, steps: &[Step], outcomes: &mut [Outcome]) {
        let stretch = &mut self.plan.stretch;
        stretch.positions.push(PositionAt {
            first: stretch.steps.len(),
            ..at
        });
        stretch.steps.extend_from_slice(steps);
        self.outcomes.extend(outcomes.iter_mut().map(Outcome::take));
    }
}
