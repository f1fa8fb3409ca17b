//! Alignment, a token at a time: records pair within one position, so that no position need wait for another.

use super::folding::Folding;
use crate::records::Records;
use bitnet_trace_schema::{StageGraph, Text};
use bitnet_trace_store::Standing;
use std::collections::HashMap;

/// A row of a run, with what its order and its visit follow from.
#[derive(Clone, Copy)]
struct Row<'a> {
    row: usize,
    layer: i32,
    stage: &'a Text,
    op_index: i64,
    pass: i32,
    occurrence: i32,
    visit: u32,
}

impl Row<'_> {
    fn name(&self) -> (i32, &Text) {
        (self.layer, self.stage)
    }

    /// The order in which records of the same key are counted.
    fn order_of_visits(&self) -> (i32, i32, i64, usize) {
        (self.pass, self.occurrence, self.op_index, self.row)
    }

    /// The order of execution at one position.
    fn order(&self) -> (i64, i32, i32, u32) {
        (self.op_index, self.pass, self.occurrence, self.visit)
    }
}

/// A place of one position: what is there, and in which order it was met.
#[derive(Clone, Copy)]
struct Entry<'a> {
    layer: i32,
    stage: &'a Text,
    visit: u32,
    /// Where its rows begin in the table of rows.
    rows: usize,
}

/// What stands at one position, in causal order.
pub(super) struct Position<'a, 'p> {
    pub request: i32,
    pub seq: i64,
    runs: usize,
    entries: &'p [Entry<'a>],
    rows: &'p [Option<usize>],
}

impl<'a, 'p> Position<'a, 'p> {
    /// Layer, stage, visit, and the row in each run that has one.
    pub(super) fn places(&self) -> impl Iterator<Item = (i32, &'a Text, u32, &'p [Option<usize>])> {
        let (rows, runs) = (self.rows, self.runs);
        let entries = self.entries.iter();
        entries.map(move |e| (e.layer, e.stage, e.visit, &rows[e.rows..e.rows + runs]))
    }
}

/// The positions of several runs, in causal order, aligned as they are asked for.
///
/// The order at a position is that of the first run; the others' own records are placed by the vocabulary.
pub(super) struct Positions<'a> {
    runs: Vec<Run<'a>>,
    graph: &'a StageGraph,
    /// What follows is of the position that was aligned last; it is kept for its room.
    entries: Vec<Entry<'a>>,
    rows: Vec<Option<usize>>,
    known: HashMap<(i32, &'a Text, u32), usize, Folding>,
}

