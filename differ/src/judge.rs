//! The verdict on one pair of records.

mod reason;
mod statistics;
#[cfg(test)]
mod tests;

pub use reason::Reason;

use crate::{
    metrics::{Distance, Metrics, measure_f64, measure_gates, measure_rows},
    records::Elements,
    shape::{Layout, crop, layout, row_len},
    tolerance::Gates,
};
use bitnet_trace_schema::DType;
use bitnet_trace_store::Meta;
use serde::Serialize;
use statistics::{by_hash, by_statistics};
use std::ops::ControlFlow::{self, Break, Continue};

/// What was found of a pair of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same bytes, dtype and shape (unit dimensions aside), by their hash; where one side was imported
    /// with the hash of its elements as F32, the same elements as F32.
    Identical,
    /// Other bytes, within the tolerance.
    Within,
    /// Beyond the tolerance.
    Diverged,
    /// Both are there and could not be compared; the outcome has the reason.
    Incomparable,
    /// The left run lacks the record.
    MissingLeft,
    /// The right run lacks the record.
    MissingRight,
}

impl Verdict {
    /// Whether values were held against each other, with whatever result.
    pub fn is_compared(self) -> bool {
        matches!(self, Self::Identical | Self::Within | Self::Diverged)
    }

    /// Whether it is a match.
    pub fn is_match(self) -> bool {
        matches!(self, Self::Identical | Self::Within)
    }
}

/// A verdict, and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, where the verdict is `Diverged` or `Incomparable`.
    pub reason: Option<Box<Reason>>,
    /// How far the pair is apart, where values were read. An identical pair was decided by its hash.
    pub distance: Option<Distance>,
    /// All measures. A comparison keeps none of them, since they are many times as large as the rest, and measures again
    /// what is told in full.
    pub metrics: Option<Box<Metrics>>,
}

impl Outcome {
    /// A verdict that rests on no measurement.
    pub fn plain(verdict: Verdict) -> Self {
        Self {
            verdict,
            reason: None,
            distance: None,
            metrics: None,
        }
    }

    /// Leaves nothing in its place.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::plain(Verdict::Incomparable))
    }

    /// A pair that was measured, and why it diverged, if it did; its measures are kept where that is asked for.
    fn measured(reason: Option<Reason>, metrics: Metrics, keep: bool) -> Self {
        Self {
            distance: Some(Distance::from(&metrics)),
            metrics: keep.then(|| Box::new(metrics)),
            ..reason.map_or_else(
                || Self::plain(Verdict::Within),
                |reason| Self::diverged(reason, None),
            )
        }
    }

    /// A pair that could not be compared.
    pub fn incomparable(reason: Reason) -> Self {
        Self {
            reason: Some(Box::new(reason)),
            ..Self::plain(Verdict::Incomparable)
        }
    }

    fn diverged(reason: Reason, metrics: Option<Box<Metrics>>) -> Self {
        Self {
            verdict: Verdict::Diverged,
            reason: Some(Box::new(reason)),
            distance: metrics.as_deref().map(Distance::from),
            metrics,
        }
    }

    /// Relative L2; 0 for identical records.
    pub fn rel_l2(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Identical => Some(0.0),
            _ => self.distance.map(|d| d.rel_l2),
        }
    }
}

/// Elements that contradict their record's metadata: how many there are and should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongCount {
    /// Whether the left record is the damaged one.
    pub left: bool,
    /// Elements that there are.
    pub found: u64,
    /// Elements that there should be.
    pub expected: i64,
}

/// What the metadata alone decide: most pairs of two equal runs, without reading a value; or else how the elements correspond.
pub fn by_metadata(left: Meta<'_>, right: Meta<'_>) -> ControlFlow<Outcome, Layout> {
    if left.num_elements == 0 && right.num_elements == 0 {
        return Break(Outcome::incomparable(Reason::Empty));
    }
    match layout(left, right) {
        Layout::Different => Break(Outcome::incomparable(Reason::Shapes {
            left: left.shape.to_vec(),
            right: right.shape.to_vec(),
        })),
        Layout::Same if same_bytes(left, right) => Break(Outcome::plain(Verdict::Identical)),
        layout => Continue(layout),
    }
}

fn same_bytes(left: Meta<'_>, right: Meta<'_>) -> bool {
    left.dtype == right.dtype && left.hash().is_some_and(|hash| Some(hash) == right.hash())
}

