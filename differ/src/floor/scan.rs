//! The statistic that a run is judged by.

/// Fewest positions of a window: the median of two is a record.
const SMALLEST: usize = 3;

/// The largest median of `values`, in the order of positions, over windows: all of them, the first and the last half,
/// quarter and so on, down to three. A mistake that is made from a position on, or in the prompt alone, fills one of
/// them, and a record that is off by itself none. 0 without values.
pub fn scan(values: &[f64]) -> f64 {
    let mut scratch = Vec::with_capacity(values.len());
    let medians = windows(values.len()).filter_map(|(from, to)| {
        scratch.clear();
        scratch.extend_from_slice(&values[from..to]);
        median(&mut scratch)
    });
    medians.fold(0.0, f64::max)
}

fn windows(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = std::iter::successors(Some(len / 2), |n| Some(n / 2)).take_while(|&n| n >= SMALLEST);
    std::iter::once((0, len)).chain(parts.flat_map(move |n| [(0, n), (len - n, len)]))
}

/// The median: of an even count, the lower one of the two in the middle. Reorders `values`; none without any.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// The stretch of `flags` with the largest surplus of true ones over false ones, the first of equals: from, to (without).
/// None where none is true.
pub fn stretch(flags: &[bool]) -> Option<(usize, usize)> {
    let (mut best, mut found) = (0, None);
    let (mut sum, mut from) = (0, 0);
    for (i, &flag) in flags.iter().enumerate() {
        if sum == 0 {
            from = i;
        }
        sum = if flag { sum + 1 } else { (sum - 1).max(0) };
        if sum > best {
            (best, found) = (sum, Some((from, i + 1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_from_a_position_on_or_in_the_prompt_alone_shows_and_one_odd_record_does_not() {
        let mut late = [1.0; 16];
        late[12..].fill(9.0);
        assert_eq!(scan(&late), 9.0);
        let mut early = [1.0; 16];
        early[..4].fill(9.0);
        assert_eq!(scan(&early), 9.0);
        let mut odd = [1.0; 16];
        odd[5] = 1e9;
        assert_eq!(scan(&odd), 1.0);
    }

    #[test]
    fn few_values_have_one_window() {
        assert_eq!(scan(&[]), 0.0);
        assert_eq!(scan(&[3.0]), 3.0);
        assert_eq!(scan(&[3.0, 7.0]), 3.0);
        assert_eq!(scan(&[1.0, 7.0, 7.0, 1.0, 1.0]), 1.0);
        assert_eq!(windows(6).collect::<Vec<_>>(), [(0, 6), (0, 3), (3, 6)]);
    }

    #[test]
    fn the_stretch_begins_where_most_of_what_follows_is_beyond() {
        let of = |text: &str| stretch(&text.bytes().map(|b| b == b'x').collect::<Vec<_>>());
        assert_eq!(of("....."), None);
        assert_eq!(of(".x...xx.xxx"), Some((5, 11)));
        assert_eq!(of("xxx....."), Some((0, 3)));
        assert_eq!(of("x...."), Some((0, 1)));
    }
}
