//! What the files look like: pages, row groups, parts, footer.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{Element, Layout, Recorder, RecorderBuilder, Slice, Tap, Values, bytes_of};
use bitnet_trace_schema::columns;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use std::fs::File;
use std::path::{Path, PathBuf};

fn metadata(part: &Path) -> ParquetMetaData {
    ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&File::open(part).expect("a part"))
        .expect("a footer with indexes")
}

/// Records one tensor a row of lengths, of values that count up.
fn run(builder: RecorderBuilder, lengths: &[usize]) -> PathBuf {
    let recorder = builder.build().expect("a recorder");
    for (seq, &n) in lengths.iter().enumerate() {
        recorder.record(Tap::new("layer_out", 0, seq as i64), &tensor(seq, n));
    }
    recorder.finish().expect("sealed").dir
}

fn tensor(seq: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| (seq * 1000 + i) as f32).collect()
}

fn check(run: &Path, lengths: &[usize]) {
    let records = common::read(run);
    assert_eq!(records.len(), lengths.len());
    for (seq, (record, &n)) in records.iter().zip(lengths).enumerate() {
        let values = tensor(seq, n);
        assert_eq!(record.values.as_ref(), Some(&values));
        common::check_record(record, bytes_of(&values));
    }
}

#[test]
fn every_row_is_contiguous_in_the_file_and_every_page_aligned() {
    let dir = tempfile::tempdir().expect("a directory");
    let lengths: Vec<usize> = (0..400)
        .map(|i| [576, 64, 0, 1536, 5, 49_152, 100_000][i % 7])
        .collect();
    let run = run(Recorder::builder(dir.path()).run("a"), &lengths);
    check(&run, &lengths);
    let part = run.join("part-00000.parquet");
    let file = std::fs::read(&part).expect("a part");
    let metadata = metadata(&part);
    let (mut row, mut aligned) = (0, 0);
    for group in 0..metadata.num_row_groups() {
        let index = metadata.page_index_for_row_group(group);
        let pages = index.page_locations(0).expect("an offset index for the values");
        let rows = metadata.row_group(group).num_rows() as usize;
        for (i, page) in pages.iter().enumerate() {
            let end = pages
                .get(i + 1)
                .map_or(rows, |next| next.first_row_index as usize);
            let n = end - page.first_row_index as usize;
            let values: Vec<f32> = (row..row + n).flat_map(|seq| tensor(seq, lengths[seq])).collect();
            let page_end = page.offset as usize + page.compressed_page_size as usize;
            let start = page_end - values.len() * 4;
            assert!(
                file[start..page_end] == *bytes_of(&values),
                "page {i}: its floats are its last bytes"
            );
            assert!(
                values.len() <= 65_536 || n == 1,
                "a large tensor has a page of its own"
            );
            aligned += usize::from(start.is_multiple_of(64));
            row += n;
        }
        assert_eq!(
            aligned,
            pages.len(),
            "all of these pages are long enough to be aligned"
        );
    }
    assert_eq!(row, lengths.len());
}

#[test]
fn row_groups_and_parts_end_at_their_sizes() {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout {
        page_bytes: 4096,
        row_group_bytes: 20_000,
        row_group_rows: 9,
        part_bytes: 60_000,
    };
    let lengths: Vec<usize> = (0..300)
        .map(|i| [300, 1, 0, 2000, 6000, 0, 0, 0, 0, 0, 0, 0][i % 12])
        .collect();
    let run = run(Recorder::builder(dir.path()).run("a").layout(layout), &lengths);
    check(&run, &lengths);
    let parts = common::parts(&run);
    assert!(parts.len() > 5, "{} parts", parts.len());
    for (i, part) in parts.iter().enumerate() {
        let size = std::fs::metadata(part).expect("a part").len();
        assert!(
            i + 1 == parts.len() || (60_000..110_000).contains(&size),
            "part {i}: {size} bytes"
        );
        for group in metadata(part).row_groups() {
            assert!(group.num_rows() <= 9);
            assert!(group.num_rows() == 1 || group.column(0).compressed_size() < 21_000);
        }
    }
}

