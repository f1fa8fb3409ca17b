//! How far two tensors are apart: one pass over both, accumulated in f64.
//!
//! `a` is the left tensor, the reference, and `b` the right one. Elements that are not finite on either
//! side stand outside of the sums and are counted; an infinity equals only the same infinity. Where one side
//! has what the other has not, relative L2 and cosine are NaN: no number describes such a distance.

use crate::num;
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
    /// Largest `|b - a|`.
    #[serde(serialize_with = "num::json")]
    pub max_abs: f64,
    /// Where `max_abs` is; none where nothing differs.
    pub max_abs_at: Option<u64>,
    /// The left element there.
    #[serde(serialize_with = "num::json_option")]
    pub max_abs_left: Option<f64>,
    /// The right element there.
    #[serde(serialize_with = "num::json_option")]
    pub max_abs_right: Option<f64>,
    /// Largest `|b - a| / max(|a|, |b|)` of one element pair: from 0 to 2.
    #[serde(serialize_with = "num::json")]
    pub max_rel: f64,
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

/// An element that f64 holds exactly.
pub trait Element: Copy {
    /// The element's value.
    fn value(self) -> f64;
}

impl Element for f32 {
    #[inline(always)]
    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Element for f64 {
    #[inline(always)]
    fn value(self) -> f64 {
        self
    }
}

/// Independent accumulators, so that the compiler can keep them in vector registers.
const LANES: usize = 8;
/// Elements between two looks at the sums: enough to hide their cost, few enough to search again.
const BLOCK: usize = 1024;

/// Measures `b` against `a`; none where their lengths differ.
///
/// ```
/// let m = bitnet_diff::metrics::measure(&[3.0f32, 4.0], &[3.0f32, 4.5]).unwrap();
/// assert_eq!((m.rel_l2, m.max_abs, m.max_abs_at), (0.1, 0.5, Some(1)));
/// ```
pub fn measure<A: Element, B: Element>(a: &[A], b: &[B]) -> Option<Metrics> {
    if a.len() != b.len() {
        return None;
    }
    let mut total = Total::default();
    for (index, (a, b)) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate() {
        let sums = block(a, b);
        let start = index * BLOCK;
        // A square of an f32 cannot overflow in f64: sums that are not finite mean elements that are not.
        if (sums.aa + sums.bb).is_finite() {
            total.add(sums, || start + position_of(a, b, sums.max_abs));
        } else {
            total.add_careful(start, a, b);
        }
    }
    Some(total.finish(a.len(), |i| (a[i].value(), b[i].value())))
}

/// [`measure`] for elements of any magnitude, whose squares might overflow or vanish in f64.
pub fn measure_f64(a: &[f64], b: &[f64]) -> Option<Metrics> {
    let finite = a.iter().chain(b).map(|x| x.abs()).filter(|x| x.is_finite());
    let largest = finite.fold(0.0, f64::max);
    if largest == 0.0 || (1e-100..1e100).contains(&largest) {
        return measure(a, b);
    }
    // An exact scaling by a power of two, taken back afterwards.
    let scale = largest.log2().floor().clamp(-1000.0, 1000.0).exp2();
    let scaled = |v: &[f64]| v.iter().map(|x| x / scale).collect::<Vec<_>>();
    let mut m = measure(&scaled(a), &scaled(b))?;
    m.max_abs *= scale;
    m.left_norm *= scale;
    m.right_norm *= scale;
    m.diff_norm *= scale;
    m.max_abs_left = m.max_abs_left.map(|x| x * scale);
    m.max_abs_right = m.max_abs_right.map(|x| x * scale);
    Some(m)
}

/// Sums over one block.
#[derive(Clone, Copy)]
struct Sums {
    dot: f64,
    aa: f64,
    bb: f64,
    dd: f64,
    max_abs: f64,
    /// The largest relative difference, as numerator and denominator.
    rel: (f64, f64),
}

fn block<A: Element, B: Element>(a: &[A], b: &[B]) -> Sums {
    let zero = [0f64; LANES];
    let (mut dot, mut aa, mut bb, mut dd, mut max_abs) = (zero, zero, zero, zero, zero);
    let (mut rel_d, mut rel_m) = (zero, [1f64; LANES]);
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    let mut step = |lane: usize, x: f64, y: f64| {
        let d = (y - x).abs();
        let m = if x.abs() > y.abs() { x.abs() } else { y.abs() };
        dot[lane] += x * y;
        aa[lane] += x * x;
        bb[lane] += y * y;
        dd[lane] += d * d;
        max_abs[lane] = if d > max_abs[lane] { d } else { max_abs[lane] };
        // d/m > rel_d/rel_m without a division
        let more = d * rel_m[lane] > rel_d[lane] * m;
        rel_d[lane] = if more { d } else { rel_d[lane] };
        rel_m[lane] = if more { m } else { rel_m[lane] };
    };
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        for lane in 0..LANES {
            step(lane, x[lane].value(), y[lane].value());
        }
    }
    for (lane, (x, y)) in tail_a.iter().zip(tail_b).enumerate() {
        step(lane, x.value(), y.value());
    }
    let mut rel = (0.0, 1.0);
    for (d, m) in rel_d.into_iter().zip(rel_m) {
        rel = larger_ratio(rel, (d, m));
    }
    Sums {
        dot: dot.iter().sum(),
        aa: aa.iter().sum(),
        bb: bb.iter().sum(),
        dd: dd.iter().sum(),
        max_abs: max_abs.into_iter().fold(0.0, f64::max),
        rel,
    }
}

