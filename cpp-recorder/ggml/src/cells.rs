//! Which cell of the KV cache holds which position of which sequence.

use std::collections::BTreeMap;

/// Positions and cells from here on are not followed, so that no number of the host's makes a table of any size.
const LIMIT: i64 = 1 << 24;
/// A position whose cell is not known.
const NOWHERE: u32 = u32::MAX;
/// A position whose cell was filled again: attention can't read its key any more.
pub const GONE: u32 = u32::MAX - 1;

/// The cells that a group of layers shares.
#[derive(Debug, Default)]
pub struct Cells {
    /// Of each sequence, the cell of each position.
    sequences: BTreeMap<i32, Vec<u32>>,
    /// Of each cell, the sequence and position that it was filled for.
    owners: BTreeMap<i64, (i32, i64)>,
}

impl Cells {
    /// A token of `request` at `position` is put into `cell`; what was there is gone, and so is what the sequence held
    /// from that position on.
    pub fn place(&mut self, request: i32, position: i64, cell: i64) {
        if !(0..LIMIT).contains(&position) || !(0..LIMIT).contains(&cell) {
            return;
        }
        self.forget(cell);
        let places = self.sequences.entry(request).or_default();
        let at = position as usize;
        if at < places.len() {
            for (later, place) in places.drain(at..).enumerate() {
                let own = (request, position + later as i64);
                if self.owners.get(&i64::from(place)) == Some(&own) {
                    self.owners.remove(&i64::from(place));
                }
            }
        }
        let places = self.sequences.entry(request).or_default();
        // A cache that was filled before anyone looked: a lone sequence that was never moved lies in order.
        let gap = places.len()..at;
        if position == cell && !gap.clone().any(|p| self.owners.contains_key(&(p as i64))) {
            places.extend(gap.map(|p| p as u32));
        }
        places.resize(at, NOWHERE);
        places.push(cell as u32);
        self.owners.insert(cell, (request, position));
    }

    fn forget(&mut self, cell: i64) {
        let Some((request, position)) = self.owners.remove(&cell) else {
            return;
        };
        let place = self
            .sequences
            .get_mut(&request)
            .and_then(|p| p.get_mut(position as usize));
        if let Some(place) = place.filter(|p| i64::from(**p) == cell) {
            *place = GONE;
        }
    }

    /// The sequence and position that a cell was filled for.
    pub fn owner(&self, cell: i64) -> Option<(i32, i64)> {
        self.owners.get(&cell).copied()
    }

    /// A number that no sequence has.
    pub fn unused(&self) -> i32 {
        self.sequences
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1))
    }

    /// The last position that a sequence holds; -1 for none.
    pub fn last(&self, request: i32) -> i64 {
        self.sequences.get(&request).map_or(0, Vec::len) as i64 - 1
    }

    /// `new` shares what `from` holds up to `position`.
    pub fn fork(&mut self, new: i32, from: i32, position: i64) {
        let shared = usize::try_from(position + 1).unwrap_or(0);
        let places = self
            .sequences
            .get(&from)
            .map_or(&[][..], |p| &p[..shared.min(p.len())]);
        let places = places.to_vec();
        self.sequences.insert(new, places);
    }

    /// The cells of positions 0 to `last` of a sequence, or [`GONE`], if all are known.
    pub fn of(&self, request: i32, last: i64) -> Option<&[u32]> {
        let places = self.sequences.get(&request)?;
        let places = places.get(..usize::try_from(last).ok()?.checked_add(1)?)?;
        (!places.contains(&NOWHERE)).then_some(places)
    }

    /// Every cell's position grows by what `by` holds for it, as when a context is shifted.
    pub fn shift(&mut self, by: &[i64]) {
        let owners = std::mem::take(&mut self.owners);
        for places in self.sequences.values_mut() {
            places.clear();
        }
        let mut moved: Vec<_> = owners
            .into_iter()
            .map(|(cell, (request, position))| {
                let shift = usize::try_from(cell)
                    .ok()
                    .and_then(|c| by.get(c))
                    .copied()
                    .unwrap_or(0);
                (request, position + shift, cell)
            })
            .collect();
        moved.sort_unstable();
        for (request, position, cell) in moved {
            self.place(request, position, cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_sequences_keep_their_own_order() {
        let mut cells = Cells::default();
        for (cell, (request, position)) in [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)].into_iter().enumerate() {
            cells.place(request, position, cell as i64);
        }
        assert_eq!(cells.of(0, 1), Some(&[0, 2][..]));
        assert_eq!(cells.of(1, 2), Some(&[1, 3, 4][..]));
        assert_eq!((cells.of(0, 2), cells.of(2, 0)), (None, None));
        assert_eq!(
            (cells.owner(3), cells.unused(), cells.last(1), cells.last(7)),
            (Some((1, 1)), 2, 2, -1)
        );
    }

    #[test]
    fn a_rewound_sequence_forgets_what_came_after() {
        let mut cells = Cells::default();
        for p in 0..6 {
            cells.place(0, p, p);
        }
        cells.place(0, 3, 3);
        assert_eq!((cells.last(0), cells.owner(4)), (3, None));
    }

    #[test]
    fn a_cell_that_is_filled_again_is_no_longer_the_old_positions() {
        let mut cells = Cells::default();
        for p in 0..6 {
            cells.place(0, p, p % 4); // a sliding window's ring
        }
        assert_eq!(cells.of(0, 5), Some(&[GONE, GONE, 2, 3, 0, 1][..]));
        assert_eq!(cells.owner(1), Some((0, 5)));
    }

    #[test]
    fn what_was_there_before_anyone_looked_is_in_order_only_where_nothing_says_otherwise() {
        let mut cells = Cells::default();
        cells.place(0, 3, 3);
        assert_eq!(cells.of(0, 3), Some(&[0, 1, 2, 3][..]));
        let mut cells = Cells::default();
        cells.place(0, 3, 9);
        assert_eq!(cells.of(0, 3), None);
    }

    #[test]
    fn a_shift_moves_positions_and_a_fork_shares_them() {
        let mut cells = Cells::default();
        for p in 0..6 {
            cells.place(0, p, p);
        }
        // 1 and 2 were removed, what follows moves up
        cells.shift(&[0, -100, -100, -2, -2, -2]);
        assert_eq!(cells.of(0, 3), Some(&[0, 3, 4, 5][..]));
        cells.fork(1, 0, 1);
        cells.place(1, 2, 7);
        assert_eq!(cells.of(1, 2), Some(&[0, 3, 7][..]));
    }

    #[test]
    fn numbers_that_make_no_sense_make_no_table() {
        let mut cells = Cells::default();
        for (position, cell) in [(-1, 0), (0, -1), (i64::MAX, 0), (0, i64::MAX), (LIMIT, 0)] {
            cells.place(0, position, cell);
        }
        assert_eq!((cells.last(0), cells.unused()), (-1, 0));
    }
}
