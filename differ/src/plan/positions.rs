//! Alignment, a token at a time: records pair within one position, so that no position need wait for another.

use super::folding::Folding;
use crate::records::Records;
use bitnet_trace_schema::{StageGraph, Text};
use std::collections::HashMap;
use std::ops::Range;

/// A row of a run, with what its order and its visit follow from.
#[derive(Clone, Copy)]
struct Row {
    row: usize,
    place: u32,
    op_index: i64,
    pass: i32,
    occurrence: i32,
    visit: u32,
}

impl Row {
    /// The order in which records of the same key are counted.
    fn order_of_visits(&self) -> (i32, i32, i64, usize) {
        (self.pass, self.occurrence, self.op_index, self.row)
    }

    /// The order of execution at one position.
    fn order(&self) -> (i64, i32, i32, u32) {
        (self.op_index, self.pass, self.occurrence, self.visit)
    }
}

/// What stands in one place of a position.
#[derive(Clone, Copy)]
struct Entry {
    place: u32,
    visit: u32,
    /// Where its rows begin in the table of rows.
    rows: usize,
}

/// What stands at one position, in causal order.
pub(super) struct Position<'a, 'p> {
    pub request: i32,
    pub seq: i64,
    /// Layers and stages that were met so far, by number.
    pub places: &'p [(i32, &'a Text)],
    /// Whether it was aligned as the one before.
    pub is_as_before: bool,
    runs: usize,
    entries: &'p [Entry],
    rows: &'p [Option<usize>],
    bases: &'p [usize],
}

impl<'p> Position<'_, 'p> {
    /// Number of the place, visit, and the row in each run that has one.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (u32, u32, impl Iterator<Item = Option<usize>> + use<'p>)> {
        let Self {
            runs, rows, bases, ..
        } = *self;
        self.entries.iter().map(move |e| {
            let of_entry = rows[e.rows..e.rows + runs].iter().zip(bases);
            (
                e.place,
                e.visit,
                of_entry.map(|(row, base)| row.map(|row| base + row)),
            )
        })
    }
}

/// Layers and stages, numbered as they are met.
struct Places<'a> {
    all: Vec<(i32, &'a Text)>,
    numbers: HashMap<(i32, &'a Text), u32, Folding>,
}

impl<'a> Places<'a> {
    fn number(&mut self, layer: i32, stage: &'a Text) -> u32 {
        *self.numbers.entry((layer, stage)).or_insert_with(|| {
            self.all.push((layer, stage));
            (self.all.len() - 1) as u32
        })
    }
}

/// The positions of several runs, in causal order, aligned as they are asked for.
///
/// The order at a position is that of the first run; the others' own records are placed by the vocabulary.
pub(super) struct Positions<'a> {
    runs: Vec<Run<'a>>,
    graph: &'a StageGraph,
    places: Places<'a>,
    /// What follows is of the position that was aligned last; rows are counted from the first that each run has there.
    entries: Vec<Entry>,
    rows: Vec<Option<usize>>,
    bases: Vec<usize>,
    known: HashMap<(u32, u32), usize, Folding>,
}

/// A run, and how far it was read.
struct Run<'a> {
    records: &'a dyn Records,
    /// The rows by request and position, where they do not stand so.
    order: Option<Vec<usize>>,
    next: usize,
    /// The rows of the position, in the order of execution.
    rows: Vec<Row>,
    visits: HashMap<u32, u32, Folding>,
    /// The places of the position that was aligned last, as their part numbers them, if all of the alignment follows from them.
    before: Option<(u32, &'a [u32])>,
}

