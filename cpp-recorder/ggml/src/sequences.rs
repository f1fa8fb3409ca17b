//! Which tokens of a batch are of one sequence, as far as the attention mask tells.

use crate::{Host, Raw, cells::Cells, read};
use half::f16;
use std::collections::BTreeMap;

/// What each token may attend to: `[keys, tokens]`, F32 or F16, minus infinity where it may not.
pub struct Mask<'a> {
    bytes: &'a [u8],
    keys: usize,
    halves: bool,
}

impl<'a> Mask<'a> {
    /// The mask of an attention, if it can be read: it is an input, of which there may be a cast.
    pub fn new(host: &impl Host, tensor: Raw, tokens: usize, scratch: &'a mut Vec<u8>) -> Option<Self> {
        if tensor.is_null() {
            return None;
        }
        let root = read::origin(host, tensor);
        let node = read::input(host, root)?;
        let halves = match node.dtype() {
            "f16" => true,
            "f32" => false,
            _ => return None,
        };
        let size = if halves { 2 } else { 4 };
        let keys = usize::try_from(node.ne[0]).ok()?;
        let bytes = read::bytes(host, root, scratch);
        let fits = node.is_contiguous(size) && keys.checked_mul(tokens)?.checked_mul(size)? <= bytes.len();
        fits.then_some(Self { bytes, keys, halves })
    }

    /// The keys that a token may attend to.
    fn visible(&self, token: usize) -> impl Iterator<Item = usize> + '_ {
        let row = token * self.keys;
        (0..self.keys).filter(move |key| {
            let at = row + key;
            let value = if self.halves {
                f16::from_le_bytes([self.bytes[2 * at], self.bytes[2 * at + 1]]).to_f32()
            } else {
                let four = &self.bytes[4 * at..4 * at + 4];
                f32::from_le_bytes([four[0], four[1], four[2], four[3]])
            };
            value > f32::NEG_INFINITY
        })
    }

    /// The tokens in order of position, for what comes before tells what a token belongs to.
    fn order(positions: &[i64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..positions.len()).collect();
        order.sort_by_key(|&i| positions[i]);
        order
    }

    /// Numbers the sequences of a batch without a cache, whose keys are its own tokens, in order of appearance.
    pub fn requests(&self, positions: &[i64]) -> Vec<i32> {
        let mut requests = vec![-1; positions.len()];
        let mut unused = 0;
        for i in Self::order(positions) {
            let seen = self
                .visible(i)
                .filter_map(|k| requests.get(k).copied())
                .find(|&r| r >= 0);
            requests[i] = seen.unwrap_or_else(|| {
                unused += 1;
                unused - 1
            });
        }
        requests
    }

    /// The sequences of a batch whose tokens are put into the cells `now` of a cache that sequences share. A token goes
    /// on with the sequence whose cells it sees; where that went on already without it, the token begins a branch that
    /// shares what it sees.
    pub fn requests_in(&self, cells: &mut Cells, now: &[i64], positions: &[i64]) -> Vec<i32> {
        let batch: BTreeMap<i64, usize> = now.iter().enumerate().map(|(i, &cell)| (cell, i)).collect();
        let mut requests = vec![-1; positions.len()];
        let mut latest = BTreeMap::new();
        let mut unused = cells.unused();
        for i in Self::order(positions) {
            let held_by = |cell: usize| match batch.get(&(cell as i64)) {
                Some(&j) => (requests[j] >= 0).then(|| (positions[j], requests[j])),
                None => cells
                    .owner(cell as i64)
                    .map(|(request, position)| (position, request)),
            };
            let before = self.visible(i).filter_map(held_by);
            let before = before.filter(|&(position, _)| position <= positions[i]).max();
            // A sequence that was cut back fills its cells again.
            let again = cells
                .owner(now[i])
                .filter(|&(_, position)| position >= positions[i]);
            let free = |request: i32| latest.get(&request).is_none_or(|&p| p < positions[i]);
            requests[i] = match (before, again) {
                (None, Some((request, _))) if free(request) => request,
                (None, _) => {
                    unused += 1;
                    unused - 1
                }
                (Some((position, request)), again) => {
                    let last = latest.get(&request).copied().unwrap_or_else(|| match again {
                        Some((owner, _)) if owner == request => position,
                        _ => cells.last(request),
                    });
                    if last <= position {
                        request
                    } else {
                        cells.fork(unused, request, position);
                        unused += 1;
                        unused - 1
                    }
                }
            };
            latest.insert(requests[i], positions[i]);
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Vec<u8> {
        let value = |c: char| if c == '.' { f32::NEG_INFINITY } else { 0.0 };
        rows.iter()
            .flat_map(|r| r.chars().flat_map(move |c| value(c).to_le_bytes()))
            .collect()
    }

    fn of(bytes: &[u8], keys: usize) -> Mask<'_> {
        Mask {
            bytes,
            keys,
            halves: false,
        }
    }

    fn decode(cells: &mut Cells, rows: &[&str], now: &[i64], positions: &[i64]) -> Vec<i32> {
        let bytes = mask(rows);
        let requests = of(&bytes, rows[0].len()).requests_in(cells, now, positions);
        for i in 0..now.len() {
            cells.place(requests[i], positions[i], now[i]);
        }
        requests
    }

    #[test]
    fn interleaved_sequences_are_told_apart_and_go_on() {
        let mut cells = Cells::default();
        let rows = ["x.......", ".x......", "x.x.....", ".x.x...."];
        assert_eq!(
            decode(&mut cells, &rows, &[0, 1, 2, 3], &[0, 0, 1, 1]),
            [0, 1, 0, 1]
        );
        assert_eq!(
            decode(&mut cells, &[".x.x.x..", "x.x.x..."], &[5, 4], &[2, 2]),
            [1, 0]
        );
        assert_eq!(cells.of(1, 2), Some(&[1, 3, 5][..]));
    }

    #[test]
    fn branches_share_what_they_saw_and_get_a_number_of_their_own() {
        let mut cells = Cells::default();
        assert_eq!(decode(&mut cells, &["x....", "xx..."], &[0, 1], &[0, 1]), [0, 0]);
        assert_eq!(decode(&mut cells, &["xxx..", "xx.x."], &[2, 3], &[2, 2]), [0, 1]);
        assert_eq!(cells.of(1, 2), Some(&[0, 1, 3][..]));
        assert_eq!(decode(&mut cells, &["xx.xx"], &[4], &[3]), [1]);
    }

    #[test]
    fn a_sequence_that_is_cut_back_is_the_same() {
        let mut cells = Cells::default();
        decode(
            &mut cells,
            &["..x...", "..xx..", "..xxx."],
            &[2, 3, 4],
            &[0, 1, 2],
        );
        assert_eq!(decode(&mut cells, &["..xx.."], &[3], &[1]), [0]);
        assert_eq!(
            decode(&mut cells, &["..x..."], &[2], &[0]),
            [0],
            "and so is one that begins again"
        );
    }

    #[test]
    fn without_a_cache_tokens_that_see_each_other_are_one_sequence() {
        let bytes = mask(&["xx..", "xx..", "..xx", "..xx"]);
        assert_eq!(of(&bytes, 4).requests(&[0, 1, 0, 1]), [0, 0, 1, 1]);
    }
}
