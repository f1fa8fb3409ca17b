//! `tap!` records what its expression gives, and gives it on.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{LAYER_ALL, Recorder, Slice, tap};
use common::read;

#[test]
fn a_tapped_expression_is_recorded_at_the_pass_s_positions_and_given_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::builder(dir.path()).build().expect("a recorder");
    let scores = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let layer = 4usize;
    for first in [0, 1] {
        let pass = recorder.pass(3, first, &[504u32, 3575]);
        let mut computed = 0;
        let x = tap!(pass, embeddings, {
            computed += 1;
            vec![0.5f32, 0.25]
        });
        assert_eq!((computed, x), (1, vec![0.5, 0.25]), "computed once, and given on");
        // [heads, tokens, keys]
        let view = Slice::new(&scores, &[1, 2, 3]);
        tap!(
            pass,
            attn_scores[layer],
            view,
            token_axis(1),
            causal_axis(2),
            op("MUL_MAT")
        );
        tap!(pass, all_layers_out[LAYER_ALL], vec![7.0f32, 8.0]);
    }
    let run = recorder.finish().expect("sealed").dir;
    let key = |r: &common::Record| (r.meta.pass, r.meta.seq, r.meta.layer, r.meta.stage.to_string());
    let found: Vec<_> = read(&run)
        .iter()
        .map(|r| (key(r), r.values.clone().expect("values")))
        .collect();
    let row = |pass, seq, layer, stage: &str, values: &[f32]| {
        ((pass, seq, layer, stage.to_owned()), values.to_vec())
    };
    assert_eq!(
        found,
        [
            row(0, 0, -1, "embeddings", &[0.5]),
            row(0, 1, -1, "embeddings", &[0.25]),
            row(0, 0, 4, "attn_scores", &[1.0]),
            row(0, 1, 4, "attn_scores", &[4.0, 5.0]),
            row(0, 0, -2, "all_layers_out", &[7.0]),
            row(0, 1, -2, "all_layers_out", &[8.0]),
            row(1, 1, -1, "embeddings", &[0.5]),
            row(1, 2, -1, "embeddings", &[0.25]),
            row(1, 1, 4, "attn_scores", &[1.0, 2.0]),
            row(1, 2, 4, "attn_scores", &[4.0, 5.0, 6.0]),
            row(1, 1, -2, "all_layers_out", &[7.0]),
            row(1, 2, -2, "all_layers_out", &[8.0]),
        ]
    );
    assert!(read(&run).iter().all(|r| r.meta.request == 3));
    assert_eq!(read(&run)[2].meta.op, "MUL_MAT");
}

#[test]
fn a_pass_wants_what_the_selection_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::builder(dir.path())
        .select("layer=2,seq=5-")
        .build()
        .expect("a recorder");
    for (first, layer, wanted) in [(5, 2usize, true), (0, 2, true), (5, 1, false)] {
        assert_eq!(recorder.pass(0, first, &[1u32]).wants("k_cache", layer), wanted);
    }
    assert!(!Recorder::off().pass(0, 5, &[1u32]).wants("k_cache", 2));
}