/// Judges a pair that [`by_metadata`] left open.
///
/// # Errors
/// [`WrongCount`] where elements and metadata contradict each other.
pub fn by_elements(
    left: (Meta<'_>, &Elements),
    right: (Meta<'_>, &Elements),
    gates: &Gates,
    nan_equal: bool,
) -> Result<Outcome, WrongCount> {
    for (is_left, (meta, elements)) in [(true, left), (false, right)] {
        let found = match (elements.values(), elements.raw()) {
            (Some(values), _) => values.len() as u64,
            (None, Some(raw)) => {
                let bytes = raw.len() as u64;
                let blocks = bytes / meta.dtype.size() as u64;
                meta.dtype.elements(bytes).unwrap_or(blocks)
            }
            (None, None) => continue,
        };
        check_count(is_left, meta, found)?;
    }
    let shapes = layout(left.0, right.0);
    let row = row_len(left.0, right.0);
    if matches!(left.1, Elements::Hashed) || matches!(right.1, Elements::Hashed) {
        return Ok(by_hash(shapes, left, right, gates));
    }
    let floats = (left.1.to_f32(left.0.dtype), right.1.to_f32(right.0.dtype));
    if let (Some(a), Some(b)) = floats {
        return Ok(judge(shapes, (&a, &b), gates, nan_equal, true, |a, b| {
            measure_rows(a, b, row)
        }));
    }
    let floats = (left.1.to_f64(left.0.dtype), right.1.to_f64(right.0.dtype));
    let (Some(a), Some(b)) = floats else {
        let has = |(meta, elements): (Meta<'_>, &Elements)| elements.to_f64(meta.dtype).is_some();
        return Ok(by_statistics(left.0, right.0, gates, (has(left), has(right))));
    };
    let mut outcome = judge(shapes, (&a, &b), gates, nan_equal, true, |a, b| {
        measure_f64(a, b, row)
    });
    // Beyond 2^53 unequal integers can be equal as f64.
    if left.0.dtype == DType::I64
        && right.0.dtype == DType::I64
        && gates.exact
        && outcome.verdict == Verdict::Within
        && left.1.raw() != right.1.raw()
    {
        if let Some(m) = &mut outcome.metrics {
            m.equal = false;
        }
        outcome = Outcome::diverged(Reason::Hash, outcome.metrics);
    }
    Ok(outcome)
}

/// [`by_elements`] for elements that are at hand as f32; what is measured is left out of the outcome, but for the distance,
/// if `all` does not ask for it.
///
/// # Errors
/// [`WrongCount`] where elements and metadata contradict each other.
pub fn by_values(
    left: (Meta<'_>, &[f32]),
    right: (Meta<'_>, &[f32]),
    gates: &Gates,
    nan_equal: bool,
    all: bool,
) -> Result<Outcome, WrongCount> {
    check_count(true, left.0, left.1.len() as u64)?;
    check_count(false, right.0, right.1.len() as u64)?;
    let shapes = layout(left.0, right.0);
    let row = row_len(left.0, right.0);
    let measure = if all { measure_rows } else { measure_gates };
    Ok(judge(shapes, (left.1, right.1), gates, nan_equal, all, |a, b| {
        measure(a, b, row)
    }))
}

/// What the fast pass alone decides of two records that correspond one to one and should have so many elements: most pairs
/// within their tolerance, and so far apart. None where it cannot tell.
#[inline]
pub(crate) fn within_at_once(left: &[f32], right: &[f32], elements: i64, gates: &Gates) -> Option<Distance> {
    if i64::try_from(left.len()) != Ok(elements) {
        return None;
    }
    Distance::between(left, right).filter(|distance| gates.hold(distance))
}

fn check_count(left: bool, meta: Meta<'_>, found: u64) -> Result<(), WrongCount> {
    if i64::try_from(found) == Ok(meta.num_elements) {
        return Ok(());
    }
    Err(WrongCount {
        left,
        found,
        expected: meta.num_elements,
    })
}

fn judge<T: Copy + Into<f64>>(
    shapes: Layout,
    (a, b): (&[T], &[T]),
    gates: &Gates,
    nan_equal: bool,
    keep: bool,
    measure: impl Fn(&[T], &[T]) -> Option<Metrics>,
) -> Outcome {
    let (measured, mass) = match shapes {
        Layout::Rows { left, right, .. } if left > right => (
            measure(&crop(a, left, right), b),
            mass(a, left, right).map(|m| (true, m)),
        ),
        Layout::Rows { left, right, .. } => (
            measure(a, &crop(b, right, left)),
            mass(b, right, left).map(|m| (false, m)),
        ),
        _ => (measure(a, b), None),
    };
    // Lengths were checked against shapes that correspond.
    let Some(mut m) = measured else {
        return Outcome::incomparable(Reason::Empty);
    };
    if nan_equal {
        m.equal = m.max_abs == 0.0 && m.nonfinite_mismatches == 0;
    }
    let odd = m.nonfinite_left.zip(m.nonfinite_right);
    let reason = if let Some((left, (mass, row, key))) = mass {
        Reason::FutureMass { left, mass, row, key }
    } else if let Some((left, right)) = odd {
        let count = m.nonfinite_mismatches;
        Reason::NonFinite { left, right, count }
    } else if m.nan_both > 0 && !nan_equal {
        Reason::NanBoth { count: m.nan_both }
    } else {
        Reason::Gates(gates.broken(&m))
    };
    let holds = matches!(&reason, Reason::Gates(broken) if broken.is_empty());
    Outcome::measured((!holds).then_some(reason), m, keep)
}

/// What rows of `len` hold beyond their first `keep` entries, if it is not exactly zero: the sum of
/// absolute values, and the row and column of the largest.
fn mass<T: Copy + Into<f64>>(values: &[T], len: usize, keep: usize) -> Option<(f64, usize, usize)> {
    let mut found: Option<(f64, usize, usize)> = None;
    let mut largest = 0.0;
    for (row, entries) in values.chunks(len).enumerate() {
        for (column, &x) in entries.iter().enumerate().skip(keep) {
            let size = x.into().abs();
            if size == 0.0 {
                continue;
            }
            let (total, at) = found.map_or((0.0, (row, column)), |(t, r, c)| (t, (r, c)));
            let at = if size > largest { (row, column) } else { at };
            largest = size.max(largest);
            found = Some((total + size, at.0, at.1));
        }
    }
    found
}
