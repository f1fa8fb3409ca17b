//! Local errors as the verdicts of a comparison.

use super::{Audit, Indexed, Measured, Who};
use crate::{
    compare::Verdicts,
    judge::{Reason, Verdict},
    plan::Placed,
    report::Note,
};
use bitnet_referee::Token;
use serde::Serialize;
use std::collections::HashMap;

/// What the referee said of both runs of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalView {
    /// The model file.
    pub model: String,
    /// Pairs of records that were judged by it: of both, the exact result is known.
    pub told: u64,
    /// Those of them that are off on either side.
    pub off: u64,
    /// Those that are not, and that the tolerance or the floor would have called diverged: what lies between them was
    /// inherited.
    pub inherited: u64,
    /// Compared pairs of which that could not be told: the tolerance or the floor judged these.
    pub untold: u64,
    /// What both engines do to activations before a product, where they do not do the same.
    pub roundings: Vec<RoundingDifference>,
}

/// Two engines that round activations each in its own way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoundingDifference {
    /// The dtype of the weights.
    pub weights: String,
    /// What the left engine does.
    pub left: String,
    /// What the right engine does.
    pub right: String,
}

impl LocalView {
    /// What a reader should know of the engines' arithmetic.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Note> {
        self.roundings.iter().map(|difference| Note {
            kind: "rounding",
            message: format!(
                "products with {} weights: the left engine's activations are {}, the right one's {}",
                difference.weights, difference.left, difference.right
            ),
        })
    }
}

fn roundings(left: &Audit, right: &Audit) -> Vec<RoundingDifference> {
    let both = left.arithmetic.products.iter().filter_map(|(dtype, l)| {
        let r = right.arithmetic.products.get(dtype)?;
        Some((dtype, l.rounding, r.rounding))
    });
    both.filter(|(_, l, r)| l != r)
        .map(|(dtype, l, r)| RoundingDifference {
            weights: dtype.name().to_owned(),
            left: l.to_string(),
            right: r.to_string(),
        })
        .collect()
}

/// By how much a record is off, and on which side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalReason {
    /// The side; of both, the one that is further off.
    pub side: Who,
    /// Whether the other one is off, too.
    pub both: bool,
    /// That one's relative L2 from the exact result.
    pub rel_l2: f64,
    /// The largest that rounding explains.
    pub expected: f64,
}

/// Records by key.
struct Told<'a>(HashMap<(&'a str, i32, Token), &'a Measured>);

impl<'a> Told<'a> {
    fn of(audit: &'a Audit) -> Self {
        let records = audit.stages.iter().flat_map(|stage| {
            let at = |record: &'a Measured| ((stage.stage, stage.layer, record.token), record);
            stage.records.iter().map(at)
        });
        Self(records.collect())
    }

    /// The local error of row `row`, if it is that of its key which was recomputed.
    fn of_row(&self, run: &Indexed<'_>, of: Placed<'_>, row: usize) -> Option<Measured> {
        let token = Token {
            request: of.request,
            seq: of.seq,
        };
        let found = *self.0.get(&(of.stage.as_str(), of.layer, token))?;
        let meta = run.side.records.meta(run.find(of.stage, of.layer, token)?);
        // Of a token that was computed more than once only the last visit was.
        (meta.op_index == row as i64).then_some(*found)
    }
}

impl Verdicts<'_> {
    /// Judges each pair by the local errors of both sides, where both could be told, in place of the tolerance or floor.
    ///
    /// `left` and `right` may hold more records than were compared.
    pub fn judge_locally(
        &mut self,
        model: String,
        left: (&Indexed<'_>, &Audit),
        right: (&Indexed<'_>, &Audit),
    ) {
        let mut view = LocalView {
            model,
            told: 0,
            off: 0,
            inherited: 0,
            untold: 0,
            roundings: roundings(left.1, right.1),
        };
        let told = (Told::of(left.1), Told::of(right.1));
        for (step, outcome) in self.plan.iter().zip(&mut self.outcomes) {
            let rows = step
                .step
                .left()
                .zip(step.step.right())
                .filter(|_| outcome.verdict.is_compared());
            let order =
                |side: &crate::records::Side<'_>, row: usize| side.records.meta(row).op_index as usize;
            // A cache of another dtype is right in itself, and yet not what the other engine does.
            let same = |l, r| self.left.records.meta(l).dtype == self.right.records.meta(r).dtype;
            let pair = rows.filter(|&(l, r)| same(l, r)).and_then(|(l, r)| {
                let l = told.0.of_row(left.0, step, order(self.left, l))?;
                let r = told.1.of_row(right.0, step, order(self.right, r))?;
                Some((l, r))
            });
            match pair {
                None => view.untold += u64::from(rows.is_some()),
                Some((l, r)) => {
                    view.told += 1;
                    let (side, worse) = match r.units > l.units {
                        true => (Who::Right, r),
                        false => (Who::Left, l),
                    };
                    if worse.is_off() {
                        view.off += 1;
                        outcome.verdict = Verdict::Diverged;
                        outcome.reason = Some(Box::new(Reason::Local(LocalReason {
                            side,
                            both: l.is_off() && r.is_off(),
                            rel_l2: worse.rel_l2,
                            expected: worse.expected(),
                        })));
                    } else if outcome.verdict == Verdict::Diverged {
                        view.inherited += 1;
                        outcome.verdict = Verdict::Within;
                        outcome.reason = None;
                    }
                }
            }
        }
        self.local = Some(view);
    }
}
