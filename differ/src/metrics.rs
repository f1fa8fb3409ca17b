//! How far two tensors are apart: one pass over both, accumulated in f64.
//!
//! `a` is the left tensor, the reference, and `b` the right one. Elements that are not finite on either
//! side stand outside of the sums and are counted; an infinity equals only the same infinity. Where one side
//! has what the other has not, relative L2, cosine, scale, NMSE and SNR are NaN: no number describes such a distance.

mod element;
mod pass;
mod short;
#[cfg(test)]
mod tests;

pub use element::Element;

use crate::num;
use pass::{Found, pass};
use serde::Serialize;

/// Distances between two tensors of the same number of elements.
///
/// Norms are Euclidean (L2) and in the tensor's own unit. Indices count elements in row-major order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Number of element pairs.
    pub elements: u64,
    /// Whether every pair is equal in value (0 equals -0; NaN equals nothing).
    pub equal: bool,
    /// Relative L2, `|b - a| / |a|`: 0 where both are zero, infinite where only `a` is.
    #[serde(serialize_with = "num::json")]
    pub rel_l2: f64,
    /// Cosine similarity, `a.b / (|a| |b|)`: 1 where both are zero, 0 where one is.
    #[serde(serialize_with = "num::json")]
    pub cosine: f64,
    /// Normalised mean squared error, `|b - a|^2 / |a|^2`: the square of relative L2.
    #[serde(serialize_with = "num::json")]
    pub nmse: f64,
    /// Signal-to-noise ratio in dB, `10 log10(|a|^2 / |b - a|^2)`: infinite where nothing differs.
    #[serde(serialize_with = "num::json")]
    pub snr_db: f64,
    /// Least-squares scale, `a.b / a.a`: the `s` for which `|b - s a|` is smallest. None where `a` is zero.
    #[serde(serialize_with = "num::json_option")]
    pub scale: Option<f64>,
    /// Largest `|b - a|`, rounded as the elements' type does, as far as that holds it.
    #[serde(serialize_with = "num::json")]
    pub max_abs: f64,
    /// The first place where it is that; none where nothing differs.
    pub max_abs_at: Option<u64>,
    /// The left element there.
    #[serde(serialize_with = "num::json_option")]
    pub max_abs_left: Option<f64>,
    /// The right element there.
    #[serde(serialize_with = "num::json_option")]
    pub max_abs_right: Option<f64>,
    /// Largest `|b - a| / max(|a|, |b|)` of one element pair, rounded as the elements' type does: from 0 to 2.
    #[serde(serialize_with = "num::json")]
    pub max_rel: f64,
    /// Largest distance in units in the last place: how many numbers of the type lie from one element to the
    /// other, of f32 where f32 holds all elements (packed and half-precision ones too), else of f64.
    pub max_ulp: u64,
    /// Element pairs by their ULP distance: of 0 first, then of `2^(i-1)` to `2^i - 1` for each `i`, up to the
    /// largest there is. Pairs that are not finite on both sides are left out.
    pub ulp_histogram: Vec<u64>,
    /// The part of the pairs that are finite on both sides whose signs agree; 0 has a sign of its own. None
    /// where there is no such pair.
    #[serde(serialize_with = "num::json_option")]
    pub sign_agreement: Option<f64>,
    /// Sum of `b - a`.
    #[serde(serialize_with = "num::json")]
    pub diff_sum: f64,
    /// Number of rows.
    pub rows: u64,
    /// The row with the largest relative L2, of the finite elements; none where there is but one, or no difference.
    pub worst_row: Option<u64>,
    /// Its relative L2.
    #[serde(serialize_with = "num::json_option")]
    pub worst_row_rel_l2: Option<f64>,
    /// `|a|`.
    #[serde(serialize_with = "num::json")]
    pub left_norm: f64,
    /// `|b|`.
    #[serde(serialize_with = "num::json")]
    pub right_norm: f64,
    /// `|b - a|`.
    #[serde(serialize_with = "num::json")]
    pub diff_norm: f64,
    /// NaN elements of the left side.
    pub nan_left: u64,
    /// NaN elements of the right side.
    pub nan_right: u64,
    /// Places where both sides are NaN.
    pub nan_both: u64,
    /// Infinite elements of the left side.
    pub inf_left: u64,
    /// Infinite elements of the right side.
    pub inf_right: u64,
    /// Places where one side is not finite and the other side is something else.
    pub nonfinite_mismatches: u64,
    /// The first of those places.
    pub nonfinite_at: Option<u64>,
    /// The left element there.
    #[serde(serialize_with = "num::json_option")]
    pub nonfinite_left: Option<f64>,
    /// The right element there.
    #[serde(serialize_with = "num::json_option")]
    pub nonfinite_right: Option<f64>,
}

