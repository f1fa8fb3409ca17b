//! Token ids, which are compared before any tensor: engines that were fed different ids have nothing
//! else to be compared in.

use bitnet_trace_schema::{Manifest, Sequence};
use serde::Serialize;
use std::fmt;

/// Ids before and after the first difference that are shown.
const AROUND: usize = 5;

/// Where the ids of one request differ first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdDifference {
    /// The request.
    pub request: i32,
    /// The first position whose ids differ.
    pub seq: i64,
    /// Whether it lies in the prompt of either run (or whether no run says how long the prompt is).
    pub in_prompt: bool,
    /// The left id there.
    pub left: i32,
    /// The right id there.
    pub right: i32,
    /// The position of the first id of `left_ids` and `right_ids`.
    pub ids_from: i64,
    /// Left ids around the difference; null where none is known.
    pub left_ids: Vec<Option<i32>>,
    /// Right ids around the difference.
    pub right_ids: Vec<Option<i32>>,
    /// What the whole lists look like, where that is a known mistake.
    pub cause: Option<Cause>,
}

/// How two prompts' ids may come to differ, as the lists show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// One side begins with the same id twice, and is the other one after that: BOS was added twice.
    BosTwice {
        /// Whether it is the left side.
        left: bool,
    },
    /// One side has one more id before what is the other: BOS was added on one side only.
    BosMissing {
        /// Whether the left side lacks it.
        left: bool,
    },
    /// The first ids of the text differ and all others are the same: a space before the text on one side only.
    PrefixSpace,
    /// One id stands for several: a special token that only one side reads as such.
    SpecialToken {
        /// Whether the left side has the one id.
        left: bool,
    },
    /// One side holds the other with more before and after it: a chat template on one side only.
    Template {
        /// Whether it is the left side.
        left: bool,
    },
}

impl Cause {
    /// What two lists of a prompt look like. They differ first at `at`.
    fn of(left: &[Option<i32>], right: &[Option<i32>], at: usize) -> Option<Self> {
        let (left, right): (Vec<i32>, Vec<i32>) = (known(left)?, known(right)?);
        Self::one_way(&left, &right, at, true).or_else(|| Self::one_way(&right, &left, at, false))
    }

    /// With `a`, the left list if `left`, as the one that has more, or one for several.
    fn one_way(a: &[i32], b: &[i32], at: usize, left: bool) -> Option<Self> {
        if b.is_empty() {
            return None;
        }
        if a.get(1..) == Some(b) {
            let twice = a[0] == b[0];
            return Some(if twice {
                Self::BosTwice { left }
            } else {
                Self::BosMissing { left: !left }
            });
        }
        let same_end = a
            .iter()
            .rev()
            .zip(b.iter().rev())
            .take_while(|(x, y)| x == y)
            .count();
        let middle = |ids: &[i32]| ids.len().saturating_sub(at + same_end);
        // An agreement after the difference is what makes it local; without any, everything may differ.
        if same_end > 0 {
            if middle(a) == 1 && middle(b) == 1 && at <= 1 {
                return Some(Self::PrefixSpace);
            }
            if middle(a) == 1 && middle(b) > 1 {
                return Some(Self::SpecialToken { left });
            }
        }
        let inner = &b[1..];
        let holds = inner.len() >= FEWEST_OF_TEMPLATE && a.windows(inner.len()).any(|w| w == inner);
        (holds && a.len() > b.len()).then_some(Self::Template { left })
    }
}

/// Ids that must reappear between those of a template.
const FEWEST_OF_TEMPLATE: usize = 2;

fn known(ids: &[Option<i32>]) -> Option<Vec<i32>> {
    ids.iter().copied().collect()
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |left: bool| if left { "left" } else { "right" };
        match *self {
            Self::BosTwice { left } => {
                let side = side(left);
                write!(f, "the {side} run begins with the same id twice: BOS was added twice, by the tokenizer and by the template or the caller")
            }
            Self::BosMissing { left } => {
                let side = side(left);
                write!(f, "the {side} run lacks the first id and is the same after that: BOS was not added there")
            }
            Self::PrefixSpace => f.write_str(
                "only the first id of the text differs: one side puts a space before the text (add_space_prefix)",
            ),
            Self::SpecialToken { left } => {
                let (side, other) = (side(left), side(!left));
                write!(f, "one id on the {side} side is several on the {other} side: a special token that is read as text there, or another pre-tokenizer")
            }
            Self::Template { left } => {
                let side = side(left);
                write!(f, "the {side} run holds the other's ids with more around them: a chat template on one side only")
            }
        }
    }
}

