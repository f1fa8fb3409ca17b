use super::*;
use crate::levels::RowLen;
use crate::{DType, RecordMeta, Sequence, Stats};
use proptest::prelude::*;

fn meta(seq: i64, stage: &str) -> RecordMeta {
    RecordMeta {
        seq,
        layer: -2,
        stage: stage.into(),
        name: format!("{stage}-ü").into(),
        op: "MUL_MAT".into(),
        op_index: 1 << 40,
        request: 3,
        pass: 7,
        occurrence: 1,
        shape: vec![2, 0, i64::MAX],
        dtype: DType::BF16,
        num_elements: 9,
        blake3: "0123456789abcdef".repeat(4),
        stats: Stats {
            rms: Some(0.5),
            mean: None,
            min: Some(-1.0),
            max: None,
            abs_max: Some(f64::MAX),
            nan_count: 1,
            inf_count: i64::MAX as u64,
        },
    }
}

/// A row as it was read: scalars, floats, values, raw bytes.
type Row = (RecordMeta, RowLen, Option<Vec<u8>>, Option<Vec<u8>>);

#[derive(Debug, PartialEq)]
enum Owned {
    Page(PageAt, Vec<Row>),
    Rows(Vec<Row>),
    Tokens(i32, i64, u64, Vec<i32>),
}

fn owned(mut rows: Rows<'_>) -> Vec<Row> {
    let mut found = vec![];
    let mut row = meta(0, "");
    while let Some(data) = rows.next_into(&mut row) {
        found.push((
            row.clone(),
            data.floats,
            data.values.map(<[u8]>::to_vec),
            data.raw.map(<[u8]>::to_vec),
        ));
    }
    found
}

/// Every good entry, and where the journal is torn.
fn read(bytes: &[u8]) -> Result<(Vec<Owned>, Option<Torn>), JournalError> {
    let mut reader = Reader::new(bytes, bytes.len() as u64)?;
    let mut found = vec![];
    while let Some(entry) = reader.next()? {
        found.push(match entry {
            Entry::Page(page) => Owned::Page(page.at, owned(page.rows)),
            Entry::Rows(rows) => Owned::Rows(owned(rows)),
            Entry::Tokens(t) => Owned::Tokens(t.request, t.first_seq, t.rewrites, t.ids().collect()),
        });
    }
    Ok((found, reader.torn().cloned()))
}

const AT: PageAt = PageAt {
    offset: 1 << 33,
    bytes: 4096,
    checksum: 42,
};

/// A journal of one entry of each kind, and where each ends.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let mut out = vec![];
    header("cpp", 12, "x version 1", &mut out);
    let mut ends = vec![out.len()];
    tokens(1, 5, 2, &[7, -1, i32::MAX], &mut out);
    ends.push(out.len());
    let mut pending = PendingRows::default();
    pending.push(&meta(0, "a"), Some(2), None).unwrap();
    pending.push(&meta(1, "b"), None, Some(b"raw")).unwrap();
    pending.rows(b"12345678", &mut out).unwrap();
    ends.push(out.len());
    pending.push(&meta(2, "c"), Some(1), Some(b"")).unwrap();
    pending.rows(b"123456789abc", &mut out).unwrap();
    ends.push(out.len());
    out.extend(pending.page(&AT));
    ends.push(out.len());
    (out, ends)
}

#[test]
fn entries_are_read_as_they_were_written() {
    let (bytes, _) = sample();
    let reader = Reader::new(&bytes[..], bytes.len() as u64).unwrap();
    assert_eq!(
        (reader.run(), reader.part(), reader.created_by()),
        ("cpp", 12, "x version 1")
    );
    let row = |seq, stage, floats, values: Option<&[u8]>, raw: Option<&[u8]>| {
        (
            meta(seq, stage),
            floats,
            values.map(<[u8]>::to_vec),
            raw.map(<[u8]>::to_vec),
        )
    };
    let expected = vec![
        Owned::Tokens(1, 5, 2, vec![7, -1, i32::MAX]),
        Owned::Rows(vec![
            row(0, "a", Some(2), Some(b"12345678"), None),
            row(1, "b", None, None, Some(b"raw")),
        ]),
        Owned::Rows(vec![row(2, "c", Some(1), Some(b"9abc"), Some(b""))]),
        Owned::Page(
            AT,
            vec![
                row(0, "a", Some(2), None, None),
                row(1, "b", None, None, Some(b"raw")),
                row(2, "c", Some(1), None, Some(b"")),
            ],
        ),
    ];
    assert_eq!(read(&bytes).unwrap(), (expected, None));
}

