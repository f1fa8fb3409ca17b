//! What is kept of the verdicts on a plan: as much for very many as for few.

use super::{Counts, work::Take};
use crate::{
    cross,
    inputs::{Inputs, Seen, inputs},
    judge::{Outcome, Verdict},
    metrics::Distance,
    origin::Origins,
    plan::{Key, Place, PositionAt, Step},
    records::Side,
    report::IncomparableGroup,
    spread::Spread,
};
use bitnet_trace_schema::StageGraph;

/// What the verdicts came to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Layers and stages, by number.
    pub(crate) places: Vec<Place>,
    /// What came of the records of each.
    pub(crate) at: Vec<AtPlace>,
    pub(crate) counts: Counts,
    /// The key of the first step.
    pub(crate) key: Option<Key>,
    /// Those that could not be compared, by reason, in the order in which they were met.
    pub(crate) incomparable: Vec<IncomparableGroup>,
    pub(crate) identical_with_nan: u64,
    pub(crate) within_with_nan: u64,
    /// The match that is furthest apart.
    pub(crate) worst_match: Option<Furthest>,
    /// The first origin; where there is none, the first record that diverged.
    pub(crate) first: Option<Told>,
    /// Diverged records that are origins.
    pub(crate) origins: u64,
    /// Diverged records of stages outside of the vocabulary that are no origins.
    pub(crate) unplaced: u64,
}

/// What came of the records of one layer and stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct AtPlace {
    pub(crate) counts: Counts,
    /// Records that only one run has, and the other has the same key less often.
    pub(crate) extra_visits: u64,
    /// Relative L2 of what was compared; identical records count as 0.
    pub(crate) errors: Spread,
    /// The record that is furthest apart.
    pub(crate) worst: Option<Furthest>,
    pub(crate) origins: OriginsAt,
}

/// The origins of one layer and stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginsAt {
    pub(crate) records: u64,
    pub(crate) first: Option<Stands>,
    pub(crate) worst: Option<Furthest>,
}

/// Where a step stands in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stands {
    /// Steps before it.
    pub(crate) number: u64,
    pub(crate) request: i32,
    pub(crate) seq: i64,
}

/// A step that is further apart than those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Furthest {
    pub(crate) stands: Stands,
    pub(crate) place: u32,
    pub(crate) distance: Distance,
}

impl Furthest {
    /// The further one of two; of two that are as far apart, the first.
    pub(crate) fn further(self, other: Option<Self>) -> Self {
        match other {
            None => self,
            Some(other) => {
                let apart = self.distance.rel_l2.total_cmp(&other.distance.rel_l2);
                let before = other.stands.cmp(&self.stands);
                if apart.then(before).is_gt() { self } else { other }
            }
        }
    }
}

/// A step that is told in full.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    stands: Stands,
    pub(crate) key: Key,
    pub(crate) step: Step,
    pub(crate) outcome: Outcome,
    /// Whether a step that did not diverge would be known to pass no error on.
    pub(crate) clean: bool,
    pub(crate) inputs: Inputs,
}

