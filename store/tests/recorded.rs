//! Runs that the recorder made.
#![allow(missing_docs, clippy::unwrap_used)]

use bitnet_trace::{Engine, Layout, Recorder, Slice, Tap, Values};
use bitnet_trace_schema::{DType, RunState, Stats};
use bitnet_trace_store::{Database, Filter, Run};

fn recorder(dir: &tempfile::TempDir, run: &str) -> Recorder {
    let engine = Engine::new("test-engine", "1.0");
    Recorder::builder(dir.path())
        .engine(engine)
        .run(run)
        .build()
        .unwrap()
}

/// Three tokens through two layers, in batches of two and one.
fn record(recorder: &Recorder) {
    for (first, tokens) in [(0, 2), (2, 1)] {
        recorder.begin_pass();
        recorder.tokens(0, first, &[7, 8, 9][first as usize..][..tokens]);
        for layer in 0..2 {
            for stage in ["attn_norm", "layer_out"] {
                let data: Vec<f32> = (0..tokens * 300)
                    .map(|i| (i as f32 + first as f32 * 300.0).sin())
                    .collect();
                let tap = Tap::new(stage, layer, first).token_axis(0);
                recorder.record(tap, &Slice::new(&data, &[tokens, 300]));
            }
        }
    }
}

#[test]
fn a_recorded_run_is_complete_and_reads_back_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let rec = recorder(&dir, "rust");
    record(&rec);
    rec.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert_eq!((run.name(), run.manifest().state), ("rust", RunState::Complete));
    assert!(run.completeness().is_complete(), "{:?}", run.completeness());
    assert_eq!(run.manifest().sequences[0].ids, [Some(7), Some(8), Some(9)]);
    let rows = run.records(&Filter::default());
    assert_eq!(rows.len(), 12);
    for row in &rows {
        let tensor = run.tensor(row).unwrap();
        let values = tensor.values().unwrap();
        let expected: Vec<f32> = (0..300)
            .map(|i| (i as f32 + row.meta.seq as f32 * 300.0).sin())
            .collect();
        assert_eq!(values, expected);
        assert!(tensor.is_zero_copy());
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(row.meta.blake3, blake3::hash(&bytes).to_hex().as_str());
        assert_eq!(row.meta.stats, Stats::of_f32(values));
    }
    let keys: Vec<_> = rows
        .iter()
        .map(|r| (r.meta.seq, r.meta.layer, r.meta.stage.as_str()))
        .collect();
    assert_eq!(&keys[..2], [(0, 0, "attn_norm"), (0, 0, "layer_out")]);
}

#[test]
fn parts_row_groups_and_pages_of_a_recorded_run_are_all_found() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout {
        page_bytes: 2_000,
        row_group_bytes: 6_000,
        part_bytes: 20_000,
        ..Layout::default()
    };
    let rec = Recorder::builder(dir.path())
        .run("many")
        .layout(layout)
        .build()
        .unwrap();
    for seq in 0..40 {
        let data = vec![seq as f32; 1 + 17 * seq as usize];
        rec.record(Tap::new("logits", -1, seq), &Slice::new(&data, &[data.len()]));
    }
    rec.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.manifest().parts.len() > 1);
    let rows = run.records(&Filter::default());
    assert_eq!(rows.len(), 40);
    for (seq, row) in rows.iter().enumerate() {
        assert_eq!(
            run.tensor(row).unwrap().values(),
            Some(&vec![seq as f32; 1 + 17 * seq][..])
        );
    }
}

#[test]
fn a_recorded_run_of_statistics_has_no_values() {
    let dir = tempfile::tempdir().unwrap();
    let rec = Recorder::builder(dir.path())
        .run("stats")
        .values(Values::Stats)
        .build()
        .unwrap();
    record(&rec);
    rec.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let rows = run.records(&Filter::default());
    assert_eq!(rows.len(), 12);
    assert!(
        rows.iter()
            .all(|r| !r.has_elements() && r.meta.stats.rms.is_some())
    );
}

#[test]
fn every_recorded_dtype_comes_back_with_its_elements() {
    let dir = tempfile::tempdir().unwrap();
    let rec = recorder(&dir, "dtypes");
    let mut op = 0;
    let mut tap = || {
        op += 1;
        Tap::new("x", op, 0)
    };
    rec.record(tap(), &Slice::new(&[1.5f64, -0.1], &[2]));
    rec.record(tap(), &Slice::new(&[1i64, -2], &[2]));
    rec.record(tap(), &Slice::new(&[1i32, -2], &[2]));
    rec.record(tap(), &Slice::new(&[1i8, -2], &[2]));
    rec.record(tap(), &Slice::new(&[1u8, 2], &[2]));
    rec.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let rows = run.records(&Filter::default());
    let found: Vec<_> = rows
        .iter()
        .map(|r| (r.meta.dtype, run.tensor(r).unwrap().to_f64().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (DType::F64, vec![1.5, -0.1]),
            (DType::I64, vec![1.0, -2.0]),
            (DType::I32, vec![1.0, -2.0]),
            (DType::I8, vec![1.0, -2.0]),
            (DType::U8, vec![1.0, 2.0]),
        ]
    );
}

#[test]
fn a_run_that_is_being_recorded_is_incomplete_and_later_complete() {
    let dir = tempfile::tempdir().unwrap();
    let rec = recorder(&dir, "live");
    record(&rec);
    let db = Database::open(dir.path()).unwrap();
    let live = &db.runs()[0];
    assert_eq!(live.state, Some(RunState::Recording));
    let reasons: Vec<_> = live
        .completeness
        .reasons()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(reasons[0].contains("still recording"), "{reasons:?}");
    rec.finish().unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(
        (db.runs()[0].state, db.runs()[0].records),
        (Some(RunState::Complete), 12)
    );
    assert!(db.runs()[0].completeness.is_complete());
}
