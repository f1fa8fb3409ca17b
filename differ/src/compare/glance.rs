//! Pairs by the columns of their runs: that is all that most of them need, but for their values.

use super::pair::{Forms, Judge, Pair};
use crate::{plan::Step, records::Side};
use bitnet_trace_store::{Columns, PartValues, Stretches};
use std::ops::Range;

/// The columns of both sides of a position.
pub(super) struct Glance<'a> {
    left: One<'a>,
    right: One<'a>,
}

/// The columns of one side, from its first row on.
struct One<'a> {
    first: usize,
    columns: Columns<'a>,
    values: PartValues<'a>,
}

/// The values of a pair.
pub(super) type Values<'a> = (&'a [f32], &'a [f32]);

impl<'a> Glance<'a> {
    /// Of these steps; none where a side's rows do not stand in one part as they were recorded.
    pub(super) fn at(judge: &Judge<'a>, steps: &[Step]) -> Option<Self> {
        Some(Self {
            left: One::of(judge.left, rows(steps, Step::left))?,
            right: One::of(judge.right, rows(steps, Step::right))?,
        })
    }

    /// A pair whose elements are to be read, and its values, which are added to the stretches of both sides; none where more
    /// has to be known.
    #[inline]
    pub(super) fn pair(
        &self,
        place: u32,
        (l, r): (usize, usize),
        known: &Forms<'a>,
        stretches: &mut [Stretches; 2],
    ) -> Option<(Pair<'a>, Values<'a>)> {
        let (left, right) = (&self.left, &self.right);
        let (l, r) = (l - left.first, r - right.first);
        let forms = (left.columns.form(l), right.columns.form(r));
        let hashes = (left.columns.hash_starts[l], right.columns.hash_starts[r]);
        let pair = known.pair(place, forms, hashes)?;
        let values = (left.columns.values(l)?, right.columns.values(r)?);
        let [of_left, of_right] = stretches;
        let values = (
            left.values.at(values.0, of_left)?,
            right.values.at(values.1, of_right)?,
        );
        Some((pair, values))
    }
}

impl<'a> One<'a> {
    fn of(side: &'a Side<'a>, rows: Range<usize>) -> Option<Self> {
        let first = rows.start;
        let columns = side.records.columns(rows)?;
        let values = side.records.values(columns.part)?;
        Some(Self {
            first,
            columns,
            values,
        })
    }
}

/// From the first to the last row of a side.
fn rows(steps: &[Step], row: fn(&Step) -> Option<usize>) -> Range<usize> {
    let rows = steps.iter().filter_map(row);
    let (first, end) = rows.fold((usize::MAX, 0), |(first, end), row| {
        (first.min(row), end.max(row + 1))
    });
    first.min(end)..end
}