fn larger_ratio(p: (f64, f64), q: (f64, f64)) -> (f64, f64) {
    if q.0 * p.1 > p.0 * q.1 { q } else { p }
}

fn position_of<A: Element, B: Element>(a: &[A], b: &[B], difference: f64) -> usize {
    let mut pairs = a.iter().zip(b);
    pairs
        .position(|(x, y)| (y.value() - x.value()).abs() == difference)
        .unwrap_or(0)
}

#[derive(Default)]
struct Total {
    dot: f64,
    aa: f64,
    bb: f64,
    dd: f64,
    max_abs: f64,
    max_abs_at: Option<usize>,
    max_rel: f64,
    nan_left: u64,
    nan_right: u64,
    nan_both: u64,
    inf_left: u64,
    inf_right: u64,
    mismatches: u64,
    mismatch_at: Option<usize>,
}

impl Total {
    fn add(&mut self, s: Sums, position: impl FnOnce() -> usize) {
        self.dot += s.dot;
        self.aa += s.aa;
        self.bb += s.bb;
        self.dd += s.dd;
        self.max_rel = self.max_rel.max(s.rel.0 / s.rel.1);
        if s.max_abs > self.max_abs {
            self.max_abs = s.max_abs;
            self.max_abs_at = Some(position());
        }
    }

