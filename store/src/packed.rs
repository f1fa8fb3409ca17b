//! The rows of a part as the index packs them: a few large blobs in place of a table of 26 columns, which costs a microsecond
//! a row to read.
//!
//! What many rows share (stage, name, shape, ...) is their *kind*, which is kept once; a row is [`ROW`] bytes, little-endian,
//! and is decoded where it lies whenever it is asked for. The rows of a part stand in the order of [`Rows`]. Blobs are
//! hashed: what does not match is damage to the index. Nothing in them is believed beyond that.

use crate::meta::{Meta, Rest, Standing};
use crate::rows::At;
use bitnet_trace_schema::part::Place;
use bitnet_trace_schema::{DType, RecordMeta, Stats, Text};
use std::collections::HashMap;

/// Rows of a blob, the last one of a part apart: some hundred kilobytes.
const ROWS_IN_BLOB: usize = 4096;
/// Bytes of a row.
const ROW: usize = 11 * 8 + 5 * 4 + 32;

/// A row: `seq`, `op_index`, row in the part, offset of the values, moments, counts of NaN and infinity, of 8 bytes each; kind,
/// `request`, `pass`, `occurrence`, and flags that say which moments there are and whether there is a hash, of 4 bytes
/// each; the hash.
pub(crate) type Bytes = [u8; ROW];

/// The flag of the hash, after those of the five moments.
const HASHED: u32 = 1 << 5;

/// What rows share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    layer: i32,
    stage: Text,
    name: Text,
    op: Text,
    shape: Vec<i64>,
    dtype: DType,
    num_elements: i64,
    values_count: Option<u64>,
    raw_bytes: Option<u64>,
}

/// What is a row's own.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    seq: i64,
    op_index: i64,
    part_row: u64,
    values_offset: u64,
    kind: u32,
    request: i32,
    pass: i32,
    occurrence: i32,
}

/// Request, seq, op_index, pass, occurrence and row: the order of the rows of a part.
pub(crate) type Order = (i32, i64, i64, i32, i32, u64);

impl Fixed {
    #[inline]
    fn read(row: &Bytes) -> Self {
        let (words, _) = row.as_chunks::<8>();
        Self {
            seq: i64::from_le_bytes(words[0]),
            op_index: i64::from_le_bytes(words[1]),
            part_row: u64::from_le_bytes(words[2]),
            values_offset: u64::from_le_bytes(words[3]),
            kind: half(row, 0),
            request: half(row, 1).cast_signed(),
            pass: half(row, 2).cast_signed(),
            occurrence: half(row, 3).cast_signed(),
        }
    }

    fn order(&self) -> Order {
        let Self {
            request,
            seq,
            op_index,
            pass,
            occurrence,
            part_row,
            ..
        } = *self;
        (request, seq, op_index, pass, occurrence, part_row)
    }
}

/// One of the numbers of 4 bytes.
fn half(row: &Bytes, at: usize) -> u32 {
    u32::from_le_bytes(row.as_chunks().0[22 + at])
}

/// The row's hash.
pub(crate) fn hash(row: &Bytes) -> Option<[u8; 32]> {
    let hash = row.last_chunk().copied();
    hash.filter(|_| half(row, 4) & HASHED != 0)
}

/// The row's statistics.
pub(crate) fn stats(row: &Bytes) -> Stats {
    let (words, _) = row.as_chunks::<8>();
    let flags = half(row, 4);
    let moment = |i: usize| (flags & 1 << i != 0).then(|| f64::from_le_bytes(words[4 + i]));
    Stats {
        rms: moment(0),
        mean: moment(1),
        min: moment(2),
        max: moment(3),
        abs_max: moment(4),
        nan_count: u64::from_le_bytes(words[9]),
        inf_count: u64::from_le_bytes(words[10]),
    }
}

/// The bytes of a hash in hex; none where it is empty.
pub(crate) fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}

