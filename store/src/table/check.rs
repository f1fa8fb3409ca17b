//! Checks a table before anything in it is believed.

use super::layout::{Column, SUMMED};
use super::names::Names;
use super::read::{SMALL, Table};
use memmap2::Advice;
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// Bytes that are read at a time.
pub(super) const PIECE: usize = 2 << 20;

/// Goes once over a table from its beginning to where its checksum ends to count: sums it up and checks it, some MiB at a
/// time, so that it takes no more memory than these.
pub(super) struct Pass<'a> {
    table: &'a Table,
    hasher: XxHash3_64,
    /// Where what is not summed up yet begins; what is not mapped yet; and what is not given back yet.
    summed: usize,
    mapped: usize,
    kept: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn of(table: &'a Table) -> Self {
        Self {
            table,
            hasher: XxHash3_64::new(),
            summed: SUMMED,
            mapped: 0,
            kept: 0,
        }
    }

    /// The checksum and the names; none where something in the table leads nowhere.
    pub(super) fn check(mut self) -> Option<(u64, Names)> {
        let (layout, bytes) = (&self.table.layout, &*self.table.bytes);
        self.sum_to(layout.names.bytes().end);
        let names = Names::read(layout.names.all(bytes))?;
        self.sum_to(layout.first.bytes().end);
        let keys = layout.request.all(bytes).iter().zip(layout.seq.all(bytes));
        let firsts = layout.first.all(bytes);
        let rows = self.table.len();
        let is_covered = match firsts {
            [] => rows == 0,
            [first, .., last] => *first == 0 && (*last as usize) < rows,
            [first] => *first == 0 && rows > 0,
        };
        if !is_covered || !firsts.is_sorted_by(|a, b| a < b) || !keys.is_sorted_by(|a, b| a < b) {
            return None;
        }
        self.are_below(&layout.place, names.places.len())?;
        self.are_below(&layout.form, names.forms.len())?;
        self.are_below(&layout.label, names.labels.len())?;
        self.are_below(&layout.part_row, rows)?;
        self.sum_to(layout.odd.bytes().end);
        let odd = layout.odd.all(bytes);
        if !odd.is_sorted_by(|a, b| a < b) {
            return None;
        }
        self.are_below(&layout.odd, rows)?;
        self.sum_to(layout.summed());
        if bytes.len() > SMALL {
            self.table.give_back(self.kept, layout.summed() - self.kept);
        }
        Some((self.hasher.finish(), names))
    }

    /// Checks that all numbers of a column are below `limit`.
    fn are_below(&mut self, column: &'a Column<u32>, limit: usize) -> Option<()> {
        let mut end = column.bytes().start;
        for some in column.all(&self.table.bytes).chunks(PIECE / size_of::<u32>()) {
            end += size_of_val(some);
            self.sum_to(end);
            let largest = some.iter().copied().max()?;
            ((largest as usize) < limit).then_some(())?;
        }
        Some(())
    }

    /// Sums up what comes before `end`.
    fn sum_to(&mut self, end: usize) {
        while self.summed < end {
            let next = (self.summed / PIECE + 1)
                .saturating_mul(PIECE)
                .min(self.table.layout.summed());
            if self.mapped < next {
                self.map_to(next);
            }
            let to = next.min(end);
            self.hasher.write(&self.table.bytes[self.summed..to]);
            self.summed = to;
        }
    }

    /// Has what comes before `next` mapped, and gives back what comes before the last MiB of it: a column that is checked
    /// may reach so far.
    fn map_to(&mut self, next: usize) {
        if let Some(map) = &self.table.map {
            // Where it fails, reading faults as ever.
            let _ = map.advise_range(Advice::PopulateRead, self.mapped, next - self.mapped);
        }
        let done = self.mapped.saturating_sub(PIECE);
        if done > self.kept && self.table.size() > SMALL {
            self.table.give_back(self.kept, done - self.kept);
            self.kept = done;
        }
        self.mapped = next;
    }
}
