//! The verdict on one pair of records.

use crate::{
    metrics::{Metrics, measure, measure_f64},
    num,
    records::Elements,
    shape::{Layout, crop, layout},
    tolerance::{Broken, Gates},
};
use bitnet_trace_schema::{DType, RecordMeta};
use serde::Serialize;
use std::fmt;

/// What was found of a pair of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same bytes, dtype and shape (unit dimensions aside).
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

/// Why a pair diverged or could not be compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Gates of the tolerance do not hold.
    Gates(Vec<Broken>),
    /// A NaN or infinity against something else: the first such pair.
    NonFinite {
        /// Left element.
        left: f64,
        /// Right element.
        right: f64,
        /// How many such pairs there are.
        count: u64,
    },
    /// NaN at the same places on both sides, which is a match only when asked for.
    NanBoth {
        /// How many.
        count: u64,
    },
    /// Attention probability on keys that the other side's shorter rows leave out.
    FutureMass {
        /// Whether the left side has it.
        left: bool,
        /// Sum of the absolute values there.
        mass: f64,
        /// Row (head) of the largest one.
        row: usize,
        /// Its key.
        key: usize,
    },
    /// Statistics alone show that a gate cannot hold; the value is a lower bound.
    Bound(Broken),
    /// Statistics alone show it: other counts of NaN or infinity.
    OddCounts {
        /// NaN and infinite elements of the left side.
        left: (u64, u64),
        /// The same of the right side.
        right: (u64, u64),
    },
    /// Exactness was asked for, and the hashes differ.
    Hash,
    /// No correspondence between the shapes is known.
    Shapes {
        /// Left shape.
        left: Vec<i64>,
        /// Right shape.
        right: Vec<i64>,
    },
    /// Statistics are all there is, and they decide nothing.
    NoValues {
        /// Whether the left side has values.
        left: bool,
        /// Whether the right side has values.
        right: bool,
        /// Relative difference of the rms, where both have one.
        rms: Option<f64>,
    },
    /// Both tensors are empty.
    Empty,
    /// The engines were given different token ids from this position on.
    TokenIds {
        /// The position.
        from: i64,
    },
}

