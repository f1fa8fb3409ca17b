//! Ranges and globs, as they stand on command lines and in tolerance files.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// An inclusive range of integers: `3`, `0-5`, `4-` (from 4), `-1` (minus one, as layers have it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: i64,
    /// The last, which is not below `first`.
    pub last: i64,
}

/// Text that is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number or a range; write 3, 0-5 or 4-")]
pub struct BadSpan(pub String);

impl Span {
    /// Whether the range holds `n`.
    pub fn contains(&self, n: i64) -> bool {
        (self.first..=self.last).contains(&n)
    }

    /// The range as the standard library has it.
    pub fn range(&self) -> RangeInclusive<i64> {
        self.first..=self.last
    }

    /// The range within i32, for layers and requests.
    pub fn range_i32(&self) -> RangeInclusive<i32> {
        let clamp = |n: i64| n.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        clamp(self.first)..=clamp(self.last)
    }
}

impl From<i64> for Span {
    fn from(n: i64) -> Self {
        Self { first: n, last: n }
    }
}

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let bad = || BadSpan(text.to_owned());
        // "+3" is a number to the standard library and a typing error here.
        let number = |t: &str| t.parse().ok().filter(|_| !t.starts_with('+')).ok_or_else(bad);
        let trimmed = text.trim();
        let dash = trimmed.char_indices().skip(1).find(|&(_, c)| c == '-');
        let Some((dash, _)) = dash else {
            return number(trimmed).map(Self::from);
        };
        let first = number(&trimmed[..dash])?;
        let last = match &trimmed[dash + 1..] {
            "" => i64::MAX,
            t => number(t)?,
        };
        if first > last {
            Err(bad())
        } else {
            Ok(Self { first, last })
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (a, b) if a == b => write!(f, "{a}"),
            (a, i64::MAX) => write!(f, "{a}-"),
            (a, b) => write!(f, "{a}-{b}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_a_number_two_numbers_or_open() {
        let span = |t: &str| t.parse::<Span>().map(|s| (s.first, s.last)).ok();
        assert_eq!(span("3"), Some((3, 3)));
        assert_eq!(span("-1"), Some((-1, -1)));
        assert_eq!(span("0-5"), Some((0, 5)));
        assert_eq!(span("-2-5"), Some((-2, 5)));
        assert_eq!(span("4-"), Some((4, i64::MAX)));
        for bad in [
            "",
            "-",
            "a",
            "5-3",
            "1--",
            "+1",
            "1-+2",
            "1-2-3",
            "99999999999999999999",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_survives_its_text(first in -3i64..1000, length in 0i64..1000) {
            let s = Span { first, last: first + length };
            prop_assert_eq!(s.to_string().parse::<Span>(), Ok(s));
        }
    }
}
