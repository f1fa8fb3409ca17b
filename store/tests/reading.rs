//! Records and tensors of sound runs.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bitnet_trace_schema::{DType, Stats};
use bitnet_trace_store::{Database, Filter, Run, StoreError};
use parquet::basic::Compression;
use std::collections::BTreeSet;
use support::*;

fn all() -> Filter {
    Filter::default()
}

#[test]
fn every_record_comes_back_as_it_was_written() {
    let db = temp();
    let written = records();
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    assert_eq!(run.name(), "a");
    assert!(run.completeness().is_complete());
    let rows = run.records(&all());
    assert_eq!(rows.len(), written.len());
    for row in &rows {
        let source = &written[row.part_row as usize];
        assert_eq!(row.meta, source.meta);
        assert_eq!(run.tensor(row).unwrap().values(), source.values.as_deref());
    }
}

#[test]
fn equal_stages_are_one_copy_and_thousands_of_names_keep_their_own() {
    let db = temp();
    let written: Vec<_> = (0..20_000)
        .map(|i| {
            let mut record = record(i, i, 0, "q_proj", &[i as f32]);
            record.meta.name = format!("blk.{}.tensor", i % 10_000).into();
            record.meta.shape = vec![1; 1 + i as usize % 3];
            record
        })
        .collect();
    let rows = Run::open(write(db.path(), "a", &written)).unwrap();
    let rows = rows.records(&all());
    assert_eq!(rows.len(), written.len());
    for (row, source) in rows.iter().zip(&written) {
        assert_eq!(row.meta, source.meta);
    }
    // A name can push the stage's copy out; then there is a new one.
    let copies: BTreeSet<_> = rows.iter().map(|row| row.meta.stage.as_ptr()).collect();
    assert!(copies.len() < 100, "{}", copies.len());
}

#[test]
fn records_are_in_causal_order_request_by_request() {
    let db = temp();
    let mut written = records();
    for (i, r) in written.iter_mut().enumerate() {
        r.meta.request = i as i32 % 2;
        r.meta.occurrence = 7 - i as i32 % 7;
    }
    written.reverse();
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    let keys: Vec<_> = run
        .records(&all())
        .into_iter()
        .map(|r| {
            (
                r.meta.request,
                r.meta.seq,
                r.meta.op_index,
                r.meta.pass,
                r.meta.occurrence,
            )
        })
        .collect();
    assert!(keys.is_sorted());
    assert_eq!(keys.len(), written.len());
}

#[test]
fn a_filter_takes_ranges_and_patterns() {
    let db = temp();
    let mut written = records();
    written.push(record(99, 5, 1, "odd[a]stage", &[1.0]));
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    let count = |f: Filter| run.records(&f).len();
    assert_eq!(
        count(Filter {
            seq: Some(1..=1),
            ..all()
        }),
        8
    );
    assert_eq!(
        count(Filter {
            layer: Some(-1..=-1),
            ..all()
        }),
        4
    );
    assert_eq!(
        count(Filter {
            layer: Some(0..=1),
            seq: Some(0..=0),
            ..all()
        }),
        6
    );
    assert_eq!(
        count(Filter {
            stage: Some("*_norm".into()),
            ..all()
        }),
        4
    );
    assert_eq!(
        count(Filter {
            stage: Some("?_proj".into()),
            ..all()
        }),
        4
    );
    assert_eq!(
        count(Filter {
            stage: Some("odd[a]*".into()),
            ..all()
        }),
        1
    );
    assert_eq!(
        count(Filter {
            stage: Some("' OR 1=1 --".into()),
            ..all()
        }),
        0
    );
    assert_eq!(
        count(Filter {
            request: Some(1),
            ..all()
        }),
        0
    );
    assert_eq!(
        count(Filter {
            seq: Some(i64::MIN..=i64::MAX),
            ..all()
        }),
        written.len()
    );
}