#[test]
fn the_footer_says_what_the_file_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = run(Recorder::builder(dir.path()).run("a"), &[10, 0]);
    let metadata = metadata(&run.join("part-00000.parquet"));
    let pairs = metadata.file_metadata().key_value_metadata().expect("metadata");
    let value = |key: &str| {
        pairs
            .iter()
            .find(|p| p.key == key)
            .and_then(|p| p.value.as_deref())
    };
    assert_eq!(value(columns::KEY_FORMAT_VERSION), Some("1"));
    assert_eq!(value(columns::KEY_RUN), Some("a"));
    assert!(value("ARROW:schema").is_some());
    let values = metadata.row_group(0).column(0);
    assert_eq!(
        (values.num_values(), values.column_path().string()),
        (11, "values.list.element".into())
    );
    assert_eq!(
        values.statistics().and_then(|s| s.null_count_opt()),
        Some(1),
        "the empty list"
    );
    let seq = metadata
        .row_group(0)
        .columns()
        .iter()
        .find(|c| c.column_path().string() == "seq")
        .expect("seq");
    assert!(
        seq.statistics()
            .is_some_and(|s| s.min_bytes_opt() == Some(&0i64.to_le_bytes()[..]))
    );
}

#[test]
fn without_values_a_record_still_has_its_hash_and_statistics() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::builder(dir.path())
        .run("s")
        .values(Values::Stats)
        .build()
        .expect("a recorder");
    recorder.record(Tap::new("q_proj", 0, 0), &[3.0f32, -4.0, f32::NAN][..]);
    recorder.record(Tap::new("ids", -1, 0), &[i64::MAX, -1][..]);
    let run = recorder.finish().expect("sealed").dir;
    let records = common::read(&run);
    for record in &records {
        assert_eq!((&record.values, &record.raw), (&None, &None));
    }
    common::check_record(&records[0], bytes_of(&[3.0f32, -4.0, f32::NAN]));
    let stats = records[0].meta.stats;
    assert_eq!(
        (stats.rms, stats.mean, stats.nan_count),
        (Some(12.5f64.sqrt()), Some(-0.5), 1)
    );
    assert_eq!(
        (stats.min, stats.max, stats.abs_max),
        (Some(-4.0), Some(3.0), Some(4.0))
    );
    common::check_record(&records[1], bytes_of(&[i64::MAX, -1]));
    assert_eq!(records[1].meta.stats.min, Some(-1.0));
}

fn raw_stats<T: Element>(dir: &Path, run: &str, data: &[T]) -> (Option<f64>, Option<f64>, u64) {
    let recorder = Recorder::builder(dir).run(run).build().expect("a recorder");
    recorder.record(Tap::new("x", 0, 0), data);
    let records = common::read(&recorder.finish().expect("sealed").dir);
    assert_eq!(records[0].raw.as_deref(), Some(bytes_of(data)));
    let stats = records[0].meta.stats;
    (stats.rms, stats.max, stats.inf_count)
}

#[test]
fn dtypes_that_f32_does_not_hold_keep_their_bytes_and_have_exact_statistics() {
    let dir = tempfile::tempdir().expect("a directory");
    let big = f64::MAX.sqrt() / 2.0;
    assert_eq!(
        raw_stats(dir.path(), "f64", &[big, f64::NEG_INFINITY]),
        (Some(big), Some(big), 1)
    );
    assert_eq!(
        raw_stats(dir.path(), "i32", &[i32::MAX]),
        (Some(i32::MAX.into()), Some(i32::MAX.into()), 0)
    );
    assert_eq!(
        raw_stats(dir.path(), "i64", &[-7i64, 7]),
        (Some(7.0), Some(7.0), 0)
    );
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let lengths: Vec<usize> = (0..200).map(|i| i * 37 % 900).collect();
    let write = || {
        let dir = tempfile::tempdir().expect("a directory");
        let run = run(Recorder::builder(dir.path()).run("same"), &lengths);
        std::fs::read(run.join("part-00000.parquet")).expect("a part")
    };
    assert!(write() == write());
}