    /// A block with elements that are not finite: one by one.
    fn add_careful<A: Element, B: Element>(&mut self, start: usize, a: &[A], b: &[B]) {
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            let (x, y) = (x.value(), y.value());
            if x.is_finite() && y.is_finite() {
                let d = (y - x).abs();
                let m = x.abs().max(y.abs());
                let sums = Sums {
                    dot: x * y,
                    aa: x * x,
                    bb: y * y,
                    dd: d * d,
                    max_abs: d,
                    rel: if d > 0.0 { (d, m) } else { (0.0, 1.0) },
                };
                self.add(sums, || start + i);
                continue;
            }
            self.nan_left += u64::from(x.is_nan());
            self.nan_right += u64::from(y.is_nan());
            self.inf_left += u64::from(x.is_infinite());
            self.inf_right += u64::from(y.is_infinite());
            if x.is_nan() && y.is_nan() {
                self.nan_both += 1;
            } else if x != y {
                self.mismatches += 1;
                self.mismatch_at.get_or_insert(start + i);
            }
        }
    }

    fn finish(self, elements: usize, at: impl Fn(usize) -> (f64, f64)) -> Metrics {
        let (left_norm, right_norm, diff_norm) = (self.aa.sqrt(), self.bb.sqrt(), self.dd.sqrt());
        let cosine = if self.mismatches > 0 {
            f64::NAN
        } else if self.dd == 0.0 {
            1.0
        } else if left_norm == 0.0 || right_norm == 0.0 {
            0.0
        } else {
            (self.dot / (left_norm * right_norm)).clamp(-1.0, 1.0)
        };
        let worst = self.max_abs_at.map(&at);
        let mismatch = self.mismatch_at.map(&at);
        Metrics {
            elements: elements as u64,
            equal: self.max_abs == 0.0 && self.nan_both == 0 && self.mismatches == 0,
            rel_l2: match self.dd {
                _ if self.mismatches > 0 => f64::NAN,
                0.0 => 0.0,
                _ => diff_norm / left_norm,
            },
            cosine,
            max_abs: self.max_abs,
            max_abs_at: self.max_abs_at.map(|i| i as u64),
            max_abs_left: worst.map(|w| w.0),
            max_abs_right: worst.map(|w| w.1),
            max_rel: self.max_rel,
            left_norm,
            right_norm,
            diff_norm,
            nan_left: self.nan_left,
            nan_right: self.nan_right,
            nan_both: self.nan_both,
            inf_left: self.inf_left,
            inf_right: self.inf_right,
            nonfinite_mismatches: self.mismatches,
            nonfinite_at: self.mismatch_at.map(|i| i as u64),
            nonfinite_left: mismatch.map(|m| m.0),
            nonfinite_right: mismatch.map(|m| m.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook formulas, element by element.
    fn naive(a: &[f32], b: &[f32]) -> (f64, f64, f64, f64) {
        let pairs: Vec<(f64, f64)> = a.iter().zip(b).map(|(&x, &y)| (x.into(), y.into())).collect();
        let sum = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| f(x, y)).sum::<f64>();
        let max = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| f(x, y)).fold(0.0, f64::max);
        let (aa, bb, dot) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
        let dd = sum(&|x, y| (y - x) * (y - x));
        let rel = max(&|x, y| {
            if x == y {
                0.0
            } else {
                (y - x).abs() / x.abs().max(y.abs())
            }
        });
        (
            if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() },
            dot / (aa * bb).sqrt(),
            max(&|x, y| (y - x).abs()),
            rel,
        )
    }

    fn close(x: f64, y: f64) -> bool {
        x == y || (x - y).abs() <= 1e-12 * x.abs().max(y.abs()).max(1e-3)
    }

    proptest! {
        #[test]
        fn one_pass_agrees_with_the_textbook(
            pairs in proptest::collection::vec((-1e6f32..1e6, -1e6f32..1e6, any::<bool>()), 1..3000)
        ) {
            let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
            let b: Vec<f32> = pairs.iter().map(|p| if p.2 { p.1 } else { p.0 }).collect();
            let m = measure(&a, &b).expect("same length");
            let (rel_l2, cosine, max_abs, max_rel) = naive(&a, &b);
            prop_assert!(close(m.rel_l2, rel_l2), "{} {}", m.rel_l2, rel_l2);
            prop_assert!(close(m.cosine, cosine), "{} {}", m.cosine, cosine);
            prop_assert!(close(m.max_rel, max_rel), "{} {}", m.max_rel, max_rel);
            prop_assert_eq!(m.max_abs, max_abs);
            if let Some(i) = m.max_abs_at {
                prop_assert_eq!((f64::from(b[i as usize]) - f64::from(a[i as usize])).abs(), max_abs);
            }
            prop_assert_eq!(m.equal, a == b);
        }

        #[test]
        fn any_bits_are_counted_and_never_panic(
            a in proptest::collection::vec(proptest::num::f32::ANY, 0..2100), shift in 0usize..3
        ) {
            let mut b = a.clone();
            let n = b.len().max(1);
            b.rotate_left(shift % n);
            let m = measure(&a, &b).expect("same length");
            let nan = a.iter().filter(|x| x.is_nan()).count() as u64;
            prop_assert_eq!((m.nan_left, m.nan_right), (nan, nan));
            let both = |f: fn(f32) -> bool, x: f32, y: f32| f(x) && f(y);
            let odd = |x: f32, y: f32| x != y && !both(f32::is_finite, x, y) && !both(f32::is_nan, x, y);
            let odd: Vec<usize> = (0..a.len()).filter(|&i| odd(a[i], b[i])).collect();
            prop_assert_eq!(m.nonfinite_mismatches, odd.len() as u64);
            prop_assert_eq!(m.nonfinite_at, odd.first().map(|&i| i as u64));
            prop_assert_eq!(m.cosine.abs() <= 1.0 && m.rel_l2 >= 0.0, odd.is_empty());
        }
    }

    #[test]
    fn a_wrong_scale_has_cosine_one_and_a_large_relative_l2() {
        let a: Vec<f32> = (0..5000).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = a.iter().map(|x| 10.0 * x).collect();
        let m = measure(&a, &b).expect("same length");
        assert!(m.cosine > 0.999_999_999 && (m.rel_l2 - 9.0).abs() < 1e-6, "{m:?}");
    }

    #[test]
    fn zero_against_zero_is_equal_and_zero_against_something_is_infinitely_far() {
        let zero = measure(&[0f32; 9], &[-0.0f32; 9]).expect("same length");
        assert_eq!((zero.rel_l2, zero.cosine, zero.equal), (0.0, 1.0, true));
        let m = measure(&[0f32; 9], &[1f32; 9]).expect("same length");
        assert_eq!((m.rel_l2, m.cosine, m.max_rel), (f64::INFINITY, 0.0, 1.0));
    }

    #[test]
    fn an_infinity_equals_only_the_same_infinity() {
        let (inf, neg) = (f32::INFINITY, f32::NEG_INFINITY);
        let m = measure(&[inf, inf, 1.0], &[inf, neg, 1.0]).expect("same length");
        assert_eq!(
            (m.nonfinite_mismatches, m.nonfinite_at, m.max_abs),
            (1, Some(1), 0.0)
        );
        assert!(!m.equal);
    }

    #[test]
    fn f64_beyond_the_range_of_squares_is_measured() {
        for unit in [1e300, 1e-300, 1.0] {
            let m = measure_f64(&[3.0 * unit, 4.0 * unit], &[3.0 * unit, 4.5 * unit]).expect("same length");
            assert!((m.rel_l2 - 0.1).abs() < 1e-12, "{m:?}");
            assert!((m.max_abs / unit - 0.5).abs() < 1e-12, "{m:?}");
        }
    }

    #[test]
    fn lengths_that_differ_are_not_measured() {
        assert!(measure(&[1f32], &[1f32, 2.0]).is_none());
    }
}
