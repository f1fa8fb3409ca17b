//! The distribution of errors, in as little memory for very many as for few.

/// Buckets of an octave: a bucket is less than 0.8 % wide.
const DIGITS: u32 = 7;
/// Errors below 2⁻⁶⁴ and from 2⁶⁴ on share the first and the last bucket.
const OCTAVES: i32 = 64;

/// How errors (0 or more) are spread: a histogram over their logarithms, with the sum of each bucket. What shares no bucket with
/// others is known exactly.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Spread {
    zeros: u64,
    /// Number of the first bucket.
    first: i32,
    /// Errors of a bucket, and their sum.
    buckets: Vec<(u64, f64)>,
    infinite: u64,
    nan: u64,
    largest: f64,
}

impl Spread {
    /// Adds an error. NaN counts as the largest.
    #[inline]
    pub(crate) fn add(&mut self, error: f64) {
        if error == 0.0 {
            self.zeros += 1;
            return;
        }
        if !error.is_finite() {
            let count = if error.is_nan() {
                &mut self.nan
            } else {
                &mut self.infinite
            };
            *count += 1;
            return;
        }
        self.largest = self.largest.max(error);
        let (count, sum) = self.bucket(number(error));
        *count += 1;
        *sum += error;
    }

    fn bucket(&mut self, number: i32) -> &mut (u64, f64) {
        let at = i64::from(number) - i64::from(self.first);
        let inside = usize::try_from(at).ok().filter(|&at| at < self.buckets.len());
        let at = inside.unwrap_or_else(|| self.reach(number));
        &mut self.buckets[at]
    }

    /// Makes room for a bucket.
    #[cold]
    fn reach(&mut self, number: i32) -> usize {
        if self.buckets.is_empty() {
            self.first = number;
        }
        if number < self.first {
            let more = self.first.abs_diff(number) as usize;
            self.buckets.splice(0..0, std::iter::repeat_n((0, 0.0), more));
            self.first = number;
        }
        let at = number.abs_diff(self.first) as usize;
        self.buckets.resize(self.buckets.len().max(at + 1), (0, 0.0));
        at
    }

    /// Adds the errors of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.infinite += other.infinite;
        self.nan += other.nan;
        self.largest = self.largest.max(other.largest);
        for (&(count, sum), number) in other.buckets.iter().zip(other.first..) {
            if count > 0 {
                let to = self.bucket(number);
                to.0 += count;
                to.1 += sum;
            }
        }
    }

    /// Number of errors.
    pub(crate) fn count(&self) -> u64 {
        let finite: u64 = self.buckets.iter().map(|b| b.0).sum();
        self.zeros + finite + self.infinite + self.nan
    }

    /// The median; of an even count, the upper one of the two in the middle. Within 0.8 %: it is the mean of those
    /// errors that share its bucket. None where there is no error.
    pub(crate) fn median(&self) -> Option<f64> {
        let count = self.count();
        let mut before = self.zeros;
        let middle = count / 2;
        if count == 0 || middle < before {
            return (count > 0).then_some(0.0);
        }
        for &(count, sum) in &self.buckets {
            before += count;
            if middle < before {
                return Some(sum / count as f64);
            }
        }
        let is_infinite = middle < before + self.infinite;
        Some(if is_infinite { f64::INFINITY } else { f64::NAN })
    }

    /// The largest error; none where there is no error.
    pub(crate) fn largest(&self) -> Option<f64> {
        match (self.count(), self.infinite, self.nan) {
            (0, ..) => None,
            (_, 0, 0) => Some(self.largest),
            (_, _, 0) => Some(f64::INFINITY),
            _ => Some(f64::NAN),
        }
    }
}

/// The bucket of a positive number: its exponent and first binary digits.
fn number(error: f64) -> i32 {
    let octave = 1i32 << DIGITS;
    let number = (error.to_bits() >> (f64::MANTISSA_DIGITS - 1 - DIGITS)) as i32 - 1023 * octave;
    number.clamp(-OCTAVES * octave, OCTAVES * octave - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(errors: &[f64]) -> Spread {
        let mut spread = Spread::default();
        errors.iter().for_each(|&e| spread.add(e));
        spread
    }

    #[test]
    fn nothing_has_no_median_and_zeros_have_zero() {
        let none = of(&[]);
        assert_eq!((none.count(), none.median(), none.largest()), (0, None, None));
        let zeros = of(&[0.0, 0.0, 1e-3]);
        assert_eq!((zeros.median(), zeros.largest()), (Some(0.0), Some(1e-3)));
    }

    #[test]
    fn errors_of_their_own_buckets_are_told_exactly() {
        assert_eq!(of(&[3e-7, 1e-3, 0.1]).median(), Some(1e-3));
        assert_eq!(
            of(&[1e-3; 1000]).median().map(|m| (m / 1e-3 - 1.0).abs() < 1e-12),
            Some(true)
        );
        assert_eq!(of(&[0.1, 0.3]).median(), Some(0.3));
    }

    #[test]
    fn infinity_and_nan_come_last() {
        let odd = of(&[f64::NAN, 1.0, f64::INFINITY]);
        assert_eq!(odd.median(), Some(f64::INFINITY));
        assert!(odd.largest().is_some_and(f64::is_nan));
        assert!(of(&[f64::NAN, -f64::NAN, 1.0]).median().is_some_and(f64::is_nan));
        assert_eq!(of(&[1.0, f64::INFINITY]).largest(), Some(f64::INFINITY));
    }

    #[test]
    fn errors_of_any_size_take_bounded_room() {
        let all = of(&[f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX, 1e-30, 1e30]);
        assert_eq!((all.count(), all.largest()), (5, Some(f64::MAX)));
        assert!(all.buckets.len() <= 128 << DIGITS, "{}", all.buckets.len());
    }

    proptest! {
        #[test]
        fn the_median_is_within_a_percent_and_the_largest_exact(
            errors in proptest::collection::vec(prop_oneof![Just(0.0), 1e-18..1e18f64, 1e-8..1e-6f64], 1..300),
            cut in 0..300usize,
        ) {
            let mut sorted = errors.clone();
            sorted.sort_by(f64::total_cmp);
            let cut = cut.min(errors.len());
            let mut spread = of(&errors[..cut]);
            spread.merge(&of(&errors[cut..]));
            prop_assert_eq!(spread.count(), errors.len() as u64);
            prop_assert_eq!(spread.largest(), sorted.last().copied());
            let (median, exact) = (spread.median().expect("errors"), sorted[sorted.len() / 2]);
            prop_assert!((median - exact).abs() <= 0.008 * exact, "{} {}", median, exact);
        }
    }
}
