//! The verdict on one pair of a plan.

use crate::{
    Error,
    ids::TokenIds,
    judge::{Outcome, Reason, Verdict, WrongCount, by_elements, by_metadata, by_values, within_at_once},
    metrics::Distance,
    plan::{Key, PositionAt, Step},
    records::{Head, Side},
    report::Labels,
    shape::Layout,
    tolerance::Gates,
};
use bitnet_trace_store::{Located, Meta};
use std::{
    num::NonZeroU64,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Options;

/// What a pair is judged with.
pub(super) struct Judge<'a> {
    pub(super) left: &'a Side<'a>,
    pub(super) right: &'a Side<'a>,
    pub(super) ids: &'a TokenIds,
    pub(super) options: &'a Options,
    pub(super) hashes: AtomicU64,
}

/// A pair whose elements are to be read: what most need to be told, without another look at its metadata.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// Elements of both records, where they correspond one to one.
    elements: Option<i64>,
    gates: &'a Gates,
}

impl Pair<'_> {
    /// How far apart it is, where that is within its tolerance, as far as a glance at its values tells.
    #[inline]
    pub(super) fn within(self, (left, right): (Option<&[f32]>, Option<&[f32]>)) -> Option<Distance> {
        within_at_once(left?, right?, self.elements?, self.gates)
    }
}

/// What token ids and metadata tell of a step.
pub(super) enum Known<'a> {
    Outcome(Outcome),
    Pair(Pair<'a>),
}

/// What the metadata of the last pairs of each place came to: most positions have records of the same forms.
#[derive(Default)]
pub(super) struct Forms<'a>(Vec<Option<Form<'a>>>);

#[derive(Clone, Copy)]
struct Form<'a> {
    forms: (u64, u64),
    same_dtype: bool,
    pair: Pair<'a>,
}

impl<'a> Forms<'a> {
    /// The pair in `place`, if its forms and hashes tell that its elements are to be read. A hash that begins alike is
    /// looked at.
    #[inline]
    pub(super) fn pair(&self, place: u32, forms: (u64, u64), hashes: (u64, u64)) -> Option<Pair<'a>> {
        let form = self.0.get(place as usize)?.as_ref()?;
        let differs = !form.same_dtype || hashes.0 == 0 || hashes.0 != hashes.1;
        (form.forms == forms && differs).then_some(form.pair)
    }
}

impl<'a> Judge<'a> {
    /// What the position and the lack of a record tell of a step; else, its rows.
    pub(super) fn rows(&self, at: PositionAt, step: &Step) -> Result<(usize, usize), Outcome> {
        let rows = match (step.left(), step.right()) {
            (Some(l), Some(r)) => (l, r),
            (None, _) => return Err(Outcome::plain(Verdict::MissingLeft)),
            _ => return Err(Outcome::plain(Verdict::MissingRight)),
        };
        match self.ids.differs_from(at.request).filter(|&from| at.seq >= from) {
            Some(from) => Err(Outcome::incomparable(Reason::TokenIds { from })),
            None => Ok(rows),
        }
    }

    /// What the metadata tell of a pair in `place` before any element is read.
    pub(super) fn open(
        &self,
        place: u32,
        (l, r): (usize, usize),
        (left, right): (Head, Head),
        known: &mut Forms<'a>,
    ) -> Known<'a> {
        let forms = left.form.zip(right.form);
        let hash = |head: Head| head.hash.map_or(0, NonZeroU64::get);
        let pair = forms.and_then(|forms| known.pair(place, forms, (hash(left), hash(right))));
        if let Some(pair) = pair {
            return Known::Pair(pair);
        }
        let place = place as usize;
        let (a, b) = (self.left.records.meta(l), self.right.records.meta(r));
        match by_metadata(a, b) {
            ControlFlow::Break(outcome) => Known::Outcome(outcome),
            ControlFlow::Continue(layout) => {
                let pair = Pair {
                    elements: (layout == Layout::Same).then_some(a.num_elements),
                    gates: self.gates(a, b),
                };
                if let Some(forms) = forms.filter(|_| layout == Layout::Same) {
                    let all = known.0.len().max(place + 1);
                    known.0.resize(all, None);
                    known.0[place] = Some(Form {
                        forms,
                        same_dtype: a.dtype == b.dtype,
                        pair,
                    });
                }
                Known::Pair(pair)
            }
        }
    }

    fn gates(&self, a: Meta<'_>, b: Meta<'_>) -> &'a Gates {
        let tolerance = &self.options.tolerance;
        tolerance.gates(a.stage, a.layer, [a.dtype, b.dtype]).0
    }

    /// The outcome of a pair of rows, with all measures if they are asked for.
    pub(super) fn by_elements(
        &self,
        (l, r): (usize, usize),
        located: (Option<&[f32]>, Option<&[f32]>),
        all: bool,
    ) -> Result<Outcome, Error> {
        let (left, right) = (self.left.records, self.right.records);
        let (a, b) = (left.meta(l), right.meta(r));
        let gates = self.gates(a, b);
        let nan_equal = self.options.nan_equal;
        let outcome = match located {
            (Some(x), Some(y)) => by_values((a, x), (b, y), gates, nan_equal, all),
            _ => by_elements(
                (a, &left.elements(l)?),
                (b, &right.elements(r)?),
                gates,
                nan_equal,
            ),
        };
        outcome.map_err(|wrong| damaged(self.left, self.right, Key::of(a), wrong))
    }

    /// Computes the hashes of a step's records again.
    pub(super) fn verify(&self, step: &Step) -> Result<(), Error> {
        let names = || Labels::new(None, self.left.name, self.right.name);
        for (side, row, is_left) in [(self.left, step.left(), true), (self.right, step.right(), false)] {
            let Some(row) = row else { continue };
            match side.records.has_hash(row)? {
                Some(true) => {
                    self.hashes.fetch_add(1, Ordering::Relaxed);
                }
                Some(false) => {
                    let run = if is_left { names().left } else { names().right };
                    let key = Key::of(side.records.meta(row));
                    return Err(Error::Hash { run, key });
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The values of a pair of rows.
    pub(super) fn located(&self, (l, r): (usize, usize)) -> (Option<&'a [f32]>, Option<&'a [f32]>) {
        let one = |side: &'a Side<'a>, row| {
            let mut located = Located::default();
            side.records.locate(&[row], &mut located);
            located.values.pop().flatten()
        };
        (one(self.left, l), one(self.right, r))
    }
}

pub(crate) fn damaged(left: &Side<'_>, right: &Side<'_>, key: Key, wrong: WrongCount) -> Error {
    let names = Labels::new(None, left.name, right.name);
    Error::Elements {
        run: if wrong.left { names.left } else { names.right },
        key,
        found: wrong.found,
        expected: wrong.expected,
    }
}