#[test]
fn a_batch_gives_the_records_that_its_tokens_give_one_by_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (tokens, heads, keys) = (5usize, 3usize, 8usize);
    let q: Vec<f32> = (0..tokens * heads).map(|i| i as f32).collect();
    // [heads, tokens, keys]
    let scores: Vec<f32> = (0..heads * tokens * keys).map(|i| (i as f32).sin()).collect();
    let batched = Recorder::builder(dir.path())
        .run("batched")
        .build()
        .expect("a recorder");
    batched.begin_pass();
    batched.record(
        Tap::new("q_rope", 0, 0).token_axis(0),
        &Slice::new(&q, &[tokens, heads, 1]),
    );
    batched.record(
        Tap::new("attn_scores", 0, 0).token_axis(1).causal_axis(2),
        &Slice::new(&scores, &[heads, tokens, keys]),
    );
    let batched = common::read(&batched.finish().expect("sealed").dir);

    let single = Recorder::builder(dir.path())
        .run("single")
        .build()
        .expect("a recorder");
    for t in 0..tokens {
        single.begin_pass();
        single.record(
            Tap::new("q_rope", 0, t as i64),
            &Slice::new(&q[t * heads..(t + 1) * heads], &[heads, 1]),
        );
        let row = |h: usize| scores[(h * tokens + t) * keys..][..t + 1].to_vec();
        let seen: Vec<f32> = (0..heads).flat_map(row).collect();
        single.record(
            Tap::new("attn_scores", 0, t as i64),
            &Slice::new(&seen, &[heads, t + 1]),
        );
    }
    let single = common::read(&single.finish().expect("sealed").dir);
    let sorted = |records: &[common::Record]| {
        let mut records: Vec<_> = (records.iter())
            .map(|r| {
                (
                    r.meta.seq,
                    r.meta.stage.clone(),
                    r.meta.shape.clone(),
                    r.meta.blake3.clone(),
                    r.meta.occurrence,
                )
            })
            .collect();
        records.sort();
        records
    };
    assert_eq!(sorted(&batched), sorted(&single));
}

#[test]
fn what_repeats_is_told_apart_by_pass_and_occurrence() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::builder(dir.path())
        .run("a")
        .build()
        .expect("a recorder");
    let record = |tap: Tap<'_>| recorder.record(tap, &[1.0f32][..]);
    record(Tap::new("norm", 0, 0)); // before the first pass begins: pass 0 too
    recorder.begin_pass();
    record(Tap::new("norm", 0, 0));
    record(Tap::new("norm", 0, 0).request(1));
    record(Tap::new("norm", 1, 0));
    recorder.begin_pass();
    record(Tap::new("norm", 0, 0));
    record(Tap::new("norm", 0, 1));
    let records = common::read(&recorder.finish().expect("sealed").dir);
    let found: Vec<_> = records
        .iter()
        .map(|r| (r.meta.pass, r.meta.occurrence, r.meta.op_index))
        .collect();
    assert_eq!(
        found,
        [(0, 0, 0), (0, 1, 1), (0, 0, 2), (0, 0, 3), (1, 0, 4), (1, 0, 5)]
    );
}

#[test]
fn long_names_end_a_row_group_and_sizes_beyond_parquet_are_cut_to_what_it_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let all = Layout {
        page_bytes: usize::MAX,
        row_group_bytes: u64::MAX,
        row_group_rows: u64::MAX,
        part_bytes: u64::MAX,
    };
    let builder = Recorder::builder(dir.path()).run("a").layout(all);
    let recorder = builder.build().expect("a recorder");
    let name = "n".repeat(2 << 20);
    for seq in 0..40 {
        recorder.record(Tap::new("x", 0, seq).name(&name), &[1.0f64][..]);
    }
    let run = recorder.finish().expect("sealed").dir;
    let groups = metadata(&run.join("part-00000.parquet"));
    let rows: Vec<i64> = groups.row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!(rows, [31, 9], "64 MiB of names each");
    assert!(common::read(&run).iter().all(|r| r.meta.name == name));
}