impl Reason {
    /// The reason's name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gates(_) => "tolerance",
            Self::NonFinite { .. } => "non_finite",
            Self::NanBoth { .. } => "nan_both",
            Self::FutureMass { .. } => "future_mass",
            Self::Bound(_) => "statistics",
            Self::OddCounts { .. } => "non_finite_counts",
            Self::Hash => "hash",
            Self::Shapes { .. } => "shapes",
            Self::NoValues { .. } => "no_values",
            Self::Empty => "empty",
            Self::TokenIds { .. } => "token_ids",
        }
    }

    /// Whether a record that could not be compared for this reason leaves the question of a match open,
    /// as opposed to one that holds nothing to compare or comes after what is known to differ.
    pub fn leaves_open(&self) -> bool {
        matches!(self, Self::Shapes { .. } | Self::NoValues { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gates(broken) => {
                let texts: Vec<String> = broken.iter().map(Broken::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            Self::NonFinite { left, right, count } => {
                let (left, right) = (num::sig(*left, 4), num::sig(*right, 4));
                write!(
                    f,
                    "{left} against {right} ({})",
                    num::plural(*count, "such element")
                )
            }
            Self::NanBoth { count } => {
                write!(f, "NaN on both sides ({})", num::plural(*count, "element"))
            }
            Self::FutureMass { left, mass, row, key } => {
                let side = if *left { "left" } else { "right" };
                let mass = num::sig(*mass, 3);
                write!(
                    f,
                    "mass on future keys: {mass} on the {side} side, most at [{row}, {key}]"
                )
            }
            Self::Bound(broken) => write!(f, "{broken} at least (from the statistics)"),
            Self::OddCounts { left, right } => write!(
                f,
                "{} NaN and {} infinite elements against {} and {}",
                left.0, left.1, right.0, right.1
            ),
            Self::Hash => f.write_str("the hashes differ"),
            Self::Shapes { left, right } => write!(f, "shapes differ: {left:?} and {right:?}"),
            Self::NoValues { left, right, rms } => {
                let side = match (left, right) {
                    (false, false) => "either side",
                    (false, true) => "the left side",
                    _ => "the right side",
                };
                write!(f, "values were not recorded on {side}")?;
                rms.map_or(Ok(()), |r| {
                    write!(f, "; the hashes differ, the rms by {}", num::sci(r))
                })
            }
            Self::Empty => f.write_str("both tensors are empty"),
            Self::TokenIds { from } => write!(f, "token ids differ from seq={from} on"),
        }
    }
}

/// A verdict, and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, where the verdict is `Diverged` or `Incomparable`.
    pub reason: Option<Reason>,
    /// The distances, where values were read. An identical pair has none: it was decided by its hash.
    pub metrics: Option<Metrics>,
}

impl Outcome {
    /// A verdict that rests on no measurement.
    pub fn plain(verdict: Verdict) -> Self {
        Self {
            verdict,
            reason: None,
            metrics: None,
        }
    }

    /// A pair that could not be compared.
    pub fn incomparable(reason: Reason) -> Self {
        Self {
            reason: Some(reason),
            ..Self::plain(Verdict::Incomparable)
        }
    }

    fn diverged(reason: Reason, metrics: Option<Metrics>) -> Self {
        Self {
            verdict: Verdict::Diverged,
            reason: Some(reason),
            metrics,
        }
    }

    /// Relative L2; 0 for identical records.
    pub fn rel_l2(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Identical => Some(0.0),
            _ => self.metrics.as_ref().map(|m| m.rel_l2),
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

/// What the metadata alone decide: most pairs of two equal runs, without reading a value.
pub fn by_metadata(left: &RecordMeta, right: &RecordMeta) -> Option<Outcome> {
    if left.num_elements == 0 && right.num_elements == 0 {
        return Some(Outcome::incomparable(Reason::Empty));
    }
    match layout(left, right) {
        Layout::Different => Some(Outcome::incomparable(Reason::Shapes {
            left: left.shape.clone(),
            right: right.shape.clone(),
        })),
        Layout::Same if same_bytes(left, right) => Some(Outcome::plain(Verdict::Identical)),
        _ => None,
    }
}

fn same_bytes(left: &RecordMeta, right: &RecordMeta) -> bool {
    left.dtype == right.dtype && left.blake3.len() == 64 && left.blake3 == right.blake3
}

/// Judges a pair that [`by_metadata`] left open.
///
/// # Errors
/// [`WrongCount`] where elements and metadata contradict each other.
pub fn by_elements(
    left: (&RecordMeta, &Elements),
    right: (&RecordMeta, &Elements),
    gates: &Gates,
    nan_equal: bool,
) -> Result<Outcome, WrongCount> {
    for (is_left, (meta, elements)) in [(true, left), (false, right)] {
        let found = match (elements.values(), elements.raw()) {
            (Some(values), _) => values.len(),
            (None, Some(raw)) => raw.len() / meta.dtype.size(),
            (None, None) => continue,
        };
        if i64::try_from(found) != Ok(meta.num_elements) {
            return Err(WrongCount {
                left: is_left,
                found: found as u64,
                expected: meta.num_elements,
            });
        }
    }
    let shapes = layout(left.0, right.0);
    if let (Some(a), Some(b)) = (left.1.values(), right.1.values()) {
        return Ok(judge(shapes, a, b, gates, nan_equal, measure));
    }
    let floats = (left.1.to_f64(left.0.dtype), right.1.to_f64(right.0.dtype));
    let (Some(a), Some(b)) = floats else {
        let has = |(meta, elements): (&RecordMeta, &Elements)| elements.to_f64(meta.dtype).is_some();
        return Ok(by_statistics(left.0, right.0, gates, (has(left), has(right))));
    };
    let mut outcome = judge(shapes, &a, &b, gates, nan_equal, measure_f64);
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

fn judge<T: Copy + Into<f64>>(
    shapes: Layout,
    a: &[T],
    b: &[T],
    gates: &Gates,
    nan_equal: bool,
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
    match reason {
        Reason::Gates(broken) if broken.is_empty() => Outcome {
            verdict: Verdict::Within,
            reason: None,
            metrics: Some(m),
        },
        reason => Outcome::diverged(reason, Some(m)),
    }
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

/// What hashes and statistics alone can tell: that a gate must be broken, never that it holds.
fn by_statistics(left: &RecordMeta, right: &RecordMeta, gates: &Gates, has: (bool, bool)) -> Outcome {
    let (a, b) = (&left.stats, &right.stats);
    let odd = |s: &bitnet_trace_schema::Stats| (s.nan_count, s.inf_count);
    if odd(a) != odd(b) {
        let reason = Reason::OddCounts {
            left: odd(a),
            right: odd(b),
        };
        return Outcome::diverged(reason, None);
    }
    if gates.exact && left.dtype == right.dtype {
        return Outcome::diverged(Reason::Hash, None);
    }
    let rms = a.rms.zip(b.rms).map(|(a, b)| relative(a, b));
    // Lower bounds, as the triangle inequality has them: | |a| - |b| | <= |b - a|. Only where all elements
    // are finite: otherwise the moments may be over other elements. Rows of different length keep the norm,
    // not the mean square.
    let same_count = left.num_elements == right.num_elements;
    if odd(a) == (0, 0) && same_count {
        let bounds = [
            ("rel_l2", rms, gates.rel_l2),
            (
                "max_abs",
                a.abs_max.zip(b.abs_max).map(|(a, b)| (a - b).abs()),
                gates.max_abs,
            ),
        ];
        for (gate, value, limit) in bounds {
            if let (Some(value), Some(limit)) = (value, limit)
                && value > limit * (1.0 + 1e-9) + 1e-12
            {
                return Outcome::diverged(Reason::Bound(Broken { gate, value, limit }), None);
            }
        }
    }
    Outcome::incomparable(Reason::NoValues {
        left: has.0,
        right: has.1,
        rms,
    })
}

fn relative(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (b - a).abs() / a.abs() }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
