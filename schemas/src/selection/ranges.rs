//! Sets of integers.

use super::Range;

/// Sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(i64, i64)>);

impl Ranges {
    pub fn all() -> Self {
        Self(vec![(i64::MIN, i64::MAX)])
    }

    pub fn of(ranges: &[Range]) -> Self {
        let mut sorted: Vec<(i64, i64)> = ranges
            .iter()
            .map(|r| (r.first, r.last.unwrap_or(i64::MAX)))
            .collect();
        sorted.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match joined.last_mut() {
                Some(before) if before.1 == i64::MAX || first <= before.1 + 1 => {
                    before.1 = before.1.max(last)
                }
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// All numbers that are not in the set.
    pub fn others(&self) -> Self {
        let (mut others, mut next) = (Vec::with_capacity(self.0.len() + 1), Some(i64::MIN));
        for &(first, last) in &self.0 {
            if let Some(next) = next.filter(|&next| next < first) {
                others.push((next, first - 1));
            }
            next = last.checked_add(1);
        }
        others.extend(next.map(|next| (next, i64::MAX)));
        Self(others)
    }

    /// The numbers that are in both sets.
    pub fn common(&self, other: &Self) -> Self {
        let (mut a, mut b, mut common) = (0, 0, Vec::new());
        while let (Some(&left), Some(&right)) = (self.0.get(a), other.0.get(b)) {
            let (first, last) = (left.0.max(right.0), left.1.min(right.1));
            if first <= last {
                common.push((first, last));
            }
            if left.1 <= right.1 { a += 1 } else { b += 1 }
        }
        Self(common)
    }

    #[inline]
    pub fn contains(&self, n: i64) -> bool {
        self.meets(n, n)
    }

    /// Whether any of `first` to `last` is in the set.
    #[inline]
    pub fn meets(&self, first: i64, last: i64) -> bool {
        let at = self.0.partition_point(|range| range.1 < first);
        first <= last && self.0.get(at).is_some_and(|range| range.0 <= last)
    }
}
