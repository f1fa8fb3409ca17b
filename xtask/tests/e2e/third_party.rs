//! An engine that is not ours and knows nothing of recording, seen from its backend.

use crate::support::*;
use std::collections::BTreeSet;
use std::process::Command;

/// llama-gguf on F32 weights, `batch` tokens of the prompt in a call.
fn llama_gguf(batch: &str) -> Command {
    let mut command = Command::new(program("llama-gguf-runner"));
    command.arg("--model").arg(f32());
    command.args(["--tokens", PROMPT_IDS, "--batch", batch]);
    command.args(["--max-tokens", &MAX_TOKENS.to_string()]);
    command
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn an_unchanged_rust_engine_is_recorded_by_its_backend_and_matches_llama_cpp() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()));
    db.record("whole", &mut llama_gguf("512"));
    db.record("single", &mut llama_gguf("1"));
    assert_eq!(db.continuation("single"), db.continuation("cpp"));

    let unseen: BTreeSet<&str> = ["attn_scores", "attn_probs"].into();
    let (all, _) = db.keys("cpp");
    let last = LAYERS as i32 - 1;
    let seen = |key: &&(i64, i32, String)| {
        !unseen.contains(key.2.as_str()) && (key.1 != last || key.2 != "layer_out")
    };
    let expected: BTreeSet<_> = all.iter().filter(seen).cloned().collect();
    assert_eq!(db.keys("single"), (expected.clone(), expected.len()));

    // Of a whole prompt, the engine takes the last token alone to the logits.
    let of_last = ["all_layers_out", "final_norm", "logits"];
    let left_out =
        |key: &&(i64, i32, String)| of_last.contains(&key.2.as_str()) && key.0 < PROMPT_LEN as i64 - 1;
    let whole: BTreeSet<_> = expected.iter().filter(|key| !left_out(key)).cloned().collect();
    assert_eq!(db.keys("whole"), (whole.clone(), whole.len()));

    for (run, keys) in [("single", expected), ("whole", whole)] {
        let (code, first) = db.first("cpp", run, &["--rel-l2", "1e-4"]);
        assert_eq!(code, 0, "{run}: {first:#}");
        let compared = count(&first, "identical") + count(&first, "within");
        assert_eq!(compared, keys.len() as u64, "{run}: {first:#}");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn an_unchanged_rust_engine_says_the_same_with_and_without_recording() {
    let db = Db::new();
    let without = run(&mut llama_gguf("512"));
    let with = run(llama_gguf("512").env("BITNET_TRACE_DIR", db.path()));
    assert_eq!((with.code, without.code), (0, 0), "{}", with.stderr);
    assert_eq!(with.stdout, without.stdout);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn an_engine_that_cannot_go_on_with_recorded_tensors_ends_with_exit_code_2() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()));
    for stored in [db.path().join("run=cpp"), db.path().join("run=none")] {
        let mut replayed = llama_gguf("512");
        replayed.env("BITNET_TRACE_DIR", db.path());
        let ended = run(replayed.env("BITNET_TRACE_REPLAY", &stored));
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("the replay stopped"), "{}", ended.stderr);
    }
}
