//! A damaged or foreign file gives one clear error, and never a panic.
#![allow(clippy::unwrap_used)] // a failed test is a panic
#![cfg(feature = "cpu")]

mod common;

use std::path::Path;

use bitnet_models::{
    Engine, GenerateOptions, LoadOptions, Prompt, TinyType, Tokenizer, dequantize_gguf, generate,
};
use bitnet_trace::Recorder;
use common::{IDS, Tiny};

fn load(path: &Path) -> Result<Engine, bitnet_models::Error> {
    Engine::load(LoadOptions::new(path, Recorder::off()), &mut |_, _| {})
}

fn load_error(path: &Path) -> String {
    match load(path) {
        Ok(_) => panic!("{} loads", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Replaces the first occurrence of `from` by `to`, which has the same length.
fn patch(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    let mut patched = bytes.to_vec();
    patched[at..at + to.len()].copy_from_slice(to);
    patched
}

/// The bytes of a metadata key followed by its type and value.
fn u32_entry(key: &str, value: u32) -> Vec<u8> {
    [key.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat()
}

#[test]
fn a_missing_a_foreign_and_an_empty_file_are_named_with_the_reason() {
    let tiny = Tiny::new(TinyType::F32);
    let error = load_error(&tiny.dir.path().join("no-such.gguf"));
    assert!(
        error.contains("cannot open") && error.contains("no-such.gguf"),
        "{error}"
    );
    let error = load_error(&tiny.file("story.gguf", b"Once upon a time"));
    assert!(
        error.contains("not a GGUF file") && error.contains("\"Once\""),
        "{error}"
    );
    assert!(load_error(&tiny.file("empty.gguf", b"")).contains("empty"));
    assert!(load_error(tiny.dir.path()).contains("not a regular file"));
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_says_so() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let whole = std::fs::read(&tiny.path).unwrap();
    let cuts = (4..whole.len() - 32).step_by(1 + whole.len() / 300);
    for len in cuts {
        let path = tiny.file("cut.gguf", &whole[..len]);
        let error = load_error(&path);
        assert!(error.contains("cut short"), "{len}: {error}");
        assert!(dequantize_gguf(&path, &tiny.dir.path().join("out.gguf"), &mut |_, _| {}).is_err());
    }
}

#[test]
fn a_damaged_header_never_panics_in_loading_or_running() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let whole = std::fs::read(&tiny.path).unwrap();
    let name = b"output_norm.weight";
    let header = whole
        .windows(name.len())
        .rposition(|window| window == name)
        .unwrap()
        + 64;
    let options = GenerateOptions::new(Prompt::Text("The capital".to_owned()), 2);
    let mut loaded = 0;
    for (round, at) in (4..header).step_by(11).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] = [0x00, 0xFF, bytes[at] ^ 1, bytes[at].wrapping_add(1)][round % 4];
        if let Ok(mut engine) = load(&tiny.file("damaged.gguf", &bytes)) {
            loaded += 1;
            let _ = generate(&mut engine, &options, &mut |_| {});
        }
    }
    assert!(loaded > 0, "the damage is meant to reach the forward pass too");
}

#[test]
fn another_architecture_is_named_with_the_supported_ones() {
    let tiny = Tiny::new(TinyType::F32);
    let whole = std::fs::read(&tiny.path).unwrap();
    let error = load_error(&tiny.file("other.gguf", &patch(&whole, b"llama", b"mamba")));
    assert!(
        error.contains("architecture \"mamba\"; supported: llama"),
        "{error}"
    );
}

#[test]
fn missing_and_mistyped_metadata_and_impossible_values_are_named() {
    let tiny = Tiny::new(TinyType::F32);
    let whole = std::fs::read(&tiny.path).unwrap();
    let key = "llama.block_count";
    let error = load_error(&tiny.file("a.gguf", &patch(&whole, key.as_bytes(), b"llama.black_count")));
    assert!(error.contains("no metadata key \"llama.block_count\""), "{error}");
    let float = [key.as_bytes(), &6u32.to_le_bytes(), &4u32.to_le_bytes()].concat();
    let error = load_error(&tiny.file("b.gguf", &patch(&whole, &u32_entry(key, 4), &float)));
    assert!(
        error.contains("of type f32, expected an unsigned integer"),
        "{error}"
    );
    for (key, from, to, reason) in [
        ("llama.block_count", 4, 0, "at least 1"),
        ("llama.attention.head_count", 4, 5, "does not divide"),
        ("llama.attention.head_count_kv", 2, 3, "does not divide"),
        ("llama.rope.dimension_count", 16, 15, "must be even"),
        ("llama.rope.dimension_count", 16, 18, "must be even and at most"),
    ] {
        let patched = patch(&whole, &u32_entry(key, from), &u32_entry(key, to));
        let error = load_error(&tiny.file("c.gguf", &patched));
        assert!(error.contains(key) && error.contains(reason), "{error}");
    }
}

#[test]
fn missing_unused_and_misshapen_tensors_are_named() {
    let tiny = Tiny::new(TinyType::F32);
    let whole = std::fs::read(&tiny.path).unwrap();
    let error = load_error(&tiny.file(
        "a.gguf",
        &patch(&whole, b"blk.2.attn_q.weight", b"blk.2.attn_x.weight"),
    ));
    assert!(error.contains("no tensor \"blk.2.attn_q.weight\""), "{error}");
    let entries = |layers| u32_entry("llama.block_count", layers);
    let error = load_error(&tiny.file("b.gguf", &patch(&whole, &entries(4), &entries(5))));
    assert!(error.contains("no tensor \"blk.4.attn_norm.weight\""), "{error}");
    let error = load_error(&tiny.file("c.gguf", &patch(&whole, &entries(4), &entries(3))));
    assert!(
        error.contains("9 tensors") && error.contains("blk.3.attn_norm.weight"),
        "{error}"
    );
    let ff = |n| u32_entry("llama.feed_forward_length", n);
    let error = load_error(&tiny.file("d.gguf", &patch(&whole, &ff(128), &ff(127))));
    assert!(
        error.contains("has shape [128, 64], expected [127, 64]"),
        "{error}"
    );
}

#[test]
fn an_unknown_pre_tokenizer_is_named_and_token_ids_still_work() {
    let tiny = Tiny::new(TinyType::F32);
    let whole = std::fs::read(&tiny.path).unwrap();
    let path = tiny.file("pre.gguf", &patch(&whole, b"smollm", b"mollsm"));
    let mut engine = load(&path).unwrap();
    let text = GenerateOptions::new(Prompt::Text("The".to_owned()), 1);
    let error = generate(&mut engine, &text, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.ggml.pre is \"mollsm\"") && error.contains("--tokenizer"),
        "{error}"
    );
    let ids = GenerateOptions::new(Prompt::Tokens(IDS.to_vec()), 1);
    assert_eq!(
        generate(&mut engine, &ids, &mut |_| {})
            .unwrap()
            .generated_ids
            .len(),
        1
    );
}

#[test]
fn contradictory_vocabularies_and_tokenizer_files_are_errors() {
    let tiny = Tiny::new(TinyType::F32);
    let whole = std::fs::read(&tiny.path).unwrap();
    let engine = load(&tiny.file("merge.gguf", &patch(&whole, b"Franc e", b"Franc f"))).unwrap();
    let error = engine.tokenizer().err().unwrap().to_string();
    assert!(
        error.contains("\"Franc f\"") && error.contains("not there"),
        "{error}"
    );

    let file = |json: &str| Tokenizer::from_file(&tiny.file("tokenizer.json", json.as_bytes()), None).err();
    assert!(file("not json").unwrap().to_string().contains("unusable"));
    assert!(file("{}").is_some());
    let merges = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}}"#;
    assert!(
        file(merges)
            .unwrap()
            .to_string()
            .contains("does not give a token")
    );
    assert!(Tokenizer::from_file(&tiny.dir.path().join("none.json"), None).is_err());
}