/// What a comparison keeps of the [`Metrics`] of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// [`Metrics::rel_l2`].
    pub rel_l2: f64,
    /// [`Metrics::cosine`].
    pub cosine: f64,
    /// [`Metrics::max_abs`].
    pub max_abs: f64,
    /// Whether there are places where both sides are NaN.
    pub has_nan: bool,
}

impl Distance {
    /// Measures `b` against `a` at the speed of memory; none where their lengths differ, or an element or a difference
    /// is not finite in f32.
    #[inline]
    pub fn between(a: &[f32], b: &[f32]) -> Option<Self> {
        (a.len() == b.len()).then(|| short::distance(a, b))?
    }
}

impl From<&Metrics> for Distance {
    fn from(m: &Metrics) -> Self {
        Self {
            rel_l2: m.rel_l2,
            cosine: m.cosine,
            max_abs: m.max_abs,
            has_nan: m.nan_both > 0,
        }
    }
}

/// A difference relative to what it is one of: 0 where nothing differs.
#[inline]
fn ratio(difference: f64, of: f64) -> f64 {
    match difference {
        0.0 => 0.0,
        _ => difference / of,
    }
}

/// `a.b / (|a| |b|)`, of the product, the squared distance and the norms.
#[inline]
fn cosine(dot: f64, dd: f64, left_norm: f64, right_norm: f64) -> f64 {
    if dd == 0.0 {
        1.0
    } else if left_norm == 0.0 || right_norm == 0.0 {
        0.0
    } else {
        (dot / (left_norm * right_norm)).clamp(-1.0, 1.0)
    }
}

/// Measures `b` against `a`, as one row; none where their lengths differ.
///
/// ```
/// let m = bitnet_diff::metrics::measure(&[3.0f32, 4.0], &[3.0f32, 4.5]).unwrap();
/// assert_eq!((m.rel_l2, m.max_abs, m.max_abs_at), (0.1, 0.5, Some(1)));
/// ```
pub fn measure<T: Element>(a: &[T], b: &[T]) -> Option<Metrics> {
    measure_rows(a, b, a.len())
}

/// [`measure`] in rows of `row` elements, of which the last may be shorter.
pub fn measure_rows<T: Element>(a: &[T], b: &[T], row: usize) -> Option<Metrics> {
    measured::<T, true>(a, b, row)
}

/// [`measure_rows`] as far as gates ask for it, and cheaper: without the histogram of ULP distances, which is empty, and
/// without the agreement of signs, which is none.
pub(crate) fn measure_gates<T: Element>(a: &[T], b: &[T], row: usize) -> Option<Metrics> {
    let m = measured::<T, false>(a, b, row)?;
    Some(Metrics {
        sign_agreement: None,
        ..m
    })
}

fn measured<T: Element, const ALL: bool>(a: &[T], b: &[T], row: usize) -> Option<Metrics> {
    if a.len() != b.len() {
        return None;
    }
    let rows = a.len().div_ceil(row.max(1));
    let at = |i: usize| (a[i].value(), b[i].value());
    Some(Metrics::of(pass::<T, ALL>(a, b, row), a.len(), rows, at))
}

