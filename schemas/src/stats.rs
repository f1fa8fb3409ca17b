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
        let (sum, squares, min, max, odd) = sums(values);
        let nan_count = if odd == 0 {
            0
        } else {
            values.iter().filter(|x| x.is_nan()).count() as u64
        };
        Self::from_parts(
            values.len() as u64 - odd,
            sum,
            squares,
            f64::from(min),
            f64::from(max),
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

/// Sum, sum of squares, smallest and largest of the finite elements, and the number of the others.
type Sums = (f64, f64, f32, f32, u64);

/// The same bits on every machine: the lanes are as many whatever registers hold them, and nothing is fused.
fn sums(values: &[f32]) -> Sums {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: this machine has what the function needs
        return unsafe { sums_avx2(values) };
    }
    sums_of(values)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums_avx2(values: &[f32]) -> Sums {
    sums_of(values)
}

#[inline(always)] // compiled again with wider registers
fn sums_of(values: &[f32]) -> Sums {
    let (mut sum, mut squares) = ([0f64; LANES], [0f64; LANES]);
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut odd = 0u64;
    // a count of 32 bits a lane stands in the registers that the comparison fills
    for part in values.chunks(1 << 20) {
        let mut odd_lanes = [0u32; LANES];
        let (blocks, tail) = part.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                let x = block[lane];
                let finite = x.abs() < f32::INFINITY;
                odd_lanes[lane] += u32::from(!finite);
                let d = f64::from(if finite { x } else { 0.0 });
                sum[lane] += d;
                squares[lane] += d * d;
                let low = if finite { x } else { f32::INFINITY };
                min[lane] = if low < min[lane] { low } else { min[lane] };
                let high = if finite { x } else { f32::NEG_INFINITY };
                max[lane] = if high > max[lane] { high } else { max[lane] };
            }
        }
        for (lane, &x) in tail.iter().enumerate() {
            if x.is_finite() {
                let d = f64::from(x);
                sum[lane] += d;
                squares[lane] += d * d;
                min[lane] = min[lane].min(x);
                max[lane] = max[lane].max(x);
            } else {
                odd_lanes[lane] += 1;
            }
        }
        odd += odd_lanes.iter().map(|&n| u64::from(n)).sum::<u64>();
    }
    (
        sum.iter().sum(),
        squares.iter().sum(),
        min.into_iter().fold(f32::INFINITY, f32::min),
        max.into_iter().fold(f32::NEG_INFINITY, f32::max),
        odd,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_width_of_registers_gives_the_same_bits(v in proptest::collection::vec(proptest::num::f32::ANY, 0..300)) {
            let (a, b) = (sums(&v), sums_of(&v));
            prop_assert_eq!((a.0.to_bits(), a.1.to_bits(), a.2.to_bits(), a.3.to_bits(), a.4), (b.0.to_bits(), b.1.to_bits(), b.2.to_bits(), b.3.to_bits(), b.4));
        }

        #[test]
        fn both_ways_to_compute_statistics_agree(v in proptest::collection::vec(proptest::num::f32::ANY, 0..100)) {
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