#[test]
fn tensors_are_found_in_every_page_row_group_and_part() {
    let db = temp();
    let written: Vec<Record> = (0..300)
        .map(|i| record(i, i, 0, "q_proj", &vec![i as f32; 1 + i as usize % 70]))
        .collect();
    let parts: Vec<_> = written
        .chunks(100)
        .map(|rows| {
            let small = properties("a")
                .set_data_page_row_count_limit(7)
                .set_write_batch_size(3)
                .set_max_row_group_row_count(Some(40));
            (rows.len(), file(&batch(rows), small))
        })
        .collect();
    let run = Run::open(write_parts(db.path(), "a", &parts)).unwrap();
    let rows = run.records(&all());
    assert_eq!(rows.len(), 300);
    for (row, source) in rows.iter().zip(&written) {
        assert_eq!(run.tensor(row).unwrap().values(), source.values.as_deref());
    }
    assert_eq!(rows[299].part, 2);
}

#[test]
fn compressed_scalars_are_read_beside_plain_values() {
    let db = temp();
    let written = records();
    let zstd = Compression::ZSTD(Default::default());
    let properties = properties("a")
        .set_compression(zstd)
        .set_column_compression(values_path(), Compression::UNCOMPRESSED);
    let bytes = file(&batch(&written), properties);
    let run = Run::open(write_parts(db.path(), "a", &[(written.len(), bytes)])).unwrap();
    let rows = run.records(&all());
    let row = rows.iter().find(|r| r.meta.stage == "logits").unwrap();
    assert_eq!(
        run.tensor(row).unwrap().values(),
        written[row.part_row as usize].values.as_deref()
    );
}

#[test]
fn a_run_of_statistics_only_has_no_values() {
    let db = temp();
    let mut written = records();
    written.iter_mut().for_each(|r| r.values = None);
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    for row in run.records(&all()) {
        let tensor = run.tensor(&row).unwrap();
        assert!(!row.has_elements());
        assert!(tensor.values().is_none() && tensor.raw().is_none());
        assert_eq!(row.meta.stats, written[row.part_row as usize].meta.stats);
    }
}

#[test]
fn an_empty_tensor_has_values_and_none_of_them() {
    let db = temp();
    let written = [
        record(0, 0, 0, "a", &[]),
        record(1, 0, 0, "b", &[2.0]),
        record(2, 0, 0, "c", &[]),
    ];
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    let lengths: Vec<_> = run
        .records(&all())
        .iter()
        .map(|r| run.tensor(r).unwrap().values().unwrap().len())
        .collect();
    assert_eq!(lengths, [0, 1, 0]);
}

