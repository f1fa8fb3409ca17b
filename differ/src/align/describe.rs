//! A short description of a tensor that no order of its elements changes.

/// Quantiles of a description.
const QUANTILES: usize = 64;

/// Fewest elements by which a tensor may be known.
const FEWEST_ELEMENTS: usize = 32;
/// Fewest different quantiles: less is a constant, or nearly.
const FEWEST_VALUES: usize = 8;

/// Count, norm and quantiles of a tensor's values.
#[derive(Debug, Clone)]
pub struct Description {
    count: usize,
    norm: f64,
    quantiles: [f32; QUANTILES],
}

impl Description {
    /// Describes these values, which are reordered; they are finite.
    pub fn of(values: &mut [f32]) -> Self {
        let norm = values
            .iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt();
        let mut quantiles = [0.0; QUANTILES];
        let count = values.len();
        let mut at: Vec<usize> = (0..QUANTILES)
            .map(|i| (2 * i + 1) * count / (2 * QUANTILES))
            .collect();
        at.dedup();
        select(values, 0, &at);
        if count > 0 {
            for (i, quantile) in quantiles.iter_mut().enumerate() {
                *quantile = values[((2 * i + 1) * count / (2 * QUANTILES)).min(count - 1)];
            }
        }
        Self {
            count,
            norm,
            quantiles,
        }
    }

    /// Whether there is enough in the tensor to know it by.
    pub fn tells(&self) -> bool {
        let mut different = self.quantiles.to_vec();
        different.dedup();
        self.count >= FEWEST_ELEMENTS && different.len() >= FEWEST_VALUES
    }

    /// How unlike two tensors are: relative difference of the norms and of the quantiles. The norm alone would
    /// see the few outliers of a residual stream only.
    pub fn distance(&self, other: &Self) -> f64 {
        if self.count != other.count {
            return f64::INFINITY;
        }
        let (mut difference, mut size) = (0.0, 0.0);
        for (&a, &b) in self.quantiles.iter().zip(&other.quantiles) {
            let (a, b) = (f64::from(a), f64::from(b));
            difference += (a - b) * (a - b);
            size += (a * a).max(b * b);
        }
        let relative = |d: f64, s: f64| if d == 0.0 { 0.0 } else { d / s };
        let norms = relative((self.norm - other.norm).abs(), self.norm.max(other.norm));
        norms + relative(difference, size).sqrt()
    }
}

/// Puts the elements of the sorted order at places `at` (ascending, counted from `start`) there.
fn select(values: &mut [f32], start: usize, at: &[usize]) {
    let middle = at.len() / 2;
    let Some(place) = at.get(middle).map(|p| p - start).filter(|&p| p < values.len()) else {
        return;
    };
    let (below, _, above) = values.select_nth_unstable_by(place, f32::total_cmp);
    select(below, start, &at[..middle]);
    select(above, start + place + 1, &at[middle + 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values(mut values in proptest::collection::vec(-1e3f32..1e3, 1..400)) {
            let of = Description::of(&mut values);
            values.sort_by(f32::total_cmp);
            let n = values.len();
            for (i, q) in of.quantiles.iter().enumerate() {
                prop_assert_eq!(*q, values[(2 * i + 1) * n / 128]);
            }
            values.reverse();
            // The norm is a sum in another order.
            prop_assert!(Description::of(&mut values).distance(&of) < 1e-12);
        }
    }

    #[test]
    fn a_constant_and_a_handful_of_values_tell_nothing() {
        let ramp = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
        assert!(Description::of(&mut ramp(64)).tells());
        assert!(!Description::of(&mut ramp(20)).tells());
        assert!(!Description::of(&mut [1.0; 100]).tells());
        assert!(!Description::of(&mut []).tells());
    }
}
