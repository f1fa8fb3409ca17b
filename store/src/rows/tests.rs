use super::*;
use crate::table::tests::{packed, record, source};
use bitnet_trace_schema::RecordMeta;
use bitnet_trace_schema::part::Place;
use proptest::prelude::*;

type Record = (RecordMeta, Place);

fn rows(parts: &[Vec<Record>]) -> Rows {
    let table = |(number, records): (u32, &Vec<Record>)| {
        Arc::new(Table::keep(packed(records), &source(number)).expect("a table"))
    };
    Rows::new((10..).zip(parts).map(table).collect())
}

/// The records in the order of rows, each with the index of its part and its row in it.
fn in_order(parts: &[Vec<Record>]) -> Vec<(usize, usize, &Record)> {
    let mut all: Vec<_> = (parts.iter().enumerate())
        .flat_map(|(part, records)| (0..).zip(records).map(move |(row, record)| (part, row, record)))
        .collect();
    all.sort_by_key(|(part, row, (meta, _))| {
        let RecordMeta {
            request,
            seq,
            op_index,
            pass,
            occurrence,
            ..
        } = *meta;
        (request, seq, op_index, pass, occurrence, *part, *row)
    });
    all
}

fn check(rows: &Rows, expected: &[(usize, usize, &Record)]) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        (rows.len(), rows.is_empty()),
        (expected.len(), expected.is_empty())
    );
    let position = |row: usize| (expected[row].2.0.request, expected[row].2.0.seq);
    for (row, (part, part_row, (meta, place))) in expected.iter().enumerate() {
        prop_assert_eq!(&rows.meta(row).to_record(), meta);
        prop_assert_eq!(rows.standing(row), rows.meta(row).into());
        let at = rows.at(row);
        prop_assert_eq!((at.part, at.part_row), (10 + *part as u32, *part_row as u64));
        prop_assert_eq!((at.values, at.raw_bytes), (place.values, place.raw_bytes));
        prop_assert_eq!(rows.num_elements(row), meta.num_elements);
        prop_assert_eq!(rows.hash(row).copied(), rows.meta(row).hash());
        let start = meta
            .blake3
            .get(..16)
            .map(|hex| u64::from_str_radix(hex, 16).expect("hex"));
        prop_assert_eq!(rows.hash_start(row), start.map_or(0, u64::swap_bytes));
        prop_assert_eq!(rows.has_nan(row), meta.stats.nan_count > 0);
        let end = (row..expected.len()).find(|&r| position(r) != position(row));
        let (request, seq) = position(row);
        let end = end.unwrap_or(expected.len());
        prop_assert_eq!(rows.position(row), Position { request, seq, end });
        let one = rows.columns(row..row + 1).expect("a row stands somewhere");
        prop_assert_eq!((one.part as usize, one.places.len()), (10 + *part, 1));
        prop_assert_eq!(
            (one.form(0), one.hash_starts[0]),
            (rows.form(row), rows.hash_start(row))
        );
        prop_assert_eq!(one.values(0), rows.at(row).values);
    }
    for (row, pair) in expected.windows(2).enumerate() {
        let form = |(meta, place): &Record| {
            (
                meta.shape.clone(),
                meta.dtype,
                meta.num_elements,
                place.values.map(|(_, n)| n),
                place.raw_bytes,
            )
        };
        let alike = form(pair[0].2) == form(pair[1].2);
        prop_assert!(alike || rows.form(row) != rows.form(row + 1));
        prop_assert!(!alike || pair[0].0 != pair[1].0 || rows.form(row) == rows.form(row + 1));
        // Both rows in one part are a stretch where they are neighbours there, too.
        if let Some(both) = rows.columns(row..row + 2) {
            prop_assert_eq!((pair[0].0, both.part as usize), (pair[1].0, 10 + pair[0].0));
            let of = |(meta, _): &Record| (meta.layer, meta.stage.clone());
            let same = of(pair[0].2) == of(pair[1].2);
            prop_assert_eq!(both.places.len(), 2);
            prop_assert_eq!(both.places[0] == both.places[1], same);
        }
    }
    prop_assert!(rows.columns(0..0).is_none());
    prop_assert!(rows.columns(0..rows.len() + 1).is_none());
    Ok(())
}

proptest! {
    #[test]
    fn rows_of_any_parts_are_in_order_and_stay_so_where_some_are_left_out(
        parts in prop::collection::vec(prop::collection::vec(record(), 0..25), 0..5), keep in any::<u64>(),
    ) {
        let mut all = rows(&parts);
        let expected = in_order(&parts);
        check(&all, &expected)?;
        let mut places: Vec<_> = expected.iter().map(|(_, _, (meta, _))| (meta.layer, &meta.stage)).collect();
        places.sort_unstable();
        places.dedup();
        prop_assert!(all.places().eq(places.iter().copied()));

        let is_kept = |row: usize| keep >> (row % 64) & 1 == 1;
        let mut row = 0;
        all.retain(|_| { row += 1; is_kept(row - 1) });
        let kept: Vec<_> = (0..).zip(&expected).filter(|&(row, _)| is_kept(row)).map(|(_, of)| *of).collect();
        check(&all, &kept)?;
        all.release();
        check(&all, &kept)?;
        prop_assert!(all.places().eq(places));
    }
}

fn at(seq: i64, op_index: i64) -> Record {
    let meta = RecordMeta {
        seq,
        op_index,
        ..RecordMeta::empty()
    };
    (meta, Place::default())
}

#[test]
fn a_single_part_is_one_stretch_and_parts_one_after_another_are_one_each() {
    let parts: Vec<Vec<Record>> = (0..3)
        .map(|part| (0..10).map(|row| at(10 * part + row / 2, row)).collect())
        .collect();
    let one = rows(&parts[..1]);
    assert_eq!(
        (one.spans.len(), one.columns(0..10).map(|c| c.places.len())),
        (1, Some(10))
    );
    let all = rows(&parts);
    assert_eq!(all.spans.len(), 3);
    assert_eq!(
        all.columns(10..20).map(|c| (c.part, c.places.len())),
        Some((11, 10))
    );
    assert!(all.columns(9..11).is_none(), "rows of two parts");
    assert_eq!(rows(&[]).len(), 0);
    assert_eq!(
        (rows(&[vec![], vec![]]).spans.len(), rows(&[vec![]]).spans.len()),
        (0, 0)
    );
}

#[test]
fn only_positions_that_parts_share_are_taken_apart() {
    // The last position of the first part goes on in the second, in between.
    let first = [at(0, 0), at(1, 0), at(1, 2), at(1, 4)].to_vec();
    let second = [at(1, 1), at(1, 3), at(2, 0), at(2, 1)].to_vec();
    let all = rows(&[first, second]);
    let op_indices: Vec<_> = all.iter().map(|meta| (meta.seq, meta.op_index)).collect();
    assert_eq!(
        op_indices,
        [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1)]
    );
    assert_eq!(
        all.position(2),
        Position {
            request: 0,
            seq: 1,
            end: 6
        }
    );
    let lengths: Vec<_> = (0..all.spans.len())
        .map(|at| all.end(at) - all.spans[at].start)
        .collect();
    assert_eq!(lengths, [2, 1, 1, 1, 1, 2]);
}

#[test]
#[should_panic = "there are 1 rows, and no row 1"]
fn a_row_that_is_not_there_is_told() {
    rows(&[vec![at(0, 0)]]).meta(1);
}

#[test]
fn rows_may_be_read_by_several_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&rows(&[]));
}
