//! Packs the rows of a part into a table.

use super::bytes_of;
use super::layout::{Buffer, Head, Layout, MAGIC, SUMMED, VERSION};
use super::names::{Form, Label, Names};
use crate::StoreError;
use crate::scan::PartStat;
use bitnet_trace_schema::{RecordMeta, Stats, Text, part};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::path::Path;

/// Flags of a row: the first five say which moments there are.
pub(super) const HASHED: u32 = 1 << 5;
/// There are NaN among its elements.
pub(super) const NAN: u32 = 1 << 6;
/// There are NaN or infinities among its elements.
pub(super) const ODD: u32 = 1 << 7;

/// Most rows of a part.
const MOST_ROWS: u64 = u32::MAX as u64;

/// What is a row's own.
struct Row {
    request: i32,
    pass: i32,
    occurrence: i32,
    part_row: u32,
    seq: i64,
    op_index: i64,
    place: u32,
    form: u32,
    label: u32,
    flags: u32,
    values_offset: u64,
    hash: [u8; 32],
    moments: [f64; 5],
    odd: [u64; 2],
}

impl Row {
    fn position(&self) -> (i32, i64) {
        (self.request, self.seq)
    }

    fn order(&self) -> (i32, i64, i64, i32, i32, u32) {
        let (request, seq) = self.position();
        (
            request,
            seq,
            self.op_index,
            self.pass,
            self.occurrence,
            self.part_row,
        )
    }
}

/// Takes the rows of a part, and makes a table of them.
pub(crate) struct Packer {
    rows: Vec<Row>,
    places: BTreeMap<(i32, Text), u32>,
    labels: HashMap<Label, u32>,
    forms: HashMap<Form, u32>,
}

impl Packer {
    /// No rows yet, of `rows` that the part `path` has.
    ///
    /// # Errors
    /// [`StoreError::TooManyRows`].
    pub(crate) fn new(rows: u64, path: &Path) -> Result<Self, StoreError> {
        if rows > MOST_ROWS {
            return Err(StoreError::TooManyRows {
                path: path.into(),
                rows,
                limit: MOST_ROWS,
            });
        }
        Ok(Self {
            rows: Vec::new(),
            places: BTreeMap::new(),
            labels: HashMap::new(),
            forms: HashMap::new(),
        })
    }

    /// Takes a row, whose number is at most [`MOST_ROWS`].
    pub(crate) fn push(&mut self, part_row: u64, meta: &RecordMeta, place: part::Place) {
        let form = Form {
            shape: meta.shape.clone(),
            dtype: meta.dtype,
            num_elements: meta.num_elements,
            values_count: place.values.map(|(_, count)| count),
            raw_bytes: place.raw_bytes,
        };
        let label = Label {
            name: meta.name.clone(),
            op: meta.op.clone(),
        };
        let next = self.places.len() as u32;
        let of = (meta.layer, meta.stage.clone());
        let Stats {
            nan_count, inf_count, ..
        } = meta.stats;
        let (flags, moments) = moments(&meta.stats);
        let hash = bytes_of(&meta.blake3);
        self.rows.push(Row {
            request: meta.request,
            pass: meta.pass,
            occurrence: meta.occurrence,
            part_row: part_row as u32,
            seq: meta.seq,
            op_index: meta.op_index,
            place: *self.places.entry(of).or_insert(next),
            form: number(&mut self.forms, form),
            label: number(&mut self.labels, label),
            flags: flags
                | if hash.is_some() { HASHED } else { 0 }
                | if nan_count > 0 { NAN } else { 0 }
                | if nan_count > 0 || inf_count > 0 { ODD } else { 0 },
            values_offset: place.values.map_or(0, |(offset, _)| offset),
            hash: hash.unwrap_or_default(),
            moments,
            odd: [nan_count, inf_count],
        });
    }

    /// The table of a part in this state.
    pub(crate) fn finish(mut self, stat: &PartStat) -> Buffer {
        self.rows.sort_unstable_by_key(Row::order);
        let mut ranks = vec![0; self.places.len()];
        for (rank, &number) in (0..).zip(self.places.values()) {
            ranks[number as usize] = rank;
        }
        let rows = &self.rows;
        let is_first = |row: &usize| *row == 0 || rows[row - 1].position() != rows[*row].position();
        let firsts: Vec<usize> = (0..rows.len()).filter(is_first).collect();
        let names = Names {
            places: self.places.into_keys().collect(),
            labels: in_order(self.labels),
            forms: in_order(self.forms),
        };
        let names = names.write();
        let odd = || (0..).zip(rows).filter(|(_, row)| row.flags & ODD != 0);
        let head = Head::new(stat, rows.len(), firsts.len(), names.len(), odd().count());
        // The rows are in memory, and take more of it than the table does.
        let Some(layout) = Layout::of(&head) else {
            return Buffer::zeros(0);
        };
        let mut buffer = Buffer::zeros(layout.length);
        let table = buffer.bytes_mut();
        layout.head.fill(table, std::iter::once(head.words()));
        layout.names.fill(table, names.into_iter());
        let first = || firsts.iter().map(|&row| &rows[row]);
        layout.request.fill(table, first().map(|row| row.request));
        layout.seq.fill(table, first().map(|row| row.seq));
        layout.first.fill(table, firsts.iter().map(|&row| row as u32));
        let each = || rows.iter();
        layout
            .place
            .fill(table, each().map(|row| ranks[row.place as usize]));
        layout.form.fill(table, each().map(|row| row.form));
        layout.label.fill(table, each().map(|row| row.label));
        layout.part_row.fill(table, each().map(|row| row.part_row));
        layout.pass.fill(table, each().map(|row| row.pass));
        layout.occurrence.fill(table, each().map(|row| row.occurrence));
        layout.op_index.fill(table, each().map(|row| row.op_index));
        layout
            .values_offset
            .fill(table, each().map(|row| row.values_offset));
        layout.flags.fill(table, each().map(|row| row.flags));
        layout
            .hash_start
            .fill(table, each().map(|row| hash_start(&row.hash)));
        layout.odd.fill(table, odd().map(|(at, _)| at));
        layout.odd_counts.fill(table, odd().map(|(_, row)| row.odd));
        layout.hash.fill(table, each().map(|row| row.hash));
        layout.moments.fill(table, each().map(|row| row.moments));
        let summed = layout.summed();
        let checksum = twox_hash::XxHash3_64::oneshot(&table[SUMMED..summed]);
        let preamble = [MAGIC, VERSION, layout.length as u64, summed as u64, checksum];
        layout.preamble.fill(table, std::iter::once(preamble));
        buffer
    }
}

/// The beginning of a hash; zero where there is none.
fn hash_start(hash: &[u8; 32]) -> u64 {
    hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Which moments there are, as flags, and what they are.
fn moments(stats: &Stats) -> (u32, [f64; 5]) {
    let moments = [stats.rms, stats.mean, stats.min, stats.max, stats.abs_max];
    let there = (0..).zip(moments.iter().map(Option::is_some));
    let flags = there.fold(0, |flags, (bit, is)| flags | u32::from(is) << bit);
    (flags, moments.map(Option::unwrap_or_default))
}

/// The number of `key`, which is the next one where it is new.
fn number<K: Eq + Hash>(numbers: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = numbers.len() as u32;
    *numbers.entry(key).or_insert(next)
}

fn in_order<K>(numbers: HashMap<K, u32>) -> Vec<K> {
    let mut keys: Vec<_> = numbers.into_iter().collect();
    keys.sort_unstable_by_key(|(_, number)| *number);
    keys.into_iter().map(|(key, _)| key).collect()
}
