use super::layout::{Begun, Head, Layout, MAGIC, SUMMED, VERSION, begin};
use super::names::Names;
use super::*;
use crate::StoreError;
use crate::scan::PartStat;
use bitnet_trace_schema::part::Place as At;
use bitnet_trace_schema::{DType, RecordMeta, Stats};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use twox_hash::XxHash3_64;

/// A part's state.
pub(crate) fn stat() -> PartStat {
    PartStat {
        file: "part-00007.parquet".into(),
        bytes: 1 << 40,
        mtime_ns: -5,
        footer: "0e".repeat(32),
        listed_rows: None,
    }
}

/// The table of a part of these records.
pub(crate) fn packed(records: &[(RecordMeta, At)]) -> Buffer {
    let mut packer = Packer::new(records.len() as u64, Path::new("")).expect("few rows");
    for (row, (meta, at)) in records.iter().enumerate() {
        packer.push(row as u64, meta, *at);
    }
    packer.finish(&stat())
}

/// The part `number` of a run that is nowhere.
pub(crate) fn source(number: u32) -> Arc<Source> {
    of(number, stat(), None)
}

fn of(number: u32, stat: PartStat, folder: Option<Folder>) -> Arc<Source> {
    Arc::new(Source {
        name: "a".into(),
        dir: "nowhere".into(),
        run: "a".into(),
        number,
        stat,
        is_alone: true,
        folder,
    })
}

fn kept(buffer: Buffer) -> Option<Table> {
    Table::keep(buffer, &source(7))
}

/// Whether nothing in a table is spoiled.
fn is_whole(table: &Table) -> bool {
    let (bytes, layout) = (&*table.bytes, &table.layout);
    let mut blocks = 0..layout.hash.sums.len();
    blocks.all(|block| layout.hash.is_whole(bytes, block) && layout.moments.is_whole(bytes, block))
}

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::zeros(bytes.len().next_multiple_of(64));
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    buffer
}

/// What was changed in a table, with its checksum put right.
fn resummed(mut buffer: Buffer) -> Buffer {
    let end: u64 = bytemuck::pod_read_unaligned(&buffer.as_ref()[24..32]);
    let end = buffer.as_ref().len().min(end as usize).max(SUMMED);
    let sum = XxHash3_64::oneshot(&buffer.as_ref()[SUMMED..end]);
    buffer.bytes_mut()[32..40].copy_from_slice(&sum.to_ne_bytes());
    buffer
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "q_proj", "logits", "naïve", "blk.0.attn_q.weight"])
}

prop_compose! {
    fn stats()(moments in prop::array::uniform5(prop::option::of(any::<f64>().prop_filter("NaN is not itself", |x| !x.is_nan()))),
               nan_count in prop::sample::select(vec![0, 1, u64::MAX]), inf_count in any::<u64>()) -> Stats {
        let [rms, mean, min, max, abs_max] = moments;
        Stats { rms, mean, min, max, abs_max, nan_count, inf_count }
    }
}

prop_compose! {
    /// Records of which many are alike, and of few positions.
    pub(crate) fn record()(
        position in (0..3i32, -1..4i64), layer in -2..3i32, texts in prop::array::uniform3(text()),
        order in (0..4i64, 0..2i32, 0..2i32), shape in prop::collection::vec(0..4i64, 0..3),
        dtype in prop::sample::select(DType::ALL.to_vec()), hash in prop::option::of(any::<[u8; 32]>()), stats in stats(),
        values in prop::option::of((any::<u64>(), 0..5u64)), raw_bytes in prop::option::of(0..5u64),
    ) -> (RecordMeta, At) {
        let [stage, name, op] = texts.map(Into::into);
        let blake3 = hash.map_or_else(String::new, |hash| blake3::Hash::from_bytes(hash).to_hex().to_string());
        let num_elements = shape.iter().product();
        let meta = RecordMeta {
            seq: position.1, layer, stage, name, op, op_index: order.0 << 40, request: position.0, pass: order.1,
            occurrence: order.2, shape, dtype, num_elements, blake3, stats,
        };
        (meta, At { values, raw_bytes })
    }
}

pub(crate) fn records() -> impl Strategy<Value = Vec<(RecordMeta, At)>> {
    prop::collection::vec(record(), 0..60)
}

/// The order of records in a part.
fn order(meta: &RecordMeta) -> (i32, i64, i64, i32, i32) {
    (meta.request, meta.seq, meta.op_index, meta.pass, meta.occurrence)
}