#[test]
fn a_journal_is_read_up_to_the_entry_in_which_it_ends() {
    let (bytes, ends) = sample();
    for length in 0..bytes.len() {
        let whole = ends.iter().filter(|&&end| end <= length).count();
        match read(&bytes[..length]) {
            Err(JournalError::Empty) => assert_eq!(whole, 0, "{length}"),
            Ok((entries, torn)) => {
                assert_eq!(entries.len(), whole - 1, "{length}");
                let end = ends[whole - 1];
                assert_eq!(
                    torn.map(|t| t.at),
                    (end != length).then_some(end as u64),
                    "{length}"
                );
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn no_entry_behind_a_changed_byte_is_read() {
    let (bytes, ends) = sample();
    for at in ends[0]..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let (entries, torn) = read(&changed).unwrap();
        let entry = ends.iter().filter(|&&end| end <= at).count() - 1;
        assert_eq!(entries.len(), entry, "{at}");
        assert_eq!(torn.unwrap().at, ends[entry] as u64, "{at}");
    }
    for at in 0..ends[0] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(read(&changed).is_err(), "{at}");
    }
}

/// A journal with this payload behind its header, framed rightly.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    header("a", 0, "", &mut out);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(checksum(&[payload]).to_le_bytes());
    out.extend(payload);
    out
}

#[test]
fn every_malformed_entry_is_named() {
    let (bytes, ends) = sample();
    let payload = |i: usize| bytes[ends[i - 1] + FRAME..ends[i]].to_vec();
    let problem = |payload: Vec<u8>| read(&framed(&payload)).unwrap().1.map(|t| t.problem);
    let edit = |i: usize, f: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = payload(i);
        f(&mut changed);
        problem(changed)
    };
    for i in 1..ends.len() {
        assert_eq!(problem(payload(i)), None);
    }
    assert_eq!(problem(vec![]), Some("it ends inside a field"));
    assert_eq!(problem(vec![9]), Some("an entry of an unknown kind"));
    assert_eq!(problem(vec![HEADER]), Some("a second header"));
    assert_eq!(edit(1, &|p| p.push(0)), Some("bytes behind the token ids"));
    assert_eq!(edit(4, &|p| p.push(0)), Some("bytes behind the rows of a page"));
    assert_eq!(
        edit(2, &|p| p.push(0)),
        Some("not as many values as its rows say")
    );
    assert_eq!(
        edit(4, &|p| p[9..13].copy_from_slice(&11u32.to_le_bytes())),
        Some("more values than their page has bytes")
    );
    assert_eq!(edit(4, &|p| p[21..25].fill(0)), Some("no rows"));
    assert_eq!(edit(4, &|p| p[23] = 2), Some("too many rows"));
    assert_eq!(edit(4, &|p| p[21] = 4), Some("it ends inside a field"));
    // the first row begins at 25: flags, seq, layer, then the length of the stage
    assert_eq!(edit(4, &|p| p[29] = 0xff), Some("a text that is not UTF-8"));
    assert_eq!(
        edit(4, &|p| {
            p.splice(28..29, [0xff, 0x7f]);
        }),
        Some("bytes longer than their entry")
    );
    let dtype = payload(4).windows(4).position(|w| w == b"BF16").unwrap();
    assert_eq!(edit(4, &|p| p[dtype] = b'X'), Some("an unknown dtype"));
    assert_eq!(
        edit(4, &|p| {
            p.splice(dtype - 14..dtype - 13, [0xff, 0x7f]);
        }),
        Some("a shape longer than its entry")
    );
    assert_eq!(
        edit(4, &|p| {
            p.splice(26..27, [0xff; 10]);
        }),
        Some("a number of more than 64 bits")
    );
    assert_eq!(
        edit(4, &|p| {
            p.splice(27..28, [0x80, 0x80, 0x80, 0x80, 0x20]);
        }),
        Some("a number of more than 32 bits")
    );
}

