//! Counts how often each key was seen, in little memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// Visits of the keys (request, layer, stage, seq).
///
/// Engines walk through positions one after the other, so positions that were seen equally often stand in a
/// few ranges: an engine that never says where a forward call begins takes a range a key, however long
/// it runs, and not an entry a record. Only positions in no order take one each.
#[derive(Debug, Default)]
pub(crate) struct Visits(HashMap<(i32, i32, u32), Seen>);

/// The visits of a key.
#[derive(Debug)]
enum Seen {
    /// Positions from the first to the last, once each. No memory is taken for what most keys need.
    Once(i64, i64),
    Often(Ranges),
}

/// First position of a range, and (its last position, the count of each). Ranges don't overlap, and
/// neighbours that touch have other counts.
type Ranges = BTreeMap<i64, (i64, i32)>;

impl Visits {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How often the key was seen before; counts this visit.
    pub fn visit(&mut self, request: i32, layer: i32, stage: u32, seq: i64) -> i32 {
        let seen = match self.0.entry((request, layer, stage)) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Seen::Once(seq, seq));
                return 0;
            }
        };
        match seen {
            Seen::Once(_, last) if last.checked_add(1) == Some(seq) => {
                *last = seq;
                0
            }
            Seen::Once(first, last) => {
                let mut ranges = Ranges::from([(*first, (*last, 1))]);
                let before = visit(&mut ranges, seq);
                *seen = Seen::Often(ranges);
                before
            }
            Seen::Often(ranges) => visit(ranges, seq),
        }
    }
}

/// How often the position was seen before; counts this visit.
fn visit(ranges: &mut Ranges, seq: i64) -> i32 {
    let at = (ranges.range(..=seq).next_back()).map(|(&first, &(last, count))| (first, last, count));
    let Some((first, last, count)) = at.filter(|&(_, last, _)| seq <= last) else {
        insert(ranges, seq, 1);
        return 0;
    };
    ranges.remove(&first);
    if first < seq {
        ranges.insert(first, (seq - 1, count));
    }
    if seq < last {
        ranges.insert(seq + 1, (last, count));
    }
    insert(ranges, seq, count.saturating_add(1));
    count
}

/// Puts in a position that stands in no range, and joins it with the neighbours of the same count.
fn insert(ranges: &mut Ranges, seq: i64, count: i32) {
    let (mut first, mut last) = (seq, seq);
    if let Some(next) = seq.checked_add(1)
        && let Some(&(end, _)) = ranges.get(&next).filter(|&&(_, other)| other == count)
    {
        ranges.remove(&next);
        last = end;
    }
    if let Some((&start, &(end, other))) = ranges.range(..seq).next_back()
        && end == seq - 1
        && other == count
    {
        first = start;
    }
    ranges.insert(first, (last, count));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(visits: &Visits) -> usize {
        let of = |seen: &Seen| match seen {
            Seen::Once(..) => 1,
            Seen::Often(ranges) => ranges.len(),
        };
        visits.0.values().map(of).sum()
    }

    #[test]
    fn a_run_without_forward_calls_takes_one_range_a_key_however_long_it_is() {
        let mut visits = Visits::default();
        for seq in 0..100_000 {
            for stage in 0..3 {
                assert_eq!(visits.visit(0, 5, stage, seq), 0);
            }
        }
        assert_eq!(ranges(&visits), 3);
        for seq in 0..100_000 {
            assert_eq!(visits.visit(0, 5, 0, seq), 1, "the same prompt again");
            assert!(ranges(&visits) <= 4);
        }
    }

    proptest! {
        #[test]
        fn every_key_is_counted_whatever_the_order(seqs in proptest::collection::vec(prop_oneof![0i64..12, Just(i64::MAX), Just(i64::MAX - 1)], 0..200)) {
            let (mut visits, mut counts) = (Visits::default(), HashMap::new());
            for seq in seqs {
                let count = counts.entry(seq).or_insert(0);
                prop_assert_eq!(visits.visit(1, -1, 7, seq), *count);
                *count += 1;
            }
        }
    }
}
