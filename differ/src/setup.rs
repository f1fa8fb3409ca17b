//! What two runs were given, before any tensor: model, tokenizer, tokens, and the settings that change an engine's numbers.

use crate::{ids::TokenIds, num, records::Side};
use bitnet_trace_schema::Manifest;
use serde::Serialize;

/// One thing that both runs should have been given alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// `model`, `tokenizer`, `token ids`, `KV cache`, `flash attention` or `threads`.
    pub what: &'static str,
    /// What the left run had; null where it does not tell.
    pub left: Option<String>,
    /// What the right run had.
    pub right: Option<String>,
    /// Whether they are the same; null where one does not tell.
    pub same: Option<bool>,
}

impl Given {
    fn new(what: &'static str, of: &dyn Fn(&Manifest) -> Option<String>, runs: [&Manifest; 2]) -> Self {
        let [left, right] = runs.map(of);
        Self {
            what,
            same: left.as_ref().zip(right.as_ref()).map(|(l, r)| l == r),
            left,
            right,
        }
    }
}

/// What both runs were given.
pub fn given(left: &Side<'_>, right: &Side<'_>, ids: &TokenIds) -> Vec<Given> {
    let runs = [left.manifest, right.manifest];
    let model = |m: &Manifest| m.model.as_ref()?.blake3.clone();
    // A tokenizer that is not a file of its own is the model's.
    let tokenizer = |m: &Manifest| {
        let model = m.model.as_ref()?;
        model.tokenizer_blake3.clone().or_else(|| model.blake3.clone())
    };
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let count = |m: &Manifest| {
        let known = m.sequences.iter().flat_map(|s| &s.ids).filter(|id| id.is_some());
        Some(num::plural(known.count() as u64, "token id")).filter(|text| !text.starts_with("0 "))
    };
    let mut tokens = Given::new("token ids", &count, runs);
    // Equal as far as both runs go: one may have been asked for more.
    tokens.same = tokens.same.map(|_| ids.differences.is_empty());
    vec![
        Given::new("model", &model, runs),
        Given::new("tokenizer", &tokenizer, runs),
        tokens,
        Given::new("KV cache", &|m| m.settings.kv_type.clone(), runs),
        Given::new("flash attention", &|m| m.settings.flash_attention.map(on), runs),
        Given::new("threads", &|m| m.settings.threads.map(|n| n.to_string()), runs),
    ]
}
