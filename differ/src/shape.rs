//! Which shapes may be compared element by element.

use bitnet_trace_store::Meta;

/// The stage whose rows may be of different length: keys that a token cannot see have probability 0.
const PROBABILITIES: &str = "attn_probs";

/// How the elements of two records correspond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One to one, in row-major order.
    Same,
    /// Row by row: each row of one side continues beyond the other's last key.
    Rows {
        /// Number of rows on both sides.
        rows: usize,
        /// Keys of a left row.
        left: usize,
        /// Keys of a right row.
        right: usize,
    },
    /// No correspondence is known.
    Different,
}

/// How `left` and `right` correspond: dimensions of extent 1 do not count; a side of one dimension
/// corresponds to any shape of as many elements; attention probabilities correspond row by row.
pub fn layout(left: Meta<'_>, right: Meta<'_>) -> Layout {
    let same_count = left.num_elements == right.num_elements;
    if same_count && left.shape == right.shape {
        return Layout::Same;
    }
    let (a, b) = (squeezed(left.shape), squeezed(right.shape));
    if same_count && (a == b || a.len() <= 1 || b.len() <= 1) {
        return Layout::Same;
    }
    if left.stage == PROBABILITIES
        && let Some((rows_left, keys_left)) = rows(left)
        && let Some((rows_right, keys_right)) = rows(right)
        && rows_left == rows_right
    {
        return Layout::Rows {
            rows: rows_left,
            left: keys_left,
            right: keys_right,
        };
    }
    Layout::Different
}

/// A shape without its dimensions of extent 1.
pub(crate) fn squeezed(shape: &[i64]) -> Vec<i64> {
    shape.iter().copied().filter(|&dim| dim != 1).collect()
}

/// Rows (all axes but the last) and their length.
fn rows(meta: Meta<'_>) -> Option<(usize, usize)> {
    let keys = usize::try_from(*meta.shape.last()?).ok().filter(|&k| k > 0)?;
    let elements = usize::try_from(meta.num_elements).ok()?;
    (elements % keys == 0).then_some((elements / keys, keys))
}

/// The first `keep` elements of each row of `len`, one after the other.
pub fn crop<T: Copy>(values: &[T], len: usize, keep: usize) -> Vec<T> {
    let rows = values.chunks(len);
    rows.flat_map(|row| row.iter().take(keep).copied()).collect()
}

/// The shape in which two records are compared: whichever says more, cropped to what both have.
fn compared(left: Meta<'_>, right: Meta<'_>) -> Vec<i64> {
    let mut shape = if squeezed(left.shape).len() >= squeezed(right.shape).len() {
        squeezed(left.shape)
    } else {
        squeezed(right.shape)
    };
    if let Layout::Rows { rows, left, right } = layout(left, right) {
        shape = match left.min(right) as i64 {
            keys if rows == 1 => vec![keys],
            keys => vec![rows as i64, keys],
        };
    }
    shape
}

/// Elements of a row of two records that are compared: the extent of the last axis.
pub fn row_len(left: Meta<'_>, right: Meta<'_>) -> usize {
    let elements = usize::try_from(left.num_elements).unwrap_or(0);
    if left.shape.len() <= 1 && left.shape == right.shape {
        return elements;
    }
    let shape = compared(left, right);
    match shape.last().map(|&keys| usize::try_from(keys)) {
        Some(Ok(keys)) if shape.len() > 1 => keys,
        _ => elements,
    }
}

/// The multi-index of element `at` of two records that were compared.
pub fn position(left: Meta<'_>, right: Meta<'_>, at: u64) -> Vec<u64> {
    let shape = compared(left, right);
    let mut rest = at;
    let mut index = vec![0; shape.len().max(1)];
    for (i, &dim) in shape.iter().enumerate().skip(1).rev() {
        let dim = u64::try_from(dim).unwrap_or(1).max(1);
        index[i] = rest % dim;
        rest /= dim;
    }
    index[0] = rest;
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use bitnet_trace_schema::RecordMeta;

    fn record(stage: &str, shape: &[i64]) -> RecordMeta {
        let mut m = Memory::default();
        m.push(0, 0, stage, &vec![0.0; shape.iter().product::<i64>() as usize]);
        m.shape(shape);
        m.rows.remove(0).0
    }

    fn of(stage: &str, left: &[i64], right: &[i64]) -> Layout {
        layout((&record(stage, left)).into(), (&record(stage, right)).into())
    }

    #[test]
    fn unit_dimensions_and_flattening_do_not_matter() {
        assert_eq!(of("q_rope", &[9, 64], &[1, 9, 1, 64]), Layout::Same);
        assert_eq!(of("q_rope", &[9, 64], &[576]), Layout::Same);
        assert_eq!(of("q_rope", &[], &[1, 1]), Layout::Same);
    }

    #[test]
    fn another_count_or_another_order_of_axes_is_different() {
        assert_eq!(of("q_rope", &[9, 64], &[64, 9]), Layout::Different);
        assert_eq!(of("q_rope", &[576], &[575]), Layout::Different);
        assert_eq!(of("attn_scores", &[9, 4], &[9, 6]), Layout::Different);
        assert_eq!(of("q_rope", &[0], &[1]), Layout::Different);
    }

    #[test]
    fn probability_rows_of_different_length_correspond() {
        let rows = |rows, left, right| Layout::Rows { rows, left, right };
        assert_eq!(of("attn_probs", &[9, 1], &[9, 6]), rows(9, 1, 6));
        assert_eq!(of("attn_probs", &[9, 6], &[1, 9, 4]), rows(9, 6, 4));
        assert_eq!(of("attn_probs", &[1, 3], &[1, 5]), rows(1, 3, 5));
        assert_eq!(of("attn_probs", &[8, 6], &[9, 6]), Layout::Different);
        assert_eq!(of("attn_probs", &[9, 0], &[9, 6]), Layout::Different);
    }

    #[test]
    fn an_index_is_told_in_the_shape_that_says_more() {
        let at = |stage, left: &[i64], right: &[i64], i| {
            position((&record(stage, left)).into(), (&record(stage, right)).into(), i)
        };
        assert_eq!(at("q_rope", &[576], &[9, 64], 130), [2, 2]);
        assert_eq!(at("q_rope", &[1, 576], &[576], 130), [130]);
        assert_eq!(at("attn_probs", &[9, 4], &[9, 6], 9), [2, 1]);
        assert_eq!(at("q_rope", &[1], &[1], 0), [0]);
    }
}