/// Takes verdicts in the order of the plan.
pub(super) struct Fold<'a> {
    sides: [&'a Side<'a>; 2],
    graph: &'a StageGraph,
    /// Whether each difference was made where it is found.
    is_local: bool,
    found: Found,
    /// Steps before the next position.
    steps: u64,
    /// The compared records of each place so far, of this request.
    seen: Vec<Option<Seen>>,
    request: Option<i32>,
    /// From the first divergence on.
    origins: Option<Origins<'a>>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(left: &'a Side<'a>, right: &'a Side<'a>, graph: &'a StageGraph) -> Self {
        Self {
            sides: [left, right],
            graph,
            is_local: cross::is_local(left, right),
            found: Found::default(),
            steps: 0,
            seen: Vec::new(),
            request: None,
            origins: None,
        }
    }

    pub(super) fn finish(mut self) -> Found {
        let found = &mut self.found;
        for place in &found.at {
            found.counts.merge(&place.counts);
        }
        // A drift beyond the floor, or an engine that records an output before its inputs, and not in the vocabulary's order.
        if let (0, Some(first)) = (found.origins, &found.first) {
            found.origins = 1;
            let place = first.step.place;
            let of_place = &mut found.at[place as usize].origins;
            of_place.add(first.stands, place, &first.outcome);
            found.unplaced -= u64::from(self.graph.get(&first.key.stage).is_none());
        }
        self.found
    }

    /// Takes the verdicts on all steps of the next position. `clean` is [`Origins::position`]'s.
    pub(super) fn take(
        &mut self,
        at: PositionAt,
        steps: &[Step],
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
    ) {
        if self.request.replace(at.request) != Some(at.request) {
            self.seen.fill(None);
        }
        if self.found.key.is_none() {
            self.found.key = steps.first().map(|step| self.key(at, step));
        }
        let mut diverged = false;
        for (i, (step, outcome)) in steps.iter().zip(outcomes).enumerate() {
            let stands = self.stands(at, i);
            self.add(stands, step, outcome);
            diverged |= outcome.verdict == Verdict::Diverged;
        }
        if diverged {
            self.diverged(at, steps, outcomes, clean);
        } else if let Some(origins) = &mut self.origins {
            origins.position(at.request, steps, outcomes, clean);
        }
        self.steps += steps.len() as u64;
    }

    #[inline]
    fn add(&mut self, stands: Stands, step: &Step, outcome: &Outcome) {
        let found = &mut self.found;
        let place = &mut found.at[step.place as usize];
        place.counts.add(outcome.verdict);
        if let Some(error) = outcome.rel_l2() {
            place.errors.add(error);
        }
        // As evidence for the first origin, which is still to come.
        if found.origins == 0 && outcome.verdict.is_compared() {
            Seen::add(&mut self.seen[step.place as usize], stands.seq, outcome);
        }
        if let Some(distance) = &outcome.distance {
            let worse = |than: &Option<Furthest>| {
                than.as_ref()
                    .is_none_or(|than| distance.rel_l2.total_cmp(&than.distance.rel_l2).is_gt())
            };
            let this = || Furthest {
                stands,
                place: step.place,
                distance: *distance,
            };
            if worse(&place.worst) {
                place.worst = Some(this());
            }
            if outcome.verdict == Verdict::Within {
                found.within_with_nan += u64::from(distance.has_nan);
                if worse(&found.worst_match) {
                    found.worst_match = Some(this());
                }
            }
        }
        match outcome.verdict {
            Verdict::Within | Verdict::Diverged => {}
            Verdict::Identical => {
                let has_nan = |row| self.sides[0].records.has_nan(row);
                found.identical_with_nan += u64::from(step.left().is_some_and(has_nan));
            }
            Verdict::MissingLeft | Verdict::MissingRight => {
                place.extra_visits += u64::from(step.visit > 0);
            }
            Verdict::Incomparable => found.incomparable(stands, step, outcome),
        }
    }

    /// A position at which records diverged.
    fn diverged(
        &mut self,
        at: PositionAt,
        steps: &[Step],
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
    ) {
        let mut origins = self.origins.take().unwrap_or_else(|| {
            let mut origins = Origins::new(self.sides, self.graph);
            origins.places(&self.found.places);
            origins
        });
        let diverged = (0..steps.len()).filter(|&i| outcomes[i].verdict == Verdict::Diverged);
        let begin = match self.is_local {
            // What each record was made from is the left run's.
            true => diverged.clone().collect(),
            false => origins.position(at.request, steps, outcomes, clean),
        };
        self.origins = Some(origins);
        if self.found.origins == 0 {
            let first = match begin.first() {
                Some(&first) => Some(first),
                None if self.found.first.is_none() => diverged.clone().next(),
                None => None,
            };
            if let Some(first) = first {
                self.found.first = Some(self.told(at, steps, outcomes, clean, first));
            }
        }
        let mut begin = begin.into_iter().peekable();
        for i in diverged {
            let place = steps[i].place;
            if begin.next_if_eq(&i).is_none() {
                let (_, stage) = &self.found.places[place as usize];
                self.found.unplaced += u64::from(self.graph.get(stage).is_none());
                continue;
            }
            self.found.origins += 1;
            let stands = self.stands(at, i);
            let of_place = &mut self.found.at[place as usize].origins;
            of_place.add(stands, place, &outcomes[i]);
        }
    }

    fn told(
        &self,
        at: PositionAt,
        steps: &[Step],
        outcomes: &[Outcome],
        clean: &dyn Fn(usize) -> bool,
        step: usize,
    ) -> Told {
        let key = self.key(at, &steps[step]);
        let mut places = self.sides[0].records.places();
        places.extend(self.sides[1].records.places());
        let found = |layer: i32, stage: &str, history: bool| {
            let is = |(l, s): &Place| *l == layer && s == stage;
            let place = self.found.places.iter().position(is)?;
            if history {
                return self.seen[place];
            }
            let here = steps.iter().zip(outcomes);
            let here =
                here.filter(|(step, outcome)| step.place as usize == place && outcome.verdict.is_compared());
            let mut seen = None;
            here.for_each(|(_, outcome)| Seen::add(&mut seen, at.seq, outcome));
            seen
        };
        Told {
            stands: self.stands(at, step),
            inputs: inputs(self.graph, &places, &key, &found),
            step: steps[step],
            outcome: outcomes[step].clone(),
            clean: clean(step),
            key,
        }
    }

    /// Where a step of the position stands.
    fn stands(&self, at: PositionAt, step: usize) -> Stands {
        Stands {
            number: self.steps + step as u64,
            request: at.request,
            seq: at.seq,
        }
    }

    fn key(&self, at: PositionAt, step: &Step) -> Key {
        let (layer, stage) = &self.found.places[step.place as usize];
        Key {
            request: at.request,
            seq: at.seq,
            layer: *layer,
            stage: stage.clone(),
        }
    }
}

impl OriginsAt {
    fn add(&mut self, stands: Stands, place: u32, outcome: &Outcome) {
        self.records += 1;
        self.first.get_or_insert(stands);
        if let Some(distance) = outcome.distance {
            let this = Furthest {
                stands,
                place,
                distance,
            };
            self.worst = Some(this.further(self.worst));
        }
    }
}

impl Found {
    #[cold]
    fn incomparable(&mut self, stands: Stands, step: &Step, outcome: &Outcome) {
        let Some(reason) = &outcome.reason else {
            return;
        };
        if let Some(group) = self.incomparable.iter_mut().find(|g| g.kind == reason.kind()) {
            group.count += 1;
            return;
        }
        let (layer, stage) = &self.places[step.place as usize];
        self.incomparable.push(IncomparableGroup {
            kind: reason.kind(),
            count: 1,
            first: Key {
                request: stands.request,
                seq: stands.seq,
                layer: *layer,
                stage: stage.clone(),
            },
            message: reason.to_string(),
            leaves_open: reason.leaves_open(),
        });
    }
}

impl Take for Fold<'_> {
    fn places(&mut self, places: &mut Vec<Place>) {
        if let Some(origins) = &mut self.origins {
            origins.places(places);
        }
        self.found.places.append(places);
        let all = self.found.places.len();
        self.found.at.resize(all, AtPlace::default());
        self.seen.resize(all, None);
    }

    fn position(&mut self, at: PositionAt, steps: &[Step], outcomes: &mut [Outcome]) {
        self.take(at, steps, outcomes, &|_| true);
    }
}