fn write(fixed: &Fixed, stats: &Stats, hash: Option<[u8; 32]>) -> Bytes {
    let moments = [stats.rms, stats.mean, stats.min, stats.max, stats.abs_max];
    let there = moments.iter().map(Option::is_some).chain([hash.is_some()]);
    let flags = there
        .zip(0..)
        .fold(0, |flags, (is, bit)| flags | u32::from(is) << bit);
    let words = [
        fixed.seq.cast_unsigned(),
        fixed.op_index.cast_unsigned(),
        fixed.part_row,
        fixed.values_offset,
    ];
    let words = words
        .into_iter()
        .chain(moments.map(|m| m.unwrap_or(0.0).to_bits()));
    let words = words.chain([stats.nan_count, stats.inf_count]);
    let own = [fixed.request, fixed.pass, fixed.occurrence].map(i32::cast_unsigned);
    let halves = [fixed.kind, own[0], own[1], own[2], flags];
    let bytes = words.flat_map(u64::to_le_bytes);
    let bytes = bytes.chain(halves.into_iter().flat_map(u32::to_le_bytes));
    let mut row = [0; ROW];
    let all = row.iter_mut().zip(bytes.chain(hash.unwrap_or_default()));
    all.for_each(|(to, byte)| *to = byte);
    row
}

/// Packs the rows of a part.
#[derive(Default)]
pub(crate) struct Packer {
    rows: Vec<(Order, Bytes)>,
    kinds: HashMap<Kind, u32>,
}

impl Packer {
    /// Takes a row; none but the first 2³² kinds of one part can be told apart, and no part has so many rows.
    pub(crate) fn push(&mut self, part_row: u64, meta: &RecordMeta, place: Place) {
        let kind = Kind {
            layer: meta.layer,
            stage: meta.stage.clone(),
            name: meta.name.clone(),
            op: meta.op.clone(),
            shape: meta.shape.clone(),
            dtype: meta.dtype,
            num_elements: meta.num_elements,
            values_count: place.values.map(|(_, count)| count),
            raw_bytes: place.raw_bytes,
        };
        let next = self.kinds.len() as u32;
        let fixed = Fixed {
            seq: meta.seq,
            op_index: meta.op_index,
            part_row,
            values_offset: place.values.map_or(0, |(offset, _)| offset),
            kind: *self.kinds.entry(kind).or_insert(next),
            request: meta.request,
            pass: meta.pass,
            occurrence: meta.occurrence,
        };
        let row = write(&fixed, &meta.stats, bytes_of(&meta.blake3));
        self.rows.push((fixed.order(), row));
    }

    /// The blobs: kinds, then rows.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        self.rows.sort_unstable_by_key(|(order, _)| *order);
        let mut kinds: Vec<_> = self.kinds.into_iter().collect();
        kinds.sort_unstable_by_key(|(_, number)| *number);
        let kinds = write_kinds(kinds.iter().map(|(kind, _)| kind));
        let rows = self.rows.chunks(ROWS_IN_BLOB);
        let rows = rows.map(|rows| rows.iter().flat_map(|(_, row)| *row).collect());
        std::iter::once(kinds).chain(rows).collect()
    }
}

fn write_kinds<'a>(kinds: impl ExactSizeIterator<Item = &'a Kind>) -> Vec<u8> {
    let mut texts: HashMap<&'a str, u32> = HashMap::new();
    let mut of_texts = Vec::new();
    let mut of_kinds = Vec::new();
    of_kinds.extend((kinds.len() as u32).to_le_bytes());
    for kind in kinds {
        for text in [&*kind.stage, &kind.name, &kind.op, kind.dtype.name()] {
            let next = texts.len() as u32;
            let number = *texts.entry(text).or_insert_with(|| {
                of_texts.extend((text.len() as u32).to_le_bytes());
                of_texts.extend(text.as_bytes());
                next
            });
            of_kinds.extend(number.to_le_bytes());
        }
        of_kinds.extend(kind.layer.to_le_bytes());
        of_kinds.extend(kind.num_elements.to_le_bytes());
        for count in [kind.values_count, kind.raw_bytes] {
            of_kinds.push(count.is_some().into());
            of_kinds.extend(count.unwrap_or(0).to_le_bytes());
        }
        of_kinds.extend((kind.shape.len() as u32).to_le_bytes());
        of_kinds.extend(kind.shape.iter().flat_map(|dim| dim.to_le_bytes()));
    }
    let mut bytes = (texts.len() as u32).to_le_bytes().to_vec();
    bytes.append(&mut of_texts);
    bytes.append(&mut of_kinds);
    bytes
}