proptest! {
    #[test]
    fn a_table_holds_exactly_the_records_that_were_packed(records in records()) {
        let table = kept(packed(&records)).expect("a table");
        let mut rows: Vec<usize> = (0..records.len()).collect();
        rows.sort_by_key(|&row| order(&records[row].0));
        prop_assert_eq!(table.len(), records.len());
        for (row, &of) in rows.iter().enumerate() {
            let (meta, place) = &records[of];
            prop_assert_eq!(&table.meta(row).to_record(), meta);
            prop_assert_eq!(table.standing(row), meta_of(&table, row).into());
            let at = table.at(row);
            prop_assert_eq!((at.part, at.part_row, at.dtype), (7, of as u64, meta.dtype));
            prop_assert_eq!((at.values, at.raw_bytes), (place.values, place.raw_bytes));
            prop_assert_eq!(table.hash(row).copied(), bytes_of(&meta.blake3));
            prop_assert_eq!(table.has_nan(row), meta.stats.nan_count > 0);
            prop_assert_eq!(table.num_elements(row), meta.num_elements);
            let place = &table.places()[table.place_column()[row] as usize];
            prop_assert_eq!((place.0, &place.1), (meta.layer, &meta.stage));
        }
        prop_assert!(table.places().is_sorted_by(|a, b| a < b));
        let mut positions: Vec<_> = records.iter().map(|(meta, _)| (meta.request, meta.seq)).collect();
        positions.sort_unstable();
        let counts: Vec<_> = positions.chunk_by(|a, b| a == b).map(|all| (all[0], all.len())).collect();
        prop_assert_eq!(table.positions(), counts.len());
        let mut end = 0;
        for (at, ((request, seq), count)) in counts.into_iter().enumerate() {
            prop_assert!((end..end + count).all(|row| table.position_of(row) == at));
            end += count;
            let position = table.position(at);
            prop_assert_eq!((position.request, position.seq, position.end), (request, seq, end));
        }
    }

    #[test]
    fn what_is_not_believed_leads_nowhere(records in records(), at in any::<prop::sample::Index>(), to in any::<[u8; 4]>()) {
        let mut table = packed(&records);
        let bytes = table.bytes_mut();
        let at = at.index(bytes.len() / 4) * 4;
        bytes[at..at + 4].copy_from_slice(&to);
        if let Some(table) = kept(resummed(table)) {
            for row in 0..table.len() {
                let _ = (table.meta(row).to_record(), table.at(row), table.form_number(row), table.has_nan(row));
                let end = table.position(table.position_of(row)).end;
                assert!(row < end && end <= table.len());
            }
        }
    }
}

fn meta_of(table: &Table, row: usize) -> crate::Meta<'_> {
    table.meta(row)
}

fn some() -> Vec<(RecordMeta, At)> {
    let record = |seq: i64, stage: &str| RecordMeta {
        seq,
        stage: stage.into(),
        shape: vec![2, seq],
        num_elements: 2 * seq,
        ..RecordMeta::empty()
    };
    let at = At {
        values: Some((64, 4)),
        raw_bytes: None,
    };
    [record(2, "q_proj"), record(1, ""), record(2, "logits")]
        .map(|meta| (meta, at))
        .to_vec()
}

