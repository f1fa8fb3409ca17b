//! The records of a run, as they are read.

use crate::meta::{Meta, Standing};
use crate::packed::{Order, PartRows};
use crate::records::Row;
use bitnet_trace_schema::DType;

/// The records of a run, or some of them, ordered by request, seq, op_index, pass and occurrence: a hundred bytes or so
/// each, which are made into a [`Meta`] when they are asked for.
#[derive(Debug)]
pub struct Rows {
    parts: Vec<PartRows>,
    /// Which part and which of its rows, where these are not those of one part as they stand.
    order: Option<Vec<(u32, u32)>>,
}

/// Where the elements of a record are, and of which type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Number of the part that holds the record.
    pub part: u32,
    /// Row in the part, from 0.
    pub part_row: u64,
    /// Element type before any conversion.
    pub dtype: DType,
    /// Byte offset of the f32 values in the part, and their number; `None` where no values are kept.
    pub values: Option<(u64, u64)>,
    /// Length of the original bytes; `None` where they are not kept.
    pub raw_bytes: Option<u64>,
}

impl At {
    /// Whether the run keeps the record's elements (as values or as original bytes), and not statistics only.
    pub fn has_elements(&self) -> bool {
        self.values.is_some() || self.raw_bytes.is_some()
    }
}

impl Rows {
    /// The rows of these parts.
    pub(crate) fn new(parts: Vec<PartRows>) -> Self {
        let is_in_order = |part: &PartRows| (0..part.len()).is_sorted_by_key(|row| part.order(row));
        let mut rows = Self { parts, order: None };
        if rows.parts.len() == 1 && rows.parts.iter().all(is_in_order) {
            return rows;
        }
        let mut order: Vec<(Order, u32, u32)> =
            Vec::with_capacity(rows.parts.iter().map(PartRows::len).sum());
        for (part, number) in rows.parts.iter().zip(0..) {
            order.extend(
                (0..part.len())
                    .zip(0..)
                    .map(|(row, n)| (part.order(row), number, n)),
            );
        }
        // Of one key, the order is that of the parts, and then of their rows.
        let key = |&((request, seq, op_index, pass, occurrence, row), part, _): &(Order, u32, u32)| {
            (request, seq, op_index, pass, occurrence, part, row)
        };
        if !order.is_sorted_by_key(key) {
            order.sort_unstable_by_key(key);
        }
        rows.order = Some(order.into_iter().map(|(_, part, row)| (part, row)).collect());
        rows
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        match &self.order {
            Some(order) => order.len(),
            None => self.parts.iter().map(PartRows::len).sum(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scalar columns of record `row`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn meta(&self, row: usize) -> Meta<'_> {
        let (part, row) = self.place(row);
        part.meta(row)
    }

    /// Where record `row` stands among the others.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn standing(&self, row: usize) -> Standing<'_> {
        let (part, row) = self.place(row);
        part.standing(row)
    }

    /// Number of elements of record `row`.
    ///
    /// # Panics
    /// If there are not so many records.
    pub fn num_elements(&self, row: usize) -> i64 {
        let (part, row) = self.place(row);
        part.num_elements(row)
    }

    /// Where the elements of record `row` are.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn at(&self, row: usize) -> At {
        let (part, row) = self.place(row);
        part.at(row)
    }

    /// Copies of all of them, in order.
    pub fn to_vec(&self) -> Vec<Row> {
        (0..self.len()).map(|row| Row::of(self, row)).collect()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Meta<'_>> {
        (0..self.len()).map(|row| self.meta(row))
    }

    /// Keeps those that `keep` takes.
    pub fn retain(&mut self, mut keep: impl FnMut(Meta<'_>) -> bool) {
        let of_one = |row| (0, row as u32);
        let kept: Vec<_> = (0..self.len())
            .filter(|&row| keep(self.meta(row)))
            .map(|row| {
                self.order
                    .as_ref()
                    .map_or_else(|| of_one(row), |order| order[row])
            })
            .collect();
        if kept.len() < self.len() {
            self.order = Some(kept);
        }
    }

    fn place(&self, row: usize) -> (&PartRows, usize) {
        match &self.order {
            Some(order) => (&self.parts[order[row].0 as usize], order[row].1 as usize),
            None => (&self.parts[0], row),
        }
    }
}
