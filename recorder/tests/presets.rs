//! What the presets promise.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{Preset, Recorder, Tap};
use bitnet_trace_schema::RunState;

fn record(preset: Preset, queue_bytes: usize) -> bitnet_trace_schema::Manifest {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = Recorder::builder(dir.path()).run("a").preset(preset);
    let recorder = builder.queue_bytes(queue_bytes).build().expect("a recorder");
    for seq in 0..2000 {
        recorder.record(Tap::new("x", 0, seq), &[seq as f32; 1000][..]);
    }
    let summary = recorder.finish().expect("sealed");
    let manifest = common::manifest(&summary.dir);
    assert_eq!(
        (manifest.preset, manifest.queue_bytes),
        (preset, Some(queue_bytes as u64))
    );
    assert_eq!(manifest.state, RunState::Complete);
    assert_eq!(manifest.records + manifest.dropped.total, 2000);
    for record in common::read(&summary.dir) {
        assert_eq!(record.values, Some(vec![record.meta.seq as f32; 1000]));
    }
    manifest
}

#[test]
fn only_a_lossy_recorder_drops_what_finds_the_queue_full_and_it_counts_it() {
    for preset in [Preset::Default, Preset::Durable] {
        assert_eq!(record(preset, 20_000).dropped.total, 0, "{preset:?}");
    }
    let dropped = record(Preset::Lossy, 20_000).dropped;
    let counts: Vec<_> = dropped.reasons.into_iter().collect();
    assert_eq!(counts, [("queue full".to_owned(), dropped.total)]);
    assert_eq!(
        record(Preset::Lossy, 64 << 20).dropped.total,
        0,
        "it was never full"
    );
}
