//! A run with a selection: what it keeps, and what it leaves alone.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{AsTensor, Error, Recorder, Slice, Tap, TensorError, TensorView};
use bitnet_trace_schema::RunState;
use common::Record;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

fn recorder(dir: &Path, selection: &str) -> Recorder {
    let builder = Recorder::builder(dir).run("a").select(selection);
    builder.build().expect("a recorder")
}

/// Two forward calls of a small engine: a prompt of four tokens, then one token; two requests in the latter.
fn engine(recorder: &Recorder) {
    let values: Vec<f32> = (0..4 * 4 * 2).map(|x| x as f32).collect();
    for (first, tokens, requests) in [(0, 4, [0, 0, 0, 0]), (4, 2, [0, 1, 0, 0])] {
        recorder.begin_pass();
        recorder.tokens(0, first, &[7, 8, 9, 10][..tokens]);
        let keys = first as usize + tokens;
        let positions: Vec<i64> = (0..tokens as i64).map(|i| first + i).collect();
        let (vector, scores) = ([tokens, 2], [1, tokens, keys]);
        let vector = Slice::new(&values[..tokens * 2], &vector);
        let scores = Slice::new(&values[..tokens * keys], &scores);
        recorder.record(Tap::new("embeddings", -1, first).token_axis(0), &vector);
        for layer in 0..3 {
            let tap = |stage| {
                Tap::new(stage, layer, first)
                    .requests(&requests[..tokens])
                    .token_axis(0)
            };
            recorder.record(tap("q_proj").positions(&positions), &vector);
            recorder.record(tap("attn_norm"), &vector);
            recorder.record(tap("attn_scores").token_axis(1).causal_axis(2), &scores);
        }
        let last = first + tokens as i64 - 1;
        recorder.record(Tap::new("logits", -1, last), &values[..8]);
    }
}

/// A record but for its place in the order of what was recorded.
fn placeless(mut record: Record) -> Record {
    record.meta.op_index = 0;
    record
}

fn recorded(selection: &str) -> Vec<Record> {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), selection);
    engine(&recorder);
    let summary = recorder.finish().expect("sealed");
    let m = common::manifest(&summary.dir);
    assert_eq!(
        (m.state, m.dropped.total, m.failure),
        (RunState::Complete, 0, None)
    );
    assert_eq!(m.selection.as_deref(), Some(selection).filter(|s| !s.is_empty()));
    let ids: Vec<_> = m.sequences[0].ids.iter().flatten().copied().collect();
    assert_eq!(ids, [7, 8, 9, 10, 7, 8], "of every position");
    let records = common::read(&summary.dir);
    assert_eq!(summary.records, records.len() as u64);
    records
}

#[test]
fn a_run_holds_the_selected_records_of_a_full_run_and_is_complete() {
    let all = recorded("");
    assert_eq!(all.len(), 4 + 3 * 4 * 3 + 1 + 2 + 3 * 2 * 3 + 1);
    for selection in [
        "seq=0-2,layer=1,stage=attn_*;layer=-1",
        "seq=1|4-",
        "seq!=1|4-",
        "layer=-1|2",
        "request=1",
        "request=0,stage!=attn_*",
        "stage=attn_scores,seq=2",
        "stage=logits",
        "stage=nothing",
        "seq=5,layer=0",
    ] {
        let parsed: bitnet_trace_schema::selection::Selection = selection.parse().expect("a selection");
        let wanted = |r: &Record| {
            parsed
                .tokens(&r.meta.stage, r.meta.layer)
                .wants(r.meta.seq, r.meta.request)
        };
        let expected: Vec<Record> = all.iter().filter(|r| wanted(r)).cloned().map(placeless).collect();
        let found: Vec<Record> = recorded(selection).into_iter().map(placeless).collect();
        assert_eq!(found, expected, "{selection}");
        assert_eq!(found.is_empty(), selection == "stage=nothing", "{selection}");
    }
}

/// A tensor that nobody may look at.
struct Untouchable;

impl AsTensor for Untouchable {
    fn with_view(&self, _: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        panic!("this tensor is not selected")
    }
}

#[test]
fn a_tensor_that_is_not_selected_is_not_looked_at_and_counts_neither_as_recorded_nor_as_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "layer=1,seq=5-");
    for tap in [
        Tap::new("x", 0, 5),
        Tap::new("x", 1, 4),
        Tap::new("x", 2, 0).token_axis(0),
        Tap::new("x", 1, 9).token_axis(0).positions(&[0, 4]),
    ] {
        assert!(!recorder.wants(&tap));
        assert_eq!(recorder.try_record(tap, &Untouchable), Ok(()));
        recorder.drop_tensor(tap, "no reason");
    }
    // the shape tells that it ends before position 5: nothing of it is kept
    let short = Tap::new("x", 1, 0).token_axis(0);
    assert!(recorder.wants(&short), "it might be longer");
    recorder.record(short, &Slice::new(&[0.0f32; 4], &[4, 1]));
    let wanted = Tap::new("x", 1, 4).token_axis(0);
    assert!(recorder.wants(&wanted));
    recorder.record(wanted, &Slice::new(&[1.0f32, 2.0], &[2, 1]));
    recorder.record(wanted, &Slice::new(&[1.0f32, 2.0], &[7, 1]));
    recorder.drop_tensor(Tap::new("x", 1, -1), "position not known");
    recorder.drop_tensor(Tap::new("", 0, 0), "nothing known");
    let summary = recorder.finish().expect("sealed");
    assert_eq!((summary.records, summary.dropped), (1, 3));
    assert!(!recorder.wants(&wanted), "after the end");
    assert_eq!(common::read(&summary.dir)[0].values, Some(vec![2.0]));
}

#[test]
fn a_wrong_selection_is_an_error_before_anything_is_created() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = dir.path().join("traces");
    let error = (Recorder::builder(&below)
        .run("a")
        .select("seq=0,layer=six")
        .build())
    .expect_err("refused");
    assert!(matches!(&error, Error::Selection(e) if (e.column(), e.token()) == (13, "six")));
    assert!(
        error
            .to_string()
            .contains("column 13, \"six\": this is not a number"),
        "{error}"
    );
    assert!(!below.exists());
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts this thread's allocations.
struct Counting;

// SAFETY: every call goes to the system's allocator as it is; a const-initialised cell needs no allocation
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn deciding_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(
        dir.path(),
        "stage=*_norm,layer=1-,seq=3|5-9;layer=-1,stage=?nal*;request=2-",
    );
    let positions = [0i64, 1, 2, 4];
    let before = ALLOCATIONS.get();
    for layer in -2..30 {
        for stage in ["logits", "attn_scores", "q_proj"] {
            let tap = Tap::new(stage, layer, 0).token_axis(0).positions(&positions);
            assert!(!recorder.wants(&tap));
            recorder.record(tap, &Untouchable);
            assert!(!recorder.wants(&Tap::new(stage, layer, -1)));
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
}