/// What comparing the token ids of two runs gave.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TokenIds {
    /// Positions whose ids are known on both sides and equal, up to the first difference.
    pub equal: u64,
    /// Whether the left run has token ids.
    pub left_known: bool,
    /// Whether the right run has token ids.
    pub right_known: bool,
    /// The first difference of each request, in order of request.
    pub differences: Vec<IdDifference>,
}

impl TokenIds {
    /// Compares the ids of the requests that `request` takes, up to and with position `last`.
    pub fn of(left: &Manifest, right: &Manifest, request: Option<i32>, last: Option<i64>) -> Self {
        let known = |m: &Manifest| m.sequences.iter().any(|s| s.ids.iter().any(Option::is_some));
        let mut result = Self {
            left_known: known(left),
            right_known: known(right),
            ..Self::default()
        };
        for a in &left.sequences {
            let same = right.sequences.iter().find(|b| b.request == a.request);
            let Some(b) = same.filter(|_| request.is_none_or(|r| r == a.request)) else {
                continue;
            };
            let take = last.map_or(usize::MAX, |l| usize::try_from(l.saturating_add(1)).unwrap_or(0));
            for (seq, pair) in a.ids.iter().zip(&b.ids).enumerate().take(take) {
                let (Some(x), Some(y)) = pair else { continue };
                if x == y {
                    result.equal += 1;
                    continue;
                }
                let from = seq.saturating_sub(AROUND);
                let around = |ids: &[Option<i32>]| ids[from..ids.len().min(seq + AROUND + 1)].to_vec();
                result.differences.push(IdDifference {
                    request: a.request,
                    seq: seq as i64,
                    in_prompt: in_prompt(left, right, a.request, seq as u64),
                    left: *x,
                    right: *y,
                    ids_from: from as i64,
                    left_ids: around(&a.ids),
                    right_ids: around(&b.ids),
                    cause: Cause::of(prompt(left, a), prompt(right, b), seq),
                });
                break;
            }
        }
        result.differences.sort_by_key(|d| d.request);
        result
    }

    /// The difference that forbids a comparison, if there is one: in a prompt.
    pub fn in_prompt(&self) -> Option<&IdDifference> {
        self.differences.iter().find(|d| d.in_prompt)
    }

    /// From which position on the tensors of `request` are not comparable.
    pub fn differs_from(&self, request: i32) -> Option<i64> {
        let mut of_request = self.differences.iter().filter(|d| d.request == request);
        of_request.next().map(|d| d.seq)
    }
}

/// The ids of a sequence's prompt, or all of them where it is not known where that ends.
fn prompt<'a>(manifest: &Manifest, sequence: &'a Sequence) -> &'a [Option<i32>] {
    let known = manifest.prompt_tokens.filter(|_| sequence.request == 0);
    let len = known.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    &sequence.ids[..len.min(sequence.ids.len())]
}

/// The manifest knows the prompt of request 0 only; elsewhere, an id might always be the prompt's.
fn in_prompt(left: &Manifest, right: &Manifest, request: i32, seq: u64) -> bool {
    match (left.prompt_tokens, right.prompt_tokens) {
        _ if request != 0 => true,
        (None, None) => true,
        (a, b) => seq < a.unwrap_or(0).max(b.unwrap_or(0)),
    }
}

/// Ids in a row, the one at `mark` in brackets.
pub(crate) struct IdList<'a> {
    pub ids: &'a [Option<i32>],
    pub from: i64,
    pub mark: i64,
}

