/// Statistics of a record's elements: moments over the finite ones, and counts of the others.
///
/// All are computed in f64 from the elements' exact values. Where no element is finite, `rms`,
/// `mean`, `min`, `max` and `abs_max` are `None` (null in Parquet and JSON).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Root mean square, `sqrt(sum(x²) / n)`.
    pub rms: Option<f64>,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Smallest element.
    pub min: Option<f64>,
    /// Largest element.
    pub max: Option<f64>,
    /// Largest absolute value.
    pub abs_max: Option<f64>,
    /// Number of NaN elements.
    pub nan_count: u64,
    /// Number of infinite elements of either sign.
    pub inf_count: u64,
}

/// Independent accumulators, so that the compiler can keep them in vector registers.
const LANES: usize = 8;

impl Stats {
    /// Statistics of f32 elements.
    ///
    /// ```
    /// let s = bitnet_trace_schema::Stats::of_f32(&[3.0, -4.0, f32::NAN]);
    /// assert_eq!(s.rms, Some((12.5f64).sqrt()));
    /// assert_eq!((s.abs_max, s.nan_count), (Some(4.0), 1));
    /// ```
    pub fn of_f32(values: &[f32]) -> Self {
        let lanes = Lanes::of(values);
        let odd = lanes.odd;
        let nan_count = if odd == 0 {
            0
        } else {
            values.iter().filter(|x| x.is_nan()).count() as u64
        };
        Self::from_parts(
            values.len() as u64 - odd,
            lanes.sum.iter().sum(),
            lanes.squares.iter().sum(),
            f64::from(lanes.min.into_iter().fold(f32::INFINITY, f32::min)),
            f64::from(lanes.max.into_iter().fold(f32::NEG_INFINITY, f32::max)),
            nan_count,
            odd - nan_count,
        )
    }

    /// Statistics of elements that f32 does not hold exactly, given as f64.
    pub fn of_f64(values: impl IntoIterator<Item = f64>) -> Self {
        let (mut n, mut sum, mut squares) = (0u64, 0f64, 0f64);
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut nan, mut inf) = (0, 0);
        for x in values {
            if x.is_finite() {
                n += 1;
                sum += x;
                squares += x * x;
                min = min.min(x);
                max = max.max(x);
            } else if x.is_nan() {
                nan += 1;
            } else {
                inf += 1;
            }
        }
        Self::from_parts(n, sum, squares, min, max, nan, inf)
    }

    /// Statistics of no elements.
    pub const fn of_nothing() -> Self {
        Self {
            rms: None,
            mean: None,
            min: None,
            max: None,
            abs_max: None,
            nan_count: 0,
            inf_count: 0,
        }
    }

    fn from_parts(
        n: u64,
        sum: f64,
        squares: f64,
        min: f64,
        max: f64,
        nan_count: u64,
        inf_count: u64,
    ) -> Self {
        if n == 0 {
            return Self {
                nan_count,
                inf_count,
                ..Self::default()
            };
        }
        Self {
            rms: Some((squares / n as f64).sqrt()),
            mean: Some(sum / n as f64),
            min: Some(min),
            max: Some(max),
            abs_max: Some(min.abs().max(max.abs())),
            nan_count,
            inf_count,
        }
    }
}

/// Elements that are looked at several times while they are in the fastest cache: a loop that does one thing fills
/// vector registers, one that does everything does not.
const BLOCK: usize = 1024;

/// Sums and extremes of the elements at every eighth place. Nothing is fused and the places are the same
/// everywhere, so every machine gives the same bits.
struct Lanes {
    sum: [f64; LANES],
    squares: [f64; LANES],
    min: [f32; LANES],
    max: [f32; LANES],
    /// Elements that are not finite.
    odd: u64,
}

impl Lanes {
    fn of(values: &[f32]) -> Self {
        let mut lanes = Self {
            sum: [0.0; LANES],
            squares: [0.0; LANES],
            min: [f32::INFINITY; LANES],
            max: [f32::NEG_INFINITY; LANES],
            odd: 0,
        };
        for block in values.chunks(BLOCK) {
            let (rows, tail) = block.as_chunks::<LANES>();
            if all_finite(rows) {
                lanes.add_finite(rows);
            } else {
                rows.iter().for_each(|row| lanes.add(row));
            }
            lanes.add(tail);
        }
        lanes
    }

    fn add_finite(&mut self, rows: &[[f32; LANES]]) {
        // variables of their own, which registers can hold
        let (mut sum, mut squares) = (self.sum, self.squares);
        for row in rows {
            for lane in 0..LANES {
                let d = f64::from(row[lane]);
                sum[lane] += d;
                squares[lane] += d * d;
            }
        }
        (self.sum, self.squares) = (sum, squares);
        let (mut min, mut max) = (self.min, self.max);
        for row in rows {
            for lane in 0..LANES {
                let x = row[lane];
                min[lane] = if x < min[lane] { x } else { min[lane] };
                max[lane] = if x > max[lane] { x } else { max[lane] };
            }
        }
        (self.min, self.max) = (min, max);
    }

    /// Adds at most a row.
    fn add(&mut self, row: &[f32]) {
        for (lane, &x) in row.iter().enumerate() {
            if x.is_finite() {
                let d = f64::from(x);
                self.sum[lane] += d;
                self.squares[lane] += d * d;
                self.min[lane] = if x < self.min[lane] { x } else { self.min[lane] };
                self.max[lane] = if x > self.max[lane] { x } else { self.max[lane] };
            } else {
                self.odd += 1;
            }
        }
    }
}

fn all_finite(rows: &[[f32; LANES]]) -> bool {
    const EXPONENT: u32 = f32::INFINITY.to_bits();
    let mut odd = [0u32; LANES];
    for row in rows {
        for lane in 0..LANES {
            odd[lane] |= u32::from(row[lane].to_bits() & EXPONENT == EXPONENT);
        }
    }
    odd == [0; LANES]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_to_compute_statistics_agree(mut v in proptest::collection::vec(proptest::num::f32::NORMAL, 0..3000), odd in proptest::collection::vec((0usize..3000, proptest::num::f32::ANY), 0..3)) {
            for (i, x) in odd {
                if let Some(v) = v.get_mut(i) {
                    *v = x;
                }
            }
            let (a, b) = (Stats::of_f32(&v), Stats::of_f64(v.iter().map(|&x| f64::from(x))));
            prop_assert_eq!((a.min, a.max, a.abs_max, a.nan_count, a.inf_count), (b.min, b.max, b.abs_max, b.nan_count, b.inf_count));
            match (a.rms, b.rms) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() <= 1e-12 * b),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }

    #[test]
    fn a_tensor_without_finite_elements_has_no_moments() {
        for s in [Stats::of_f32(&[]), Stats::of_f32(&[f32::NAN, f32::INFINITY])] {
            assert_eq!(
                (s.rms, s.mean, s.min, s.max, s.abs_max),
                (None, None, None, None, None)
            );
        }
        assert_eq!(Stats::of_f32(&[f32::NAN, f32::NEG_INFINITY]).inf_count, 1);
    }
}