#[test]
fn a_table_cut_off_is_refused_and_any_bit_flipped_is_seen() {
    let whole = packed(&some());
    assert!(kept(whole.clone()).is_some());
    for length in 0..whole.as_ref().len() {
        let cut = bytes::Bytes::copy_from_slice(&whole.as_ref()[..length]);
        assert!(Table::open(cut, None, &source(7)).is_none(), "{length} bytes");
    }
    let layout = begin(whole.as_ref()).expect("a table").layout;
    let details = [layout.hash.values.bytes(), layout.moments.values.bytes()];
    for at in 0..whole.as_ref().len() {
        for bit in 0..8 {
            let mut bent = whole.clone();
            bent.bytes_mut()[at] ^= 1 << bit;
            let table = kept(bent);
            if at < layout.summed() {
                assert!(table.is_none(), "bit {bit} of byte {at}");
            } else {
                let is_read = details.iter().any(|bytes| bytes.contains(&at));
                assert_eq!(
                    table.map(|table| is_whole(&table)),
                    Some(!is_read),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }
}

#[test]
fn a_table_of_another_version_byte_order_or_state_of_the_part_is_refused() {
    let whole = packed(&some());
    let refused = |at: usize, word: u64| {
        let mut bent = whole.clone();
        bent.bytes_mut()[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        assert!(kept(resummed(bent)).is_none(), "{word} at {at}");
    };
    refused(0, MAGIC.swap_bytes());
    refused(8, VERSION + 1);
    for other in [
        PartStat { bytes: 5, ..stat() },
        PartStat {
            mtime_ns: 5,
            ..stat()
        },
        PartStat {
            footer: "0f".repeat(32),
            ..stat()
        },
        PartStat {
            footer: String::new(),
            ..stat()
        },
    ] {
        let what = format!("{other:?}");
        assert!(
            Table::keep(whole.clone(), &of(7, other, None)).is_none(),
            "{what}"
        );
    }
}

#[test]
fn a_table_that_contradicts_itself_is_refused_whatever_its_checksum_says() {
    let whole = packed(&some());
    let Begun { head, layout, .. } = begin(whole.as_ref()).expect("a table");
    let refused = |what: &str, at: usize, bytes: &[u8]| {
        let mut bent = whole.clone();
        bent.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(kept(resummed(bent)).is_none(), "{what}");
    };
    for (what, column, limit) in [
        ("a place", &layout.place, 3u32),
        ("a form", &layout.form, 2),
        ("a label", &layout.label, 1),
        ("a row", &layout.part_row, 3),
    ] {
        refused(what, column.bytes().end - 4, &limit.to_ne_bytes());
    }
    refused(
        "positions that begin late",
        layout.first.bytes().start,
        &1u32.to_ne_bytes(),
    );
    refused(
        "positions in disorder",
        layout.seq.bytes().start,
        &2i64.to_ne_bytes(),
    );
    refused(
        "a position of no rows",
        layout.first.bytes().start + 4,
        &0u32.to_ne_bytes(),
    );
    refused(
        "a position beyond the rows",
        layout.first.bytes().start + 4,
        &3u32.to_ne_bytes(),
    );
    refused(
        "numberless texts",
        layout.names.bytes().start,
        &u32::MAX.to_ne_bytes(),
    );
    for (word, n) in [
        (6, u64::MAX),
        (6, 1 << 32),
        (6, 0),
        (7, 0),
        (7, 4),
        (8, u64::MAX),
        (8, 0),
        (9, u64::MAX),
        (9, 4),
    ] {
        refused("sizes", 64 + word * 8, &n.to_ne_bytes());
    }
    assert_eq!(head.words().len(), 10);
}

#[test]
fn a_part_of_no_rows_has_a_table() {
    let table = kept(packed(&[])).expect("a table");
    assert_eq!((table.len(), table.positions(), table.places().len()), (0, 0, 0));
}

#[test]
fn a_part_of_more_rows_than_are_numbered_is_refused() {
    assert!(Packer::new(u64::from(u32::MAX), Path::new("p")).is_ok());
    let error = Packer::new(1 << 32, Path::new("p")).err().expect("too many");
    assert!(matches!(
        error,
        StoreError::TooManyRows {
            rows: 0x1_0000_0000,
            ..
        }
    ));
    let head = Head {
        rows: 1 << 32,
        ..begin(packed(&[]).as_ref()).expect("a table").head
    };
    assert!(Layout::of(&head).is_none());
}

#[test]
fn names_that_are_cut_off_or_in_disorder_are_refused() {
    let mut names = Names {
        places: vec![(-1, "b".into()), (0, "a".into())],
        ..Names::default()
    };
    let bytes = names.write();
    assert_eq!(Names::read(&bytes).as_ref(), Some(&names));
    for cut in 0..bytes.len() {
        assert_eq!(Names::read(&bytes[..cut]), None, "cut at {cut}");
    }
    assert_eq!(Names::read(&[&bytes[..], &[0]].concat()), None);
    assert_eq!(Names::read(&[0xff; 64]), None);
    names.places.reverse();
    assert_eq!(Names::read(&names.write()), None);
    names.places = vec![(0, "a".into()); 2];
    assert_eq!(Names::read(&names.write()), None);
}

#[test]
fn a_table_of_many_pieces_is_read_in_one_pass() {
    let records: Vec<_> = (0..150_000)
        .map(|row| {
            let meta = RecordMeta {
                seq: row / 500,
                op_index: row,
                ..RecordMeta::empty()
            };
            (meta, At::default())
        })
        .collect();
    let whole = packed(&records);
    assert!(whole.as_ref().len() > SMALL);
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Folder::of(dir.path());
    drop(folder.write("a", 7, whole.as_ref()).expect("written"));
    let source = of(7, stat(), Some(folder.clone()));
    let table = Table::find(&source).expect("a table");
    assert!(table.map.is_some() && (0..150_000).all(|row| table.meta(row as usize).op_index == row));
    table.release();
    assert_eq!(table.meta(99_999).seq, 199);
    let mut bent = whole.as_ref().to_vec();
    bent[table.layout.summed() - 1] ^= 1;
    drop(folder.write("a", 7, &bent).expect("written"));
    assert!(Table::find(&source).is_none());
    assert!(kept(buffer(&bent)).is_none());
    assert_eq!(
        table.meta(99_999).seq,
        199,
        "a table that was opened is the one that was opened"
    );
}