impl fmt::Display for IdList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from > 0 {
            f.write_str("… ")?;
        }
        for (i, id) in self.ids.iter().enumerate() {
            let id = id.map_or("?".to_owned(), |id| id.to_string());
            let space = if i == 0 { "" } else { " " };
            if self.from + i as i64 == self.mark {
                write!(f, "{space}[{id}]")?;
            } else {
                write!(f, "{space}{id}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;

    fn of(left: (u64, &[i32]), right: (u64, &[i32])) -> TokenIds {
        TokenIds::of(
            &manifest("a", "x", left.0, left.1),
            &manifest("b", "y", right.0, right.1),
            None,
            None,
        )
    }

    #[test]
    fn a_difference_in_either_prompt_is_found_with_the_ids_around_it() {
        let ids = of((3, &[504, 3575, 282]), (3, &[504, 378, 282]));
        let d = ids.in_prompt().expect("a difference");
        assert_eq!((d.seq, d.left, d.right, ids.equal), (1, 3575, 378, 1));
        let list = |ids| {
            IdList {
                ids,
                from: d.ids_from,
                mark: d.seq,
            }
            .to_string()
        };
        assert_eq!(
            (list(&d.left_ids), list(&d.right_ids)),
            ("504 [3575] 282".into(), "504 [378] 282".into())
        );
        assert!(
            of((1, &[1, 2]), (2, &[1, 3])).in_prompt().is_some(),
            "the longer prompt counts"
        );
    }

    #[test]
    fn known_mistakes_are_named_and_unrelated_prompts_are_not_called_one() {
        let cause = |left: &[i32], right: &[i32]| {
            let (l, r) = ((left.len() as u64, left), (right.len() as u64, right));
            of(l, r).in_prompt().and_then(|d| d.cause)
        };
        assert_eq!(
            cause(&[1, 1, 7, 8], &[1, 7, 8]),
            Some(Cause::BosTwice { left: true })
        );
        assert_eq!(
            cause(&[1, 7, 8], &[1, 1, 7, 8]),
            Some(Cause::BosTwice { left: false })
        );
        assert_eq!(
            cause(&[7, 8, 9], &[1, 7, 8, 9]),
            Some(Cause::BosMissing { left: true })
        );
        assert_eq!(cause(&[1, 378, 8, 9], &[1, 504, 8, 9]), Some(Cause::PrefixSpace));
        assert_eq!(
            cause(&[1, 50, 8, 9], &[1, 60, 61, 62, 8, 9]),
            Some(Cause::SpecialToken { left: true })
        );
        assert_eq!(
            cause(&[1, 7, 8, 9], &[1, 40, 41, 7, 8, 9, 42]),
            Some(Cause::Template { left: false })
        );
        assert_eq!(cause(&[1, 2, 3, 4], &[5, 6, 7, 8]), None);
        assert_eq!(cause(&[1, 2, 3, 4, 5], &[1, 2, 9, 8, 7]), None);
    }

    #[test]
    fn a_difference_in_generated_ids_only_limits_the_comparison() {
        let ids = of((2, &[1, 2, 3, 4]), (2, &[1, 2, 3, 5, 6]));
        assert_eq!(ids.in_prompt(), None);
        assert_eq!((ids.differs_from(0), ids.differs_from(1)), (Some(3), None));
    }

    #[test]
    fn without_a_prompt_length_any_difference_may_be_in_the_prompt() {
        let (mut a, mut b) = (manifest("a", "x", 0, &[1, 2]), manifest("b", "y", 0, &[1, 3]));
        (a.prompt_tokens, b.prompt_tokens) = (None, None);
        assert!(TokenIds::of(&a, &b, None, None).in_prompt().is_some());
        assert!(
            TokenIds::of(&a, &b, None, Some(0)).in_prompt().is_none(),
            "outside of the selection"
        );
        (a.sequences[0].request, b.sequences[0].request) = (7, 7);
        (a.prompt_tokens, b.prompt_tokens) = (Some(1), Some(1));
        assert!(TokenIds::of(&a, &b, None, None).in_prompt().is_some());
        assert!(
            TokenIds::of(&a, &b, Some(0), None).in_prompt().is_none(),
            "another request"
        );
    }

    #[test]
    fn unknown_ids_differ_from_nothing() {
        let (a, mut b) = (manifest("a", "x", 2, &[1, 2]), manifest("b", "y", 2, &[1, 2]));
        b.sequences[0].ids[0] = None;
        let ids = TokenIds::of(&a, &b, None, None);
        assert_eq!((ids.equal, ids.differences.len()), (1, 0));
        b.sequences.clear();
        let ids = TokenIds::of(&a, &b, None, None);
        assert_eq!((ids.left_known, ids.right_known), (true, false));
    }
}