/// Takes a blob of kinds apart; none where it is not whole.
struct Kinds<'a>(&'a [u8]);

impl Kinds<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.take()?)).ok()
    }

    fn count(&mut self) -> Option<Option<u64>> {
        let is = self.take::<1>()?[0] != 0;
        let count = u64::from_le_bytes(self.take()?);
        Some(is.then_some(count))
    }

    fn text(&mut self) -> Option<Text> {
        let length = self.number()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.into())
    }

    fn all(mut self) -> Option<Vec<Kind>> {
        let mut texts = Vec::new();
        for _ in 0..self.number()? {
            texts.push(self.text()?);
        }
        let mut kinds = Vec::new();
        for _ in 0..self.number()? {
            let mut text = || texts.get(self.number()?).cloned();
            let (stage, name, op, dtype) = (text()?, text()?, text()?, text()?);
            let layer = i32::from_le_bytes(self.take()?);
            let num_elements = i64::from_le_bytes(self.take()?);
            let (values_count, raw_bytes) = (self.count()?, self.count()?);
            let mut shape = Vec::new();
            for _ in 0..self.number()? {
                shape.push(i64::from_le_bytes(self.take()?));
            }
            let dtype = dtype.parse().ok()?;
            kinds.push(Kind {
                layer,
                stage,
                name,
                op,
                shape,
                dtype,
                num_elements,
                values_count,
                raw_bytes,
            });
        }
        self.0.is_empty().then_some(kinds)
    }
}

/// The rows of one part.
#[derive(Debug)]
pub(crate) struct PartRows {
    /// Number of the part.
    number: u32,
    bytes: Vec<u8>,
    kinds: Vec<Kind>,
}

impl PartRows {
    /// No rows yet of the part `number`, of the kinds in this blob; none where it is not whole.
    pub(crate) fn new(number: u32, kinds: &[u8]) -> Option<Self> {
        let kinds = Kinds(kinds).all()?;
        let bytes = Vec::new();
        Some(Self { number, bytes, kinds })
    }

    /// Takes a blob of rows; none where it is not whole, or names a kind that is not there.
    pub(crate) fn push(&mut self, blob: &[u8]) -> Option<()> {
        let (rows, rest) = blob.as_chunks::<ROW>();
        let are_known = rows
            .iter()
            .all(|row| (Fixed::read(row).kind as usize) < self.kinds.len());
        (rest.is_empty() && are_known).then(|| self.bytes.extend_from_slice(blob))
    }

    fn rows(&self) -> &[Bytes] {
        self.bytes.as_chunks().0
    }

    pub(crate) fn len(&self) -> usize {
        self.rows().len()
    }

    /// The kind of a row; [`PartRows::push`] saw to it that there is one.
    fn kind(&self, row: &Fixed) -> &Kind {
        &self.kinds[row.kind as usize]
    }

    pub(crate) fn order(&self, row: usize) -> Order {
        Fixed::read(&self.rows()[row]).order()
    }

    pub(crate) fn num_elements(&self, row: usize) -> i64 {
        self.kinds[half(&self.rows()[row], 0) as usize].num_elements
    }

