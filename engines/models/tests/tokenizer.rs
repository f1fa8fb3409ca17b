//! The tokenizer built from a GGUF.
#![allow(clippy::unwrap_used)] // a failed test is a panic
#![cfg(feature = "cpu")]

mod common;

use std::sync::Arc;

use bitnet_models::{TinyType, Tokenizer};
use common::{Tiny, load};

fn tokenizer() -> Arc<Tokenizer> {
    Tiny::new(TinyType::F32).engine().tokenizer().unwrap().clone()
}

/// Id of a plain ASCII byte: four control tokens come first.
fn byte(byte: u8) -> u32 {
    4 + u32::from(byte)
}

#[test]
fn every_text_comes_back_as_it_was() {
    let tokenizer = tokenizer();
    for text in [
        "The capital of France is",
        " leading and trailing ",
        "tabs\tand\r\nlines\n\n",
        "2024-12-31 and 3.14159",
        "naïve café — “quotes” …",
        "日本語 العربية עברית",
        "👩‍👩‍👧‍👦 \u{0}\u{7f}",
        "<|im_start|>user<|im_end|>",
    ] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert!(
            ids.iter().all(|&id| id >= 4),
            "no control token in plain text: {text:?}"
        );
    }
    assert!(tokenizer.encode("", false).unwrap().is_empty());
}

#[test]
fn merges_apply_by_rank_within_words() {
    let tokenizer = tokenizer();
    let texts = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, false).unwrap();
        ids.iter()
            .map(|&id| tokenizer.decode(&[id], true).unwrap())
            .collect()
    };
    assert_eq!(
        texts("The capital of France"),
        ["The", " capital", " of", " France"]
    );
    assert_eq!(
        texts("the city, their"),
        ["t", "he", " city", ",", " the", "i", "r"]
    );
}

#[test]
fn each_digit_is_a_token_of_its_own_and_no_space_is_put_in_front() {
    let tokenizer = tokenizer();
    assert_eq!(
        tokenizer.encode("123", false).unwrap(),
        [byte(b'1'), byte(b'2'), byte(b'3')]
    );
    assert_eq!(tokenizer.encode("!", false).unwrap(), [byte(b'!')]);
}

#[test]
fn control_tokens_are_parsed_only_when_asked_for_and_shown_only_when_asked_for() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("<|im_start|>a<|im_end|>", true).unwrap();
    assert_eq!(ids, [1, byte(b'a'), 2]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<|im_start|>a<|im_end|>");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a");
    assert!(tokenizer.encode("<|im_start|>", false).unwrap().len() > 1);
}

#[test]
fn streamed_text_holds_a_character_back_until_its_last_byte() {
    let tokenizer = tokenizer();
    let text = "é日👋!";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids.len(), 2 + 3 + 4 + 1);
    let mut stream = tokenizer.stream(true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "日", "", "", "", "👋", "!"]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn bytes_that_are_no_character_come_out_as_replacement_characters() {
    let tokenizer = tokenizer();
    let mut stream = tokenizer.stream(true);
    let lead = byte(0xF0);
    let mut text = String::new();
    for _ in 0..9 {
        text += &stream.push(lead).unwrap();
    }
    text += &stream.push(byte(b'a')).unwrap();
    text += &stream.finish().unwrap();
    assert_eq!(text.trim_start_matches('\u{FFFD}'), "a");
    let mut stream = tokenizer.stream(true);
    assert_eq!(stream.push(lead).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn the_bos_token_comes_first_when_the_model_says_so() {
    let tiny = Tiny::new(TinyType::F32);
    let mut bytes = std::fs::read(&tiny.path).unwrap();
    let key = b"tokenizer.ggml.add_bos_token";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at] = 1;
    let engine = load(&tiny.file("bos.gguf", &bytes));
    assert_eq!(
        engine.tokenizer().unwrap().encode("a", false).unwrap(),
        [1, byte(b'a')]
    );
}

#[test]
fn a_tokenizer_json_can_take_the_place_of_the_metadata() {
    let tiny = Tiny::new(TinyType::F32);
    let json = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}}"#;
    let path = tiny.file("tokenizer.json", json.as_bytes());
    let tokenizer = Tokenizer::from_file(&path, Some(tiny.engine().gguf())).unwrap();
    assert_eq!(tokenizer.encode("aba", false).unwrap(), [2, 0]);
    assert_eq!(tokenizer.decode(&[2, 0], false).unwrap(), "aba");
    assert_eq!(tokenizer.vocab_size(), 3);
}
