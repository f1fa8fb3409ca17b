//! Which node is which stage.

use bitnet_trace_schema::{StageGraph, StageScope};
use std::{collections::BTreeMap, sync::LazyLock};

/// How ggml lays out a stage's tensor, fastest axis first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[n, tokens]`
    Rows,
    /// `[head_dim, heads, tokens]`
    Heads,
    /// `[keys, tokens of a stream, heads, streams]`
    Keys,
}

/// A stage that has a node of its own. `k_cache` and `v_cache` have none: they are read from the sources of the product
/// `kq`, of `kqv` and of the fused FLASH_ATTN_EXT, whose own result is attn_ctx and has no name.
#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub in_layer: bool,
    pub layout: Layout,
    /// Its rank in the vocabulary.
    pub rank: usize,
}

static STAGES: LazyLock<Vec<Stage>> = LazyLock::new(|| {
    let of = |(rank, stage): (usize, &bitnet_trace_schema::Stage)| Stage {
        name: stage.name.clone(),
        in_layer: stage.scope == StageScope::Layer,
        layout: match stage.name.as_str() {
            "q_rope" | "k_rope" => Layout::Heads,
            "attn_scores" | "attn_probs" => Layout::Keys,
            _ => Layout::Rows,
        },
        rank,
    };
    StageGraph::builtin()
        .stages()
        .iter()
        .enumerate()
        .map(of)
        .collect()
});

/// Name to operation and stage, as `aliases.ggml` of the vocabulary says.
static ALIASES: LazyLock<BTreeMap<String, Vec<(String, &'static Stage)>>> = LazyLock::new(|| {
    let mut aliases: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (known, stage) in StageGraph::builtin().stages().iter().zip(STAGES.iter()) {
        for alias in known.aliases.get("ggml").into_iter().flatten() {
            let (name, op) = alias.split_once('/').unwrap_or((alias, ""));
            aliases
                .entry(name.to_owned())
                .or_default()
                .push((op.to_owned(), stage));
        }
    }
    aliases
});

/// The stage of a node.
pub fn find(base: &str, layer: Option<i32>, op: &str) -> Option<&'static Stage> {
    let named = ALIASES.get(base)?;
    let (_, stage) =
        (named.iter()).find(|(made_by, stage)| made_by == op && stage.in_layer == layer.is_some())?;
    Some(stage)
}

/// "Qcur-12" is ("Qcur", 12); a name without a number has no layer.
pub fn split_name(name: &str) -> (&str, Option<i32>) {
    let split = name.rsplit_once('-').filter(|(base, digits)| {
        !base.is_empty() && (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    });
    match split {
        Some((base, digits)) => (base, digits.parse().ok()),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_operators_lead_to_stages() {
        let of = |name, op| {
            let (base, layer) = split_name(name);
            (find(base, layer, op).map(|s| s.name.as_str()), layer)
        };
        assert_eq!(of("Qcur-12", "ROPE"), (Some("q_rope"), Some(12)));
        assert_eq!(of("Qcur-12", "RESHAPE"), (None, Some(12)));
        assert_eq!(of("result_output", "MUL_MAT"), (Some("logits"), None));
        assert_eq!(
            of("result_output-3", "MUL_MAT"),
            (None, Some(3)),
            "not in a layer"
        );
        assert_eq!(of("attn_norm", "MUL"), (None, None), "only in a layer");
        assert_eq!(of("ffn_out-0", "MUL"), (Some("ffn_act"), Some(0)));
        assert_eq!(split_name("a-1234567"), ("a-1234567", None));
        assert_eq!(split_name("-1"), ("-1", None));
        assert_eq!(split_name("x-"), ("x-", None));
    }

    #[test]
    fn every_stage_of_the_engines_vocabulary_can_be_found() {
        assert!(ALIASES.values().map(Vec::len).sum::<usize>() > 30);
        for name in [
            "embeddings",
            "attn_scores",
            "attn_sub_norm",
            "layer_out",
            "logits",
        ] {
            assert!(ALIASES.values().flatten().any(|(_, s)| s.name == name), "{name}");
        }
    }
}
