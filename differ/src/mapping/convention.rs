//! In which order an engine holds the elements of a tensor.

use serde::Serialize;
use std::sync::Arc;

/// How one run's slice of a token must be read so that its elements stand as in the other run.
///
/// All but [`Convention::HeadMajor`] are permutations of the slice itself. `heads` is the number of heads of
/// the tensor: for keys and values, that of the key-value heads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Convention {
    /// Rotary pairs lie side by side, `(2i, 2i + 1)` of each head, and are read as `(i, i + d / 2)`, for a head of
    /// `d` elements (the two forms of RoPE in use; arXiv 2104.09864 has the first).
    RopeInterleaved {
        /// Heads of the tensor.
        heads: usize,
    },
    /// The reverse: pairs lie half a head apart, and are read as side by side.
    RopeHalves {
        /// Heads of the tensor.
        heads: usize,
    },
    /// The slice lies as `[head_dim, heads]`, and is read as `[heads, head_dim]`.
    Transposed {
        /// Heads of the tensor.
        heads: usize,
    },
    /// The tensor of a whole forward call lies as `[heads, tokens, head_dim]`, and was cut into tokens as if it
    /// were `[tokens, heads, head_dim]`.
    HeadMajor {
        /// Heads of the tensor.
        heads: usize,
    },
    /// Element `i` of the other run is element `order[i]` of this one.
    Permuted {
        /// A permutation of `0..order.len()`.
        order: Arc<[u32]>,
    },
}

/// The name of a convention, as in a mapping file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConventionName {
    /// [`Convention::RopeInterleaved`].
    RopeInterleaved,
    /// [`Convention::RopeHalves`].
    RopeHalves,
    /// [`Convention::Transposed`].
    Transposed,
    /// [`Convention::HeadMajor`].
    HeadMajor,
    /// [`Convention::Permuted`].
    Permuted,
}

impl ConventionName {
    /// The name as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RopeInterleaved => "rope_interleaved",
            Self::RopeHalves => "rope_halves",
            Self::Transposed => "transposed",
            Self::HeadMajor => "head_major",
            Self::Permuted => "permuted",
        }
    }
}

impl Convention {
    /// Its name.
    pub fn name(&self) -> ConventionName {
        match self {
            Self::RopeInterleaved { .. } => ConventionName::RopeInterleaved,
            Self::RopeHalves { .. } => ConventionName::RopeHalves,
            Self::Transposed { .. } => ConventionName::Transposed,
            Self::HeadMajor { .. } => ConventionName::HeadMajor,
            Self::Permuted { .. } => ConventionName::Permuted,
        }
    }

    /// Number of heads; none for a permutation without them.
    pub fn heads(&self) -> Option<usize> {
        match self {
            Self::RopeInterleaved { heads }
            | Self::RopeHalves { heads }
            | Self::Transposed { heads }
            | Self::HeadMajor { heads } => Some(*heads),
            Self::Permuted { .. } => None,
        }
    }

    /// Whether a slice of so many elements can lie so.
    pub fn fits(&self, elements: usize) -> bool {
        let heads = |h: usize| h > 0 && elements > 0 && elements.is_multiple_of(h);
        match self {
            Self::RopeInterleaved { heads: h } | Self::RopeHalves { heads: h } => {
                heads(*h) && (elements / h).is_multiple_of(2)
            }
            Self::Transposed { heads: h } | Self::HeadMajor { heads: h } => heads(*h),
            Self::Permuted { order } => order.len() == elements,
        }
    }

    /// Where element `i` of the slice lies in it as it was recorded. For slices that fit, and for
    /// conventions that permute the slice itself; any other element stays where it is.
    pub fn source(&self, elements: usize, i: usize) -> usize {
        let head_of = |heads: usize| {
            let d = (elements / heads.max(1)).max(1);
            (i / d * d, i % d, d)
        };
        match self {
            Self::RopeInterleaved { heads } => {
                let (start, at, d) = head_of(*heads);
                let half = d / 2;
                start + if at < half { 2 * at } else { 2 * (at - half) + 1 }
            }
            Self::RopeHalves { heads } => {
                let (start, at, d) = head_of(*heads);
                start + at / 2 + (at % 2) * (d / 2)
            }
            Self::Transposed { heads } => {
                let (start, at, d) = head_of(*heads);
                at * heads + start / d
            }
            Self::HeadMajor { .. } => i,
            Self::Permuted { order } => order.get(i).map_or(i, |&at| at as usize),
        }
    }

