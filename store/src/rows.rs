//! The records of a run, as they are read.

use crate::meta::{Meta, Standing};
use crate::records::Row;
use crate::table::{SMALL, Table};
use bitnet_trace_schema::{DType, Text};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;

/// The records of a run, or some of them, ordered by request, seq, op_index, pass and occurrence: read where their tables
/// are mapped, and made into a [`Meta`] when they are asked for.
///
/// Of one key, the order is that of the parts, and then of their rows.
#[derive(Debug)]
pub struct Rows {
    tables: Vec<Arc<Table>>,
    /// In order; none is empty, and none goes on where the one before ends.
    spans: Vec<Span>,
    len: usize,
}

/// Rows that stand one after another in one part.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// The first of them among all.
    start: usize,
    /// Index of the part.
    part: u32,
    /// The first of them in the part's table.
    first: u32,
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

/// Where records stand that have request and seq in common: they follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which sequence of a batch; 0 where there is one.
    pub request: i32,
    /// Token position in its sequence, from 0.
    pub seq: i64,
    /// The first row of the next position; the number of rows behind the last one.
    pub end: usize,
}

/// What is first asked of rows that stand one after another in one part: a slice of each column.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// Number of the part.
    pub part: u32,
    /// Numbers that stand for layer and stage, each for another pair; another part has other numbers.
    pub places: &'a [u32],
    /// The beginnings of their hashes, as [`Rows::hash_start`].
    pub hash_starts: &'a [u64],
    forms: &'a [u32],
    values_offsets: &'a [u64],
    table: &'a Table,
}

impl Columns<'_> {
    /// What stands for shape, dtype and numbers of elements of a row, as [`Rows::form`].
    #[inline]
    pub fn form(&self, row: usize) -> u64 {
        form(self.part, self.forms[row])
    }

    /// Byte offset of the f32 values of a row in the part, and their number; `None` where no values are kept.
    #[inline]
    pub fn values(&self, row: usize) -> Option<(u64, u64)> {
        let form = &self.table.forms()[self.forms[row] as usize];
        Some((self.values_offsets[row], form.values_count?))
    }
}

/// A form of one part, among those of all.
#[inline]
fn form(part: u32, form: u32) -> u64 {
    u64::from(part) << 32 | u64::from(form)
}

impl Rows {
    /// The rows of these parts.
    pub(crate) fn new(tables: Vec<Arc<Table>>) -> Self {
        let mut all = Spans::default();
        match &*tables {
            [table] => all.push(0, 0, table.len()),
            tables => merge(tables, &mut all),
        }
        let Spans { spans, len } = all;
        Self { tables, spans, len }
    }