#[test]
fn a_length_beyond_the_file_or_the_maximum_is_not_allocated() {
    let mut bytes = framed(&[9]);
    let at = bytes.len() - 1 - FRAME;
    bytes[at..at + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let problem = |bytes: &[u8], length| {
        let mut reader = Reader::new(bytes, length).unwrap();
        assert!(reader.next().unwrap().is_none());
        reader.torn().unwrap().problem
    };
    assert_eq!(problem(&bytes, bytes.len() as u64), "the file ends inside it");
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(problem(&bytes, u64::MAX), "its length is impossible");
}

#[test]
fn rows_that_a_reader_would_refuse_are_not_taken() {
    let mut pending = PendingRows::default();
    let mut odd = meta(0, "a");
    odd.blake3 = "0123456789ABCDEF".repeat(4);
    assert!(matches!(pending.push(&odd, None, None), Err(PushError::Hash(_))));
    assert!(pending.is_empty() && pending.bytes() == 0);
}

#[test]
fn pending_rows_allocate_only_until_they_are_as_large_as_a_page_needs() {
    let mut pending = PendingRows::default();
    let mut capacity = 0;
    for page in 0..5 {
        for seq in 0..100 {
            pending.push(&meta(seq, "attn_out"), Some(64), None).unwrap();
        }
        pending.page(&AT);
        pending.clear();
        assert!(page == 0 || capacity == pending.capacity(), "page {page}");
        capacity = pending.capacity();
    }
}

#[test]
fn token_ids_are_replayed_over_an_older_and_under_a_newer_manifest() {
    let mut out = vec![];
    header("a", 0, "", &mut out);
    tokens(0, 0, 0, &[10, 11, -1], &mut out);
    tokens(0, 1, 1, &[12], &mut out);
    tokens(0, 1 << 40, 1, &[1], &mut out);
    tokens(0, i64::MAX, 1, &[1, 2], &mut out);
    tokens(0, -1, 1, &[1], &mut out);
    let replay = |mut sequence: Sequence, mut room| {
        let mut reader = Reader::new(&out[..], out.len() as u64).unwrap();
        while let Some(Entry::Tokens(t)) = reader.next().unwrap() {
            t.replay(&mut sequence, &mut room);
        }
        (sequence.ids, sequence.rewrites)
    };
    let sequence = |ids: &[Option<i32>], rewrites| Sequence {
        request: 0,
        ids: ids.to_vec(),
        rewrites,
    };
    let all = (vec![Some(10), Some(12), None], 1);
    assert_eq!(replay(sequence(&[], 0), 100), all);
    assert_eq!(replay(sequence(&[Some(10), Some(11), None], 0), 100), all);
    let newer = [Some(10), Some(13), None, Some(4)];
    assert_eq!(replay(sequence(&newer, 2), 100), (newer.to_vec(), 2));
    assert_eq!(replay(sequence(&[], 2), 100), (vec![Some(10), Some(11), None], 2));
    assert_eq!(replay(sequence(&[], 0), 1), (vec![Some(10)], 1));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..6) {
        let _ = read(&bytes);
        let _ = read(&framed(&[&[kind], &bytes[..]].concat()));
    }

    #[test]
    fn no_change_of_a_good_entry_makes_the_reader_panic(entry in 1usize..5, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (bytes, ends) = sample();
        let mut payload = bytes[ends[entry - 1] + FRAME..ends[entry]].to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = read(&framed(&payload));
    }

    #[test]
    fn every_number_survives(seq in any::<i64>(), layer in any::<i32>(), shape in proptest::collection::vec(any::<i64>(), 0..9), raw in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20))) {
        let row = RecordMeta { seq, layer, shape, ..meta(0, "x") };
        let mut pending = PendingRows::default();
        pending.push(&row, Some(4), raw.as_deref()).unwrap();
        let mut out = vec![];
        header("a", 0, "", &mut out);
        pending.rows(&[5; 16], &mut out).unwrap();
        let expected = vec![Owned::Rows(vec![(row, Some(4), Some(vec![5; 16]), raw)])];
        prop_assert_eq!(read(&out).unwrap(), (expected, None));
    }
}