    pub(crate) fn meta(&self, row: usize) -> Meta<'_> {
        let bytes = &self.rows()[row];
        let row = Fixed::read(bytes);
        let kind = self.kind(&row);
        Meta {
            seq: row.seq,
            layer: kind.layer,
            stage: &kind.stage,
            name: &kind.name,
            op: &kind.op,
            op_index: row.op_index,
            request: row.request,
            pass: row.pass,
            occurrence: row.occurrence,
            shape: &kind.shape,
            dtype: kind.dtype,
            num_elements: kind.num_elements,
            rest: Rest::Packed(bytes),
        }
    }

    pub(crate) fn standing(&self, row: usize) -> Standing<'_> {
        let row = Fixed::read(&self.rows()[row]);
        let kind = self.kind(&row);
        Standing {
            request: row.request,
            seq: row.seq,
            layer: kind.layer,
            stage: &kind.stage,
            op_index: row.op_index,
            pass: row.pass,
            occurrence: row.occurrence,
        }
    }

    pub(crate) fn at(&self, row: usize) -> At {
        let row = Fixed::read(&self.rows()[row]);
        let kind = self.kind(&row);
        At {
            part: self.number,
            part_row: row.part_row,
            dtype: kind.dtype,
            values: kind.values_count.map(|count| (row.values_offset, count)),
            raw_bytes: kind.raw_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: i64, stage: &str) -> RecordMeta {
        RecordMeta {
            seq,
            layer: -1,
            stage: stage.into(),
            name: "a name".into(),
            op_index: 1 << 40,
            request: -3,
            pass: 5,
            occurrence: i32::MAX,
            shape: vec![2, seq],
            dtype: DType::BF16,
            num_elements: 2 * seq,
            blake3: if seq == 1 { String::new() } else { "0f".repeat(32) },
            stats: Stats {
                rms: (seq == 2).then_some(f64::MIN_POSITIVE),
                abs_max: Some(-0.0),
                inf_count: u64::MAX,
                ..Stats::default()
            },
            ..RecordMeta::empty()
        }
    }

    fn unpacked(blobs: &[Vec<u8>]) -> Option<PartRows> {
        let mut part = PartRows::new(7, blobs.first()?)?;
        blobs[1..].iter().try_for_each(|blob| part.push(blob))?;
        Some(part)
    }

    #[test]
    fn rows_are_read_in_order_as_they_were_packed() {
        let records = [
            record(2, "q_proj"),
            record(1, ""),
            record(2, "logits"),
            record(3, "q_proj"),
        ];
        let places = [
            Place {
                values: Some((64, 4)),
                raw_bytes: None,
            },
            Place {
                values: None,
                raw_bytes: None,
            },
            Place {
                values: None,
                raw_bytes: Some(0),
            },
            Place {
                values: Some((u64::MAX, 6)),
                raw_bytes: Some(12),
            },
        ];
        let mut packer = Packer::default();
        for (row, (record, place)) in records.iter().zip(places).enumerate() {
            packer.push(row as u64, record, place);
        }
        let part = unpacked(&packer.finish()).expect("whole blobs");
        for (row, of) in [1, 0, 2, 3].into_iter().enumerate() {
            assert_eq!(part.meta(row).to_record(), records[of]);
            assert_eq!(part.standing(row), part.meta(row).into());
            let at = part.at(row);
            assert_eq!((at.part, at.part_row, at.dtype), (7, of as u64, DType::BF16));
            assert_eq!(
                (at.values, at.raw_bytes),
                (places[of].values, places[of].raw_bytes)
            );
        }
    }

    #[test]
    fn a_blob_that_is_cut_or_names_what_is_not_there_is_refused() {
        let mut packer = Packer::default();
        for row in 0..ROWS_IN_BLOB as u64 + 1 {
            packer.push(
                row,
                &record(2, "q_proj"),
                Place {
                    values: None,
                    raw_bytes: None,
                },
            );
        }
        let blobs = packer.finish();
        assert_eq!(blobs.len(), 3, "kinds, and two of rows");
        assert_eq!(unpacked(&blobs).map(|part| part.len()), Some(ROWS_IN_BLOB + 1));
        for cut in 0..blobs[0].len() {
            assert!(PartRows::new(0, &blobs[0][..cut]).is_none(), "kinds cut at {cut}");
        }
        let mut part = PartRows::new(0, &blobs[0]).expect("kinds");
        assert!(part.push(&blobs[2][1..]).is_none());
        let mut row = blobs[2].clone();
        row[11 * 8] = 1; // the second kind, of one
        assert!(part.push(&row).is_none());
        // Counts are no reason to reserve anything.
        assert!(PartRows::new(0, &[0xff; 64]).is_none());
    }
}