/// A run, and how far it was read.
struct Run<'a> {
    records: &'a dyn Records,
    /// The rows by request and position, where they do not stand so.
    order: Option<Vec<usize>>,
    next: usize,
    /// The rows of the position, in the order of execution.
    rows: Vec<Row<'a>>,
    visits: HashMap<(i32, &'a Text), u32, Folding>,
    /// Layer, stage and visit of the rows of the position before, in the order in which visits are counted.
    before: Vec<(i32, &'a Text, u32)>,
}

impl<'a> Positions<'a> {
    pub(super) fn new(runs: &[&'a dyn Records], graph: &'a StageGraph) -> Self {
        let hasher = Folding::new();
        Self {
            runs: runs.iter().map(|records| Run::new(*records, hasher)).collect(),
            graph,
            entries: Vec::new(),
            rows: Vec::new(),
            known: HashMap::with_hasher(hasher),
        }
    }

    /// Records that were not read yet, of the run that has most of them.
    pub(super) fn left(&self) -> usize {
        self.runs
            .iter()
            .map(|run| run.records.len() - run.next)
            .max()
            .unwrap_or(0)
    }

    /// The next position.
    pub(super) fn next(&mut self) -> Option<Position<'a, '_>> {
        let heads = self.runs.iter().filter_map(Run::head);
        let (request, seq) = heads.map(|(_, at)| (at.request, at.seq)).min()?;
        for run in &mut self.runs {
            run.read((request, seq));
        }
        self.align();
        Some(Position {
            request,
            seq,
            runs: self.runs.len(),
            entries: &self.entries,
            rows: &self.rows,
        })
    }

    fn align(&mut self) {
        let runs = self.runs.len();
        self.entries.clear();
        self.rows.clear();
        if self.lockstep() {
            return;
        }
        self.known.clear();
        for run in 0..runs {
            let base = self.entries.len();
            let mut extra = Vec::new(); // the entry before each that is new, in this run
            let mut before = None;
            for row in &self.runs[run].rows {
                let at = *self
                    .known
                    .entry((row.layer, row.stage, row.visit))
                    .or_insert_with(|| {
                        extra.push(before);
                        push(&mut self.entries, &mut self.rows, row, runs);
                        self.entries.len() - 1
                    });
                self.rows[self.entries[at].rows + run] = Some(row.row);
                before = Some(at);
            }
            if run > 0 && !extra.is_empty() {
                let order = merged(&self.entries, base, &extra, self.graph);
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

    /// Aligns runs that executed the same in the same order, as most do: no record need be looked for.
    fn lockstep(&mut self) -> bool {
        let Some((first, others)) = self.runs.split_first() else {
            return true;
        };
        let same = |other: &Run<'_>| {
            let pairs = first.rows.iter().zip(&other.rows);
            first.rows.len() == other.rows.len()
                && pairs
                    .into_iter()
                    .all(|(a, b)| a.visit == b.visit && a.name() == b.name())
        };
        if !others.iter().all(same) {
            return false;
        }
        for (i, row) in first.rows.iter().enumerate() {
            push(&mut self.entries, &mut self.rows, row, 0);
            self.rows.push(Some(row.row));
            self.rows
                .extend(others.iter().map(|other| Some(other.rows[i].row)));
        }
        true
    }
}

fn push<'a>(entries: &mut Vec<Entry<'a>>, rows: &mut Vec<Option<usize>>, row: &Row<'a>, runs: usize) {
    entries.push(Entry {
        layer: row.layer,
        stage: row.stage,
        visit: row.visit,
        rows: rows.len(),
    });
    rows.extend(std::iter::repeat_n(None, runs));
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
            before: Vec::new(),
        }
    }

    /// The next row.
    fn head(&self) -> Option<(usize, Standing<'a>)> {
        if self.next == self.records.len() {
            return None;
        }
        let row = self.order.as_ref().map_or(self.next, |order| order[self.next]);
        Some((row, self.records.standing(row)))
    }

    /// Reads the rows of a position, if they are the next.
    fn read(&mut self, position: (i32, i64)) {
        self.rows.clear();
        while let Some((row, at)) = self.head().filter(|(_, at)| (at.request, at.seq) == position) {
            self.rows.push(Row {
                row,
                layer: at.layer,
                stage: at.stage,
                op_index: at.op_index,
                pass: at.pass,
                occurrence: at.occurrence,
                visit: 0,
            });
            self.next += 1;
        }
        if !self.rows.is_sorted_by_key(Row::order_of_visits) {
            self.rows.sort_by_key(Row::order_of_visits);
        }
        self.count_visits();
        if !self.rows.is_sorted_by_key(Row::order) {
            self.rows.sort_by_key(Row::order);
        }
    }

    /// Counts the visits of each row. Most tokens have the records of the token before: then they have its visits.
    fn count_visits(&mut self) {
        let same = |(row, (layer, stage, _)): (&Row<'_>, &(i32, &Text, u32))| row.name() == (*layer, *stage);
        if self.rows.len() == self.before.len() && self.rows.iter().zip(&self.before).all(same) {
            for (row, (.., visit)) in self.rows.iter_mut().zip(&self.before) {
                row.visit = *visit;
            }
            return;
        }
        self.visits.clear();
        self.before.clear();
        for row in &mut self.rows {
            let visits = self.visits.entry((row.layer, row.stage)).or_default();
            row.visit = *visits;
            *visits += 1;
            self.before.push((row.layer, row.stage, row.visit));
        }
    }
}

/// The order of `entries` in which those from `base` on are where they belong; `before` has the one before each in
/// its own run.
fn merged(entries: &[Entry<'_>], base: usize, before: &[Option<usize>], graph: &StageGraph) -> Vec<usize> {
    // The largest vocabulary place so far makes the entries searchable.
    let mut ranks: Vec<Rank> = Vec::with_capacity(base);
    for entry in &entries[..base] {
        let so_far = ranks.last().copied().unwrap_or_default();
        ranks.push(rank(entry, graph).map_or(so_far, |r| r.max(so_far)));
    }
    let mut slots = vec![0; before.len()];
    // (where to insert, entry), in the order of arrival
    let mut inserts: Vec<(usize, usize)> = Vec::with_capacity(before.len());
    for (i, &before) in before.iter().enumerate() {
        slots[i] = match (rank(&entries[base + i], graph), before) {
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

fn rank(entry: &Entry<'_>, graph: &StageGraph) -> Option<Rank> {
    Some((entry.visit, graph.place(entry.stage, entry.layer)?))
}