impl<'a> Positions<'a> {
    pub(super) fn new(runs: &[&'a dyn Records], graph: &'a StageGraph) -> Self {
        let hasher = Folding::new();
        Self {
            runs: runs.iter().map(|records| Run::new(*records, hasher)).collect(),
            graph,
            places: Places {
                all: Vec::new(),
                numbers: HashMap::with_hasher(hasher),
            },
            entries: Vec::new(),
            rows: Vec::new(),
            bases: Vec::new(),
            known: HashMap::with_hasher(hasher),
        }
    }

    /// Layers and stages that were met so far, by number.
    pub(super) fn places(&self) -> &[(i32, &'a Text)] {
        &self.places.all
    }

    /// Records that were not read yet, of the run that has most of them.
    pub(super) fn left(&self) -> usize {
        let left = self.runs.iter().map(|run| run.records.len() - run.next);
        left.max().unwrap_or(0)
    }

    /// The next position.
    pub(super) fn next(&mut self) -> Option<Position<'a, '_>> {
        let (request, seq) = self.runs.iter().filter_map(Run::head).min()?;
        let ranges: Vec<Range<usize>> = self.runs.iter().map(|run| run.range((request, seq))).collect();
        let is_as_before = self
            .runs
            .iter()
            .zip(&ranges)
            .all(|(run, range)| run.is_as_before(range));
        self.bases.clear();
        self.bases
            .extend(self.runs.iter().zip(&ranges).map(|(run, range)| run.base(range)));
        if !is_as_before {
            for (run, range) in self.runs.iter_mut().zip(&ranges) {
                run.read(range.clone(), &mut self.places);
            }
            self.align();
        }
        for (run, range) in self.runs.iter_mut().zip(ranges) {
            run.next = range.end;
        }
        Some(Position {
            request,
            seq,
            places: &self.places.all,
            is_as_before,
            runs: self.runs.len(),
            entries: &self.entries,
            rows: &self.rows,
            bases: &self.bases,
        })
    }

    fn align(&mut self) {
        let runs = self.runs.len();
        self.entries.clear();
        self.rows.clear();
        self.known.clear();
        for run in 0..runs {
            let start = self.entries.len();
            let mut extra = Vec::new(); // the entry before each that is new, in this run
            let mut before = None;
            for row in &self.runs[run].rows {
                let at = *self.known.entry((row.place, row.visit)).or_insert_with(|| {
                    extra.push(before);
                    self.entries.push(Entry {
                        place: row.place,
                        visit: row.visit,
                        rows: self.rows.len(),
                    });
                    self.rows.extend(std::iter::repeat_n(None, runs));
                    self.entries.len() - 1
                });
                self.rows[self.entries[at].rows + run] = Some(row.row - self.bases[run]);
                before = Some(at);
            }
            if run > 0 && !extra.is_empty() {
                let order = merged(&self.entries, start, &extra, self.graph, &self.places.all);
                self.entries = order.iter().map(|&old| self.entries[old]).collect();
                // The map holds places in the old order.
                let mut moved = vec![0; order.len()];
                for (new, &old) in order.iter().enumerate() {
                    moved[old] = new;
                }
                self.known.values_mut().for_each(|at| *at = moved[*at]);
            }
        }
    }
}

impl<'a> Run<'a> {
    fn new(records: &'a dyn Records, hasher: Folding) -> Self {
        let order = (!records.is_by_position()).then(|| {
            let position = |&row: &usize| {
                let at = records.standing(row);
                (at.request, at.seq)
            };
            let mut order: Vec<_> = (0..records.len()).collect();
            order.sort_by_cached_key(position);
            order
        });
        Self {
            records,
            order,
            next: 0,
            rows: Vec::new(),
            visits: HashMap::with_hasher(hasher),
            before: None,
        }
    }

    /// Request and seq of the next row.
    fn head(&self) -> Option<(i32, i64)> {
        if self.next == self.records.len() {
            return None;
        }
        Some(match &self.order {
            None => {
                let at = self.records.position(self.next);
                (at.request, at.seq)
            }
            Some(order) => position_of(self.records, order[self.next]),
        })
    }

    /// The next rows as far as they are of this position, in the order of positions.
    fn range(&self, position: (i32, i64)) -> Range<usize> {
        if self.head() != Some(position) {
            return self.next..self.next;
        }
        let end = match &self.order {
            None => self.records.position(self.next).end,
            Some(order) => {
                let of_position = |&&row: &&usize| position_of(self.records, row) == position;
                self.next + order[self.next..].iter().take_while(of_position).count()
            }
        };
        self.next..end
    }

    /// What rows of the position are counted from.
    fn base(&self, range: &Range<usize>) -> usize {
        if self.order.is_some() { 0 } else { range.start }
    }

    /// Places of these rows in their order, and which part numbers them so, where the run keeps them as a column.
    fn places(&self, rows: &Range<usize>) -> Option<(u32, &'a [u32])> {
        match (&self.order, rows.is_empty()) {
            (Some(_), _) => None,
            (None, true) => Some((0, &[])),
            (None, false) => {
                let columns = self.records.columns(rows.clone())?;
                Some((columns.part, columns.places))
            }
        }
    }

    /// Whether these rows are aligned as those of the position before.
    fn is_as_before(&self, rows: &Range<usize>) -> bool {
        self.before.is_some() && self.places(rows) == self.before
    }

    /// Reads the rows of a position.
    fn read(&mut self, range: Range<usize>, places: &mut Places<'a>) {
        self.rows.clear();
        for at in range.clone() {
            let row = self.order.as_ref().map_or(at, |order| order[at]);
            let of = self.records.standing(row);
            self.rows.push(Row {
                row,
                place: places.number(of.layer, of.stage),
                op_index: of.op_index,
                pass: of.pass,
                occurrence: of.occurrence,
                visit: 0,
            });
        }
        if !self.rows.is_sorted_by_key(Row::order_of_visits) {
            self.rows.sort_by_key(Row::order_of_visits);
        }
        self.visits.clear();
        for row in &mut self.rows {
            let visits = self.visits.entry(row.place).or_default();
            row.visit = *visits;
            *visits += 1;
        }
        if !self.rows.is_sorted_by_key(Row::order) {
            self.rows.sort_by_key(Row::order);
        }
        // Where each place was visited once, the order of execution is that in which the run has the rows, and all
        // follows from their places.
        let once = self.rows.iter().all(|row| row.visit == 0);
        self.before = self.places(&range).filter(|_| once);
    }
}

fn position_of(records: &dyn Records, row: usize) -> (i32, i64) {
    let at = records.standing(row);
    (at.request, at.seq)
}

/// The order of `entries` in which those from `base` on are where they belong; `before` has the one before each in
/// its own run.
fn merged(
    entries: &[Entry],
    base: usize,
    before: &[Option<usize>],
    graph: &StageGraph,
    places: &[(i32, &Text)],
) -> Vec<usize> {
    let rank = |entry: &Entry| {
        let (layer, stage) = places[entry.place as usize];
        Some((entry.visit, graph.place(stage, layer)?))
    };
    // The largest vocabulary place so far makes the entries searchable.
    let mut ranks: Vec<Rank> = Vec::with_capacity(base);
    for entry in &entries[..base] {
        let so_far = ranks.last().copied().unwrap_or_default();
        ranks.push(rank(entry).map_or(so_far, |r| r.max(so_far)));
    }
    let mut slots = vec![0; before.len()];
    // (where to insert, entry), in the order of arrival
    let mut inserts: Vec<(usize, usize)> = Vec::with_capacity(before.len());
    for (i, &before) in before.iter().enumerate() {
        slots[i] = match (rank(&entries[base + i]), before) {
            (Some(rank), _) => ranks.partition_point(|&r| r <= rank),
            // A stage of nobody's vocabulary: after the record before it.
            (None, Some(b)) => b.checked_sub(base).map_or(b + 1, |i| slots[i]),
            (None, None) => 0,
        };
        inserts.push((slots[i], base + i));
    }
    inserts.sort_unstable();
    let mut order = Vec::with_capacity(entries.len());
    let mut at = 0;
    for (slot, entry) in inserts {
        order.extend(at..slot);
        at = slot;
        order.push(entry);
    }
    order.extend(at..base);
    order
}

/// Visit, and place among the records of the token.
type Rank = (u32, bitnet_trace_schema::Place);
