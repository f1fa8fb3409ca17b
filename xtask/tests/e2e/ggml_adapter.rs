//! The ggml adapter in programs that know nothing of it but one line.

use crate::support::*;
use std::process::Command;

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_host_with_one_line_that_keeps_the_last_row_only_records_the_right_positions() {
    let db = Db::new();
    db.record("all-rows", &mut cpp(&f32()));
    db.record(
        "last-row",
        Command::new(program("one-line-host"))
            .arg(f32())
            .args(PROMPT_IDS.split(',')),
    );
    let (keys, _) = db.keys("last-row");
    let prompt = 0..PROMPT_LEN as i64;
    assert!(
        prompt
            .clone()
            .all(|seq| keys.contains(&(seq, 28, "layer_out".into())))
    );
    assert!(
        prompt
            .clone()
            .all(|seq| keys.contains(&(seq, LAYERS as i32 - 1, "k_rope".into())))
    );
    let kept: Vec<_> = prompt
        .filter(|&seq| keys.contains(&(seq, -1, "logits".into())))
        .collect();
    assert_eq!(
        kept,
        [PROMPT_LEN as i64 - 1],
        "only the last row of the prompt has logits"
    );

    // What it recorded equals the records of the run that kept every row; the rest is missing, not mismatched.
    let (code, first) = db.first("all-rows", "last-row", &[]);
    assert_eq!(code, 0, "{first:#}");
    assert_eq!(
        (count(&first, "diverged"), count(&first, "missing_left")),
        (0, 0),
        "{first:#}"
    );
    assert!(count(&first, "missing_right") > 0);
    assert_eq!(
        db.manifest("all-rows")["sequences"][0]["ids"][0],
        504,
        "token ids come from the graph"
    );
    assert_eq!(
        db.manifest("last-row")["sequences"][0]["ids"][0],
        504,
        "token ids come from the graph"
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn recording_does_not_change_what_the_c_engine_says() {
    let silent = run(&mut cpp(&q4()));
    let db = Db::new();
    let recorded = run(cpp(&q4()).env("BITNET_TRACE_DIR", db.path()));
    assert_eq!((silent.code, &silent.stdout), (0, &recorded.stdout));
    assert_eq!(recorded.code, 0);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn flash_attention_and_an_f16_cache_are_recorded_and_told_apart() {
    let db = Db::new();
    db.record("plain", &mut cpp(&f32()));
    db.record("flash", cpp(&f32()).args(["--flash-attn", "on"]));
    db.record("f16", cpp(&f32()).args(["--kv-type", "f16"]));
    assert_eq!(db.manifest("flash")["settings"]["flash_attention"], true);
    assert_eq!(db.manifest("f16")["settings"]["kv_type"], "F16");

    // The fused kernel has no scores and no probabilities of its own: they are missing, and nothing else is.
    let (keys, _) = db.keys("flash");
    assert!(!keys.iter().any(|k| k.2 == "attn_scores" || k.2 == "attn_probs"));
    let (_, first) = db.first("plain", "flash", &["--rel-l2", "1e-3"]);
    assert_eq!(
        count(&first, "missing_right"),
        (2 * LAYERS * POSITIONS) as u64,
        "{first:#}"
    );

    // An F16 cache first shows where K is read back.
    let (code, first) = db.first("plain", "f16", &[]);
    assert_eq!(
        (code, &first["first_divergence"]["stage"]),
        (1, &"k_cache".into()),
        "{first:#}"
    );
}
