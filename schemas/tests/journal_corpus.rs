//! The seeds of the fuzz target of the journal, and changes of them.
#![allow(missing_docs)]
#![cfg(feature = "part")]

#[path = "../../fuzz/src/journal.rs"]
mod journal;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

use bitnet_trace_schema::journal::{PageAt, PendingRows, header, tokens};
use bitnet_trace_schema::{DType, RecordMeta, Stats};
use replay::replay;
use std::path::Path;

#[test]
fn every_seed_of_a_journal_is_read_up_to_what_is_torn() {
    replay("journal", 500, journal::check);
}

#[test]
#[ignore = "writes the seeds anew; for a change of the format"]
fn the_seeds_of_journals_can_be_written_again() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/journal");
    let put = |name: &str, bytes: &[u8]| std::fs::write(seeds.join(name), bytes).expect("written");
    let meta = |seq, stage: &str, dtype, shape: &[i64]| RecordMeta {
        seq,
        layer: 3,
        stage: stage.into(),
        name: format!("{stage}-3").into(),
        op: "MUL_MAT".into(),
        op_index: seq * 9,
        request: 0,
        pass: 1,
        occurrence: 0,
        shape: shape.to_vec(),
        dtype,
        num_elements: shape.iter().product(),
        blake3: "0123456789abcdef".repeat(4),
        stats: Stats::of_f32(&[1.0, -2.0, f32::NAN]),
    };
    let mut all = Vec::new();
    header("golden", 0, "bitnet-trace", &mut all);
    put("header", &all);
    tokens(0, 0, 0, &[1, 2, -1, i32::MAX], &mut all);
    let mut pending = PendingRows::default();
    pending
        .push(&meta(0, "attn_out", DType::F32, &[2, 3]), Some(6), None)
        .expect("a row");
    pending
        .push(&meta(1, "empty", DType::F16, &[0]), Some(0), None)
        .expect("a row");
    let at = PageAt {
        offset: 4,
        bytes: 100,
        checksum: 7,
    };
    all.extend_from_slice(pending.page(&at));
    pending.clear();
    pending
        .push(&meta(2, "raw", DType::F64, &[2]), None, Some(&[7; 16]))
        .expect("a row");
    pending
        .push(&meta(3, "stats", DType::F32, &[]), None, None)
        .expect("a row");
    pending.rows(&[], &mut all).expect("an entry");
    pending
        .push(&meta(4, "q_rope", DType::BF16, &[3]), Some(3), None)
        .expect("a row");
    pending.rows(&[9; 12], &mut all).expect("an entry");
    tokens(1, 5, 2, &[8], &mut all);
    put("all", &all);
    put("torn", &all[..all.len() - 5]);
}