#[test]
fn packed_dtypes_come_back_as_their_bytes_and_as_what_they_are_worth() {
    let db = temp();
    let block = |code: u8| [&[0x00, 0x38][..], &[code; 32]].concat(); // 0.5, 32 codes
    let packed = |op_index, values: Option<Vec<f32>>| {
        let mut r = record(op_index, 0, 0, "k_cache", &[]);
        r.meta.dtype = DType::Q8_0;
        (r.meta.num_elements, r.meta.shape) = (64, vec![2, 32]);
        (r.raw, r.values) = (Some([block(2), block(254)].concat()), values);
        r
    };
    let worth = [[1.0f32; 32], [-1.0; 32]].concat();
    let written = [packed(0, None), packed(1, Some(worth.clone()))];
    let run = Run::open(write(db.path(), "a", &written)).unwrap();
    for row in run.records(&all()) {
        let tensor = run.tensor(&row).unwrap();
        assert_eq!((tensor.dtype(), row.meta.num_elements), (DType::Q8_0, 64));
        assert_eq!(tensor.raw(), Some(&[block(2), block(254)].concat()[..]));
        assert_eq!(tensor.to_f32().as_deref(), Some(&worth[..]));
        assert_eq!(
            tensor.values().is_some(),
            row.meta.op_index == 1,
            "where they were kept"
        );
        assert_eq!(tensor.to_f64().map(|v| v[40]), Some(-1.0));
    }
    let mut torn = packed(0, None);
    torn.raw = Some(vec![0; 67]);
    let mut alone = packed(0, Some(worth));
    alone.raw = None;
    for (name, record, told) in [
        ("b", torn, "67 bytes for 64 elements of Q8_0"),
        ("c", alone, "`values`"),
    ] {
        let error = Run::open(write(db.path(), name, &[record]))
            .expect_err("refused")
            .to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn dtypes_that_f32_does_not_hold_come_back_as_their_bytes() {
    let db = temp();
    let raw = |op_index, dtype: DType, bytes: Vec<u8>| {
        let mut r = record(op_index, 0, 0, "x", &[]);
        r.meta.dtype = dtype;
        r.meta.num_elements = (bytes.len() / dtype.size()) as i64;
        r.meta.shape = vec![r.meta.num_elements];
        r.values = None;
        r.raw = Some(bytes);
        r
    };
    let doubles: Vec<u8> = [0.1f64, -1e300].iter().flat_map(|x| x.to_le_bytes()).collect();
    let written = [
        raw(0, DType::F64, doubles.clone()),
        record(1, 0, 0, "y", &[1.5]),
        raw(2, DType::I32, vec![1, 0, 0, 0]),
        raw(3, DType::I64, vec![]),
    ];
    let small = properties("a").set_max_row_group_row_count(Some(2));
    let run = Run::open(write_parts(db.path(), "a", &[(4, file(&batch(&written), small))])).unwrap();
    let rows = run.records(&all());
    let tensors: Vec<_> = rows.iter().map(|r| run.tensor(r).unwrap()).collect();
    assert_eq!(tensors[0].raw(), Some(&doubles[..]));
    assert_eq!(tensors[0].to_f64(), Some(vec![0.1, -1e300]));
    assert_eq!(tensors[0].values(), None);
    assert_eq!(
        (tensors[1].values(), tensors[1].raw()),
        (Some(&[1.5f32][..]), None)
    );
    assert_eq!(tensors[2].to_f64(), Some(vec![1.0]));
    assert_eq!(tensors[3].raw(), Some(&[][..]));
}

#[test]
fn not_a_number_and_missing_moments_survive() {
    let db = temp();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let run = Run::open(write(db.path(), "a", &[record(0, 0, 0, "x", &odd)])).unwrap();
    let row = &run.records(&all())[0];
    assert_eq!(
        row.meta.stats,
        Stats {
            nan_count: 1,
            inf_count: 2,
            ..Stats::default()
        }
    );
    let tensor = run.tensor(row).unwrap();
    let bits: Vec<u32> = tensor.values().unwrap().iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits, odd.map(f32::to_bits));
}

#[test]
fn a_tensor_outlives_its_run_and_crosses_threads() {
    let db = temp();
    let run = Run::open(write(db.path(), "a", &records())).unwrap();
    let rows = run.records(&all());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                rows.iter()
                    .for_each(|r| assert!(run.tensor(r).unwrap().values().is_some()))
            });
        }
    });
    let tensor = run.tensor(&rows[0]).unwrap();
    drop((run, db));
    assert_eq!(tensor.values().map(<[f32]>::len), Some(8));
}

#[test]
fn a_row_of_another_run_is_refused() {
    let db = temp();
    let long = [record(0, 0, 0, "x", &vec![1.0; 100_000])];
    write(db.path(), "long", &long);
    write(db.path(), "short", &records());
    let db = Database::open(db.path()).unwrap();
    let (long, short) = (db.run("long").unwrap(), db.run("short").unwrap());
    let row = &long.records(&all())[0];
    assert!(matches!(short.tensor(row), Err(StoreError::ForeignRow { .. })));
    let mut bent = row.clone();
    bent.values_count = Some(u64::MAX / 4);
    assert!(matches!(long.tensor(&bent), Err(StoreError::ForeignRow { .. })));
    bent.part = 3;
    assert!(matches!(long.tensor(&bent), Err(StoreError::ForeignRow { .. })));
}