    /// The slice in the other run's order. For slices that fit.
    pub fn apply<T: Copy>(&self, slice: &[T]) -> Vec<T> {
        let at = |i| slice.get(self.source(slice.len(), i)).or(slice.get(i));
        (0..slice.len()).filter_map(|i| at(i).copied()).collect()
    }

    /// What runs along the axes of the slice once it is read: its shape, where the recorded one says less.
    pub fn shape(&self, recorded: &[i64], elements: usize) -> Vec<i64> {
        match self.heads() {
            Some(heads) if self.fits(elements) => vec![heads as i64, (elements / heads) as i64],
            _ => recorded.to_vec(),
        }
    }
}

/// Where the slice of token `token` lies in a tensor `[heads, tokens, head_dim]` that was cut into slices of
/// `heads * head_dim` elements: for each of its elements the slice and the place in it.
pub fn head_major(
    heads: usize,
    tokens: usize,
    elements: usize,
    token: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let d = elements / heads.max(1);
    (0..heads).flat_map(move |head| {
        let start = (head * tokens + token) * d;
        (start..start + d).map(move |flat| (flat / elements, flat % elements))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    #[test]
    fn rotary_pairs_move_within_their_head() {
        let interleaved = Convention::RopeInterleaved { heads: 2 };
        assert_eq!(interleaved.apply(&slice(8)), [0, 2, 1, 3, 4, 6, 5, 7]);
        let halves = Convention::RopeHalves { heads: 1 };
        assert_eq!(halves.apply(&slice(6)), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn a_transposed_slice_is_read_head_by_head() {
        // As recorded: element j of head h is at j * 2 + h.
        let transposed = Convention::Transposed { heads: 2 };
        assert_eq!(transposed.apply(&slice(6)), [0, 2, 4, 1, 3, 5]);
        assert_eq!(transposed.shape(&[6], 6), [2, 3]);
    }

    #[test]
    fn what_does_not_divide_does_not_fit() {
        for (convention, n) in [
            (Convention::RopeInterleaved { heads: 3 }, 8),
            (Convention::RopeHalves { heads: 2 }, 6),
            (Convention::Transposed { heads: 0 }, 6),
            (Convention::HeadMajor { heads: 4 }, 6),
            (Convention::HeadMajor { heads: 1 }, 0),
            (Convention::Permuted { order: [1, 0].into() }, 3),
        ] {
            assert!(!convention.fits(n), "{convention:?} {n}");
        }
    }

    proptest! {
        #[test]
        fn the_two_rope_orders_undo_each_other(heads in 1usize..5, half in 1usize..9) {
            let n = heads * half * 2;
            let there = Convention::RopeInterleaved { heads }.apply(&slice(n));
            prop_assert_eq!(Convention::RopeHalves { heads }.apply(&there), slice(n));
        }

        #[test]
        fn every_convention_keeps_every_element(heads in 1usize..5, half in 1usize..9, kind in 0..3) {
            let n = heads * half * 2;
            let convention = match kind {
                0 => Convention::RopeInterleaved { heads },
                1 => Convention::RopeHalves { heads },
                _ => Convention::Transposed { heads },
            };
            let mut read = convention.apply(&slice(n));
            read.sort_unstable();
            prop_assert_eq!(read, slice(n));
        }

        #[test]
        fn a_head_major_tensor_is_cut_back_into_tokens(heads in 1usize..4, tokens in 1usize..5, d in 1usize..6) {
            let n = heads * d;
            let value = |t: usize, h: usize, j: usize| (t * heads + h) * d + j;
            let buffer: Vec<usize> = (0..heads)
                .flat_map(|h| (0..tokens).flat_map(move |t| (0..d).map(move |j| value(t, h, j))))
                .collect();
            let cut: Vec<&[usize]> = buffer.chunks(n).collect();
            for t in 0..tokens {
                let read: Vec<usize> = head_major(heads, tokens, n, t).map(|(s, i)| cut[s][i]).collect();
                let expected: Vec<usize> = (t * n..(t + 1) * n).collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
