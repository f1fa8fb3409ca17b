//! A recorder that has seen an engine's tensors once needs no more memory for the next ones.
#![cfg(feature = "trace")]

use bitnet_trace::{Recorder, Slice, Tap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

thread_local! {
    static OF_THIS_THREAD: Cell<u64> = const { Cell::new(0) };
}
static OF_ALL: AtomicU64 = AtomicU64::new(0);

/// Counts allocations.
struct Counting;

// SAFETY: every call goes to the system's allocator as it is; a const-initialised cell needs no allocation
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OF_ALL.fetch_add(1, Ordering::Relaxed);
        let _ = OF_THIS_THREAD.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        OF_ALL.fetch_add(1, Ordering::Relaxed);
        let _ = OF_THIS_THREAD.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One forward call: vectors, scores that grow with the position, strided views, logits.
fn pass(recorder: &Recorder, values: &[f32], seq: i64) {
    recorder.begin_pass();
    let keys = seq as usize + 1;
    for layer in 0..6 {
        for (stage, size) in [("attn_norm", 576), ("ffn_gate", 1536), ("layer_out", 576)] {
            let tap = Tap::new(stage, layer, seq)
                .token_axis(0)
                .name(stage)
                .op("MUL_MAT");
            recorder.record(tap, &Slice::new(values, &[1, size]));
        }
        let scores = Tap::new("attn_scores", layer, seq).token_axis(1).causal_axis(2);
        recorder.record(scores, &Slice::new(values, &[9, 1, keys]));
    }
    recorder.record(Tap::new("logits", -1, seq), &values[..49_152]);
}

#[test]
fn the_engine_thread_allocates_nothing_once_it_has_recorded_for_a_while() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::builder(dir.path())
        .run("a")
        .build()
        .expect("a recorder");
    let values = vec![0.25f32; 49_152];
    for seq in 0..64 {
        pass(&recorder, &values, seq);
    }
    // a writer that gets no time needs more buffers than before: that is no steady state, so there are several tries
    let mut fewest = u64::MAX;
    for round in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let before = OF_THIS_THREAD.get();
        for seq in 64..68 {
            pass(&recorder, &values, seq + round % 2);
        }
        fewest = fewest.min(OF_THIS_THREAD.get() - before);
    }
    assert_eq!(
        fewest,
        0,
        "allocations in four forward calls of {} tensors",
        6 * 4 + 1
    );
    assert!(OF_ALL.load(Ordering::Relaxed) > 0, "the count counts");
    let summary = recorder.finish().expect("sealed");
    assert_eq!((summary.records, summary.dropped), ((64 + 80) * 25, 0));
}