    /// Number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The scalar columns of record `row`.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn meta(&self, row: usize) -> Meta<'_> {
        let (table, row) = self.find(row);
        table.meta(row)
    }

    /// Where record `row` stands among the others.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn standing(&self, row: usize) -> Standing<'_> {
        let (table, row) = self.find(row);
        table.standing(row)
    }

    /// Number of elements of record `row`.
    ///
    /// # Panics
    /// If there are not so many records.
    #[inline]
    pub fn num_elements(&self, row: usize) -> i64 {
        let (table, row) = self.find(row);
        table.num_elements(row)
    }

    /// Where the elements of record `row` are.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn at(&self, row: usize) -> At {
        let (table, row) = self.find(row);
        table.at(row)
    }

    /// What stands for shape, dtype and numbers of elements of record `row`: rows of the same number are alike in these.
    ///
    /// # Panics
    /// If there are not so many records.
    #[inline]
    pub fn form(&self, row: usize) -> u64 {
        let (table, row) = self.find(row);
        form(table.part(), table.form_number(row))
    }

    /// BLAKE3 of the original bytes of record `row`; none in an imported run that does not know it, and where the part's row
    /// table was spoiled and the part cannot be read any more.
    ///
    /// # Panics
    /// If there are not so many records.
    #[inline]
    pub fn hash(&self, row: usize) -> Option<&[u8; 32]> {
        let (table, row) = self.find(row);
        table.hash(row)
    }

    /// The first 8 bytes of that, as a little-endian number, which costs less to read; zero where it is not known.
    ///
    /// # Panics
    /// If there are not so many records.
    #[inline]
    pub fn hash_start(&self, row: usize) -> u64 {
        let (table, row) = self.find(row);
        table.hash_start(row)
    }

    /// Whether there are NaN among the elements of record `row`.
    ///
    /// # Panics
    /// If there are not so many records.
    #[inline]
    pub fn has_nan(&self, row: usize) -> bool {
        let (table, row) = self.find(row);
        table.has_nan(row)
    }

    /// Distinct (layer, stage) of the parts' rows, sorted, each once; after [`Rows::retain`] also those of which no row was
    /// kept.
    pub fn places(&self) -> impl Iterator<Item = (i32, &Text)> {
        let all = self.tables.iter().flat_map(|table| table.places());
        let all: BTreeSet<(i32, &Text)> = all.map(|(layer, stage)| (*layer, stage)).collect();
        all.into_iter()
    }

    /// Element types of the records, before any conversion.
    pub fn dtypes(&self) -> BTreeSet<DType> {
        let mut used: Vec<Vec<bool>> = self.tables.iter().map(|t| vec![false; t.forms().len()]).collect();
        for (at, span) in self.spans.iter().enumerate() {
            let (table, used) = (&self.tables[span.part as usize], &mut used[span.part as usize]);
            let rows = self.end(at) - span.start;
            if rows == table.len() {
                // Each form is that of some row.
                used.fill(true);
                continue;
            }
            let first = span.first as usize;
            for &form in &table.form_column()[first..first + rows] {
                used[form as usize] = true;
            }
        }
        let forms = self.tables.iter().flat_map(|table| table.forms());
        let used = forms.zip(used.iter().flatten()).filter(|(_, used)| **used);
        used.map(|(form, _)| form.dtype).collect()
    }

    /// Where `row` stands: request, seq, and the first row of the next position, of the rows that are kept.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn position(&self, row: usize) -> Position {
        let mut at = self.span_at(row);
        let mut position = self.position_in(at, row);
        let (request, seq) = (position.request, position.seq);
        // Where a span ends within the position, the next one may go on with it.
        while position.end == self.end(at) && at + 1 < self.spans.len() {
            at += 1;
            let next = self.position_in(at, self.spans[at].start);
            if (next.request, next.seq) != (request, seq) {
                break;
            }
            position = next;
        }
        position
    }

    /// Where `row` of the span `at` stands; it ends with the span, if not before.
    fn position_in(&self, at: usize, row: usize) -> Position {
        let span = &self.spans[at];
        let table = &self.tables[span.part as usize];
        let first = span.first as usize;
        let position = table.position(table.position_of(first + (row - span.start)));
        Position {
            request: position.request,
            seq: position.seq,
            end: (span.start + (position.end - first)).min(self.end(at)),
        }
    }

    /// The columns of these rows where they stand one after another in one part; none elsewhere, and of no rows.
    pub fn columns(&self, rows: Range<usize>) -> Option<Columns<'_>> {
        if rows.is_empty() || rows.end > self.len {
            return None;
        }
        let at = self.span_at(rows.start);
        let span = &self.spans[at];
        if rows.end > self.end(at) {
            return None;
        }
        let table = &self.tables[span.part as usize];
        let first = span.first as usize + (rows.start - span.start);
        let of = first..first + rows.len();
        Some(Columns {
            part: table.part(),
            places: &table.place_column()[of.clone()],
            hash_starts: &table.hash_start_column()[of.clone()],
            forms: &table.form_column()[of.clone()],
            values_offsets: &table.values_offset_column()[of],
            table,
        })
    }

    /// Gives back the pages of the tables, if these are not small: they are read again when they are touched.
    pub fn release(&self) {
        if self.tables.iter().map(|table| table.size()).sum::<usize>() > SMALL {
            self.tables.iter().for_each(|table| table.release());
        }
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
        let mut kept = Spans::default();
        for (at, span) in self.spans.iter().enumerate() {
            let table = &self.tables[span.part as usize];
            let first = span.first as usize;
            for row in first..first + (self.end(at) - span.start) {
                if keep(table.meta(row)) {
                    kept.push(span.part, row, 1);
                }
            }
        }
        (self.spans, self.len) = (kept.spans, kept.len);
    }

    /// The row behind the last one of the span `at`.
    #[inline]
    fn end(&self, at: usize) -> usize {
        self.spans.get(at + 1).map_or(self.len, |next| next.start)
    }

    /// Which span `row` is in.
    #[inline]
    fn span_at(&self, row: usize) -> usize {
        assert!(row < self.len, "there are {} rows, and no row {row}", self.len);
        match self.spans.len() {
            1 => 0,
            _ => self.spans.partition_point(|span| span.start <= row) - 1,
        }
    }

    /// The span that `row` is in, and its row in the part's table.
    #[inline]
    fn span(&self, row: usize) -> (&Span, usize) {
        let span = &self.spans[self.span_at(row)];
        (span, span.first as usize + (row - span.start))
    }

    #[inline]
    fn find(&self, row: usize) -> (&Table, usize) {
        let (span, row) = self.span(row);
        (&self.tables[span.part as usize], row)
    }
}

/// Spans as they are put together.
#[derive(Default)]
struct Spans {
    spans: Vec<Span>,
    len: usize,
}

impl Spans {
    /// Adds rows of a part.
    fn push(&mut self, part: u32, first: usize, count: usize) {
        let goes_on = self
            .spans
            .last()
            .is_some_and(|last| last.part == part && last.first as usize + (self.len - last.start) == first);
        if count > 0 && !goes_on {
            // A part has no more rows than that.
            let first = first as u32;
            let start = self.len;
            self.spans.push(Span { start, part, first });
        }
        self.len += count;
    }
}

/// The rows of several parts. Most positions are of one part, whose rows are in order there.
fn merge(tables: &[Arc<Table>], all: &mut Spans) {
    let position = |part: u32, at: usize| {
        let table = &tables[part as usize];
        let position = (at < table.positions()).then(|| table.position(at))?;
        Some(Reverse((position.request, position.seq, part, at)))
    };
    let rows = |part: u32, at: usize| {
        let table = &tables[part as usize];
        let first = at.checked_sub(1).map_or(0, |before| table.position(before).end);
        first..table.position(at).end
    };
    let mut next: BinaryHeap<_> = (0..)
        .zip(tables)
        .filter_map(|(part, _)| position(part, 0))
        .collect();
    let mut here: Vec<(u32, usize)> = Vec::new();
    let mut single = Vec::new();
    while let Some(Reverse((request, seq, part, at))) = next.pop() {
        here.clear();
        here.push((part, at));
        next.extend(position(part, at + 1));
        while let Some(&Reverse((r, s, part, at))) = next.peek()
            && (r, s) == (request, seq)
        {
            next.pop();
            here.push((part, at));
            next.extend(position(part, at + 1));
        }
        if let [(part, at)] = *here {
            let rows = rows(part, at);
            all.push(part, rows.start, rows.len());
            continue;
        }
        single.clear();
        for &(part, at) in &here {
            let table = &tables[part as usize];
            single.extend(rows(part, at).map(|row| (table.order(row), part, row)));
        }
        single.sort_unstable();
        single.iter().for_each(|&(_, part, row)| all.push(part, row, 1));
    }
}

#[cfg(test)]
mod tests;
