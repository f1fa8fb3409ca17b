//! The values around the element that is furthest off.

use crate::{
    compare::Comparison,
    num,
    plan::Step,
    records::Records,
    shape::{Layout, layout},
};
use serde::{Serialize, Serializer};

/// Elements before and after the one in question that are shown.
const AROUND: usize = 3;

/// Elements of one row (the last axis) of both records, around one of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Neighbourhood {
    /// Column of the first of them.
    pub from: u64,
    /// Column of the element in question.
    pub at: u64,
    /// Left elements.
    #[serde(serialize_with = "numbers")]
    pub left: Vec<f64>,
    /// Right elements.
    #[serde(serialize_with = "numbers")]
    pub right: Vec<f64>,
}

fn numbers<S: Serializer>(of: &[f64], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(of.iter().map(|&x| num::Num(x)))
}

impl Neighbourhood {
    /// The elements around element `at` of what was compared of a step; none where its values cannot be read any more.
    pub fn of(comparison: &Comparison<'_>, step: &Step, at: u64) -> Option<Self> {
        let (l, r) = (step.left()?, step.right()?);
        let (a, b) = (comparison.left.records.meta(l), comparison.right.records.meta(r));
        let at = usize::try_from(at).ok()?;
        // The last axis of the side that says more.
        let row = |shape: &[i64]| {
            let last = shape.iter().rev().copied().find(|&dim| dim != 1);
            last.and_then(|dim| usize::try_from(dim).ok()).unwrap_or(1).max(1)
        };
        let rows = match layout(a, b) {
            Layout::Different => return None,
            Layout::Rows { left, right, .. } => [left, right],
            Layout::Same => [row(a.shape).min(row(b.shape)); 2],
        };
        let compared = rows[0].min(rows[1]);
        let column = at % compared;
        let (from, to) = (column.saturating_sub(AROUND), (column + AROUND + 1).min(compared));
        let values = |records: &dyn Records, index, row: usize| {
            let all = records.elements(index).ok()?.to_f64(records.meta(index).dtype)?;
            let start = at / compared * row;
            Some(all.get(start + from..start + to)?.to_vec())
        };
        Some(Self {
            from: from as u64,
            at: column as u64,
            left: values(comparison.left.records, l, rows[0])?,
            right: values(comparison.right.records, r, rows[1])?,
        })
    }
}
