//! The call of the older tracing crate, in a process that the environment tells to record.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::dump_trace;
use std::process::Command;

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn an_engine_with_the_older_calls() {
    let (seq, layer, stage): (Option<usize>, Option<isize>, Option<&str>) =
        (Some(3), Some(6), Some("attn_out"));
    let x = [1.0f32, 2.0];
    dump_trace("t3/blk6/attn_out", &x[..], seq, layer, stage).expect("taken");
    dump_trace("logits", &x[..], 4, None, None).expect("taken");
    dump_trace("embeddings", &x[..], None, -1, "embeddings").expect("taken");
    dump_trace("x", &x[..], usize::MAX, 0, None).expect_err("no position");
    dump_trace("x", &x[..], 0, isize::MAX, None).expect_err("no layer");
}

#[test]
fn tensors_are_recorded_under_their_keys_and_what_has_none_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "an_engine_with_the_older_calls"])
        .env("BITNET_TRACE_DIR", dir.path())
        .env("BITNET_TRACE_RUN", "old")
        .output()
        .expect("it runs");
    assert!(engine.status.success(), "{engine:?}");
    let run = dir.path().join("run=old");
    let records = common::read(&run);
    let keys: Vec<_> = (records.iter())
        .map(|r| {
            (
                r.meta.seq,
                r.meta.layer,
                r.meta.stage.as_str(),
                r.meta.name.as_str(),
            )
        })
        .collect();
    assert_eq!(
        keys,
        [
            (3, 6, "attn_out", "t3/blk6/attn_out"),
            (4, -1, "logits", "logits"),
            (0, -1, "embeddings", "embeddings"),
        ]
    );
    assert_eq!(common::manifest(&run).dropped.total, 2);
}