/// [`measure_rows`] for elements of any magnitude, whose squares might overflow or vanish in f64.
pub fn measure_f64(a: &[f64], b: &[f64], row: usize) -> Option<Metrics> {
    let mut m = measure_rows(a, b, row)?;
    let finite = a.iter().chain(b).map(|x| x.abs()).filter(|x| x.is_finite());
    let largest = finite.fold(0.0, f64::max);
    if largest == 0.0 || (1e-100..1e100).contains(&largest) {
        return Some(m);
    }
    // An exact scaling by a power of two, taken back afterwards.
    let unit = largest.log2().floor().clamp(-1000.0, 1000.0).exp2();
    let scaled = |v: &[f64]| v.iter().map(|x| x / unit).collect::<Vec<_>>();
    let of_bits = (m.max_ulp, std::mem::take(&mut m.ulp_histogram));
    m = measure_rows(&scaled(a), &scaled(b), row)?;
    (m.max_ulp, m.ulp_histogram) = of_bits;
    m.max_abs *= unit;
    m.diff_sum *= unit;
    m.left_norm *= unit;
    m.right_norm *= unit;
    m.diff_norm *= unit;
    m.max_abs_left = m.max_abs_left.map(|x| x * unit);
    m.max_abs_right = m.max_abs_right.map(|x| x * unit);
    Some(m)
}

impl Metrics {
    /// The scale, where it explains the difference: what is left of it by `b - s a` is at most a tenth.
    pub fn wrong_scale(&self) -> Option<f64> {
        // |b - s a| / |b| of the least-squares s; relative to |a| it is s times as much.
        let sine = (1.0 - self.cosine * self.cosine).max(0.0).sqrt();
        let left = sine * self.right_norm / self.left_norm;
        self.scale
            .filter(|_| self.rel_l2 > 0.0 && self.cosine.abs() > 0.999 && left <= 0.1 * self.rel_l2)
    }

    fn of(mut f: Found, elements: usize, rows: usize, at: impl Fn(usize) -> (f64, f64)) -> Self {
        let (left_norm, right_norm, diff_norm) = (f.aa.sqrt(), f.bb.sqrt(), f.dd.sqrt());
        let odd = f.mismatches > 0;
        let even = |measure: f64| if odd { f64::NAN } else { measure };
        let nmse = even(ratio(f.dd, f.aa));
        let finite = elements as u64 - f.odd;
        let worst = f.max_abs_at.map(&at);
        let mismatch = f.mismatch_at.map(&at);
        let worst_row = f.worst_row.filter(|_| rows > 1);
        let buckets = f.ulps.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
        f.ulps.truncate(buckets);
        Self {
            elements: elements as u64,
            equal: f.max_abs == 0.0 && f.nan_both == 0 && !odd,
            rel_l2: even(ratio(diff_norm, left_norm)),
            cosine: even(cosine(f.dot, f.dd, left_norm, right_norm)),
            nmse,
            snr_db: -10.0 * nmse.log10(),
            scale: (f.aa > 0.0).then(|| even(f.dot / f.aa)),
            max_abs: f.max_abs,
            max_abs_at: f.max_abs_at.map(|i| i as u64),
            max_abs_left: worst.map(|w| w.0),
            max_abs_right: worst.map(|w| w.1),
            max_rel: f.max_rel,
            max_ulp: f.max_ulp,
            ulp_histogram: f.ulps,
            sign_agreement: (finite > 0).then(|| 1.0 - f.sign_differs as f64 / finite as f64),
            diff_sum: f.sum,
            rows: rows as u64,
            worst_row: worst_row.map(|w| w.0 as u64),
            worst_row_rel_l2: worst_row.map(|w| w.1.sqrt()),
            left_norm,
            right_norm,
            diff_norm,
            nan_left: f.nan_left,
            nan_right: f.nan_right,
            nan_both: f.nan_both,
            inf_left: f.inf_left,
            inf_right: f.inf_right,
            nonfinite_mismatches: f.mismatches,
            nonfinite_at: f.mismatch_at.map(|i| i as u64),
            nonfinite_left: mismatch.map(|m| m.0),
            nonfinite_right: mismatch.map(|m| m.1),
        }
    }
}
