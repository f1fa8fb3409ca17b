//! The stages as formulas over other stages, for a model of any known architecture.

use crate::{Refusal, Spec};
use bitnet_gguf::Gguf;

/// A stage of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) stage: &'static str,
    /// 0-based; -1 where there is none, -2 for `all_layers_out`.
    pub(crate) layer: i32,
}

/// How a stage follows from others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Formula {
    /// The row of the embedding table that belongs to the token.
    Lookup,
    /// The input times a factor.
    Scale { of: At, factor: f64 },
    /// The input itself.
    Same { of: At },
    /// RMSNorm of each group of `width` elements, times the weight.
    Norm { of: At, weight: String, width: usize },
    /// The weight matrix times the input, times a scale, plus a bias, softly capped.
    Product {
        of: At,
        stem: String,
        scaled: bool,
        cap: Option<f64>,
    },
    /// RoPE of every head.
    Rotate { of: At, layer: usize },
    /// The input in the dtype of the cache.
    Cached { of: At },
    /// q·k for each key up to the token's own.
    Scores { q: At, k: At },
    /// Softmax of the scaled and masked scores.
    Probabilities {
        of: At,
        scale: f64,
        window: Option<usize>,
    },
    /// The probabilities' mean of the values.
    Context { probs: At, v: At },
    /// The sum of both.
    Sum { a: At, b: At },
    /// `act(gate) · up`.
    Gated { gate: At, up: At },
}

/// Every stage of a model in causal order, for each layer that has it.
pub(crate) const OF_LAYER: [&str; 24] = [
    "attn_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "q_norm",
    "k_norm",
    "q_rope",
    "k_rope",
    "q_scaled",
    "k_cache",
    "v_cache",
    "attn_scores",
    "attn_probs",
    "attn_ctx",
    "attn_sub_norm",
    "attn_out",
    "attn_post_norm",
    "attn_residual",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_act",
    "ffn_sub_norm",
    "ffn_down",
];

/// The formula of `stage` in `layer`.
///
/// # Errors
/// [`Refusal::NoStage`] where the model has no such stage there.
pub(crate) fn formula(spec: &Spec, gguf: &Gguf, stage: &str, layer: i32) -> Result<Formula, Refusal> {
    let none = || Refusal::NoStage(format!("{stage} of layer {layer}"));
    let model = |stage| At { stage, layer: -1 };
    let enters = match spec.embd_scale {
        Some(_) => model("embd_scaled"),
        None => model("embeddings"),
    };
    let norm = |of, weight: &str, width| Formula::Norm {
        of,
        weight: weight.to_owned(),
        width,
    };
    let last = At {
        stage: "layer_out",
        layer: spec.n_layer as i32 - 1,
    };
    if layer < 0 {
        return Ok(match (stage, layer) {
            ("embeddings", -1) => Formula::Lookup,
            ("embd_scaled", -1) => Formula::Scale {
                of: model("embeddings"),
                factor: spec.embd_scale.ok_or_else(none)?,
            },
            ("all_layers_out", -2) => Formula::Same { of: last },
            ("final_norm", -1) => {
                let of = At {
                    stage: "all_layers_out",
                    layer: -2,
                };
                norm(of, "output_norm.weight", spec.n_embd)
            }
            ("logits", -1) => Formula::Product {
                of: model("final_norm"),
                // Without a head of its own the model uses the embedding table as one ("tied").
                stem: match gguf.tensor("output.weight") {
                    Some(_) => "output".to_owned(),
                    None => "token_embd".to_owned(),
                },
                scaled: false,
                cap: spec.logits_cap,
            },
            _ => return Err(none()),
        });
    }
    let index = layer as usize;
    if index >= spec.n_layer {
        return Err(none());
    }
    let here = |stage| At { stage, layer };
    let before = match layer {
        0 => enters,
        _ => At {
            stage: "layer_out",
            layer: layer - 1,
        },
    };
    let has = |part: &str| gguf.tensor(&format!("blk.{layer}.{part}")).is_some();
    let block_norm = |of, part: &str, width| norm(of, &format!("blk.{layer}.{part}"), width);
    let product = |of, part: &str| Formula::Product {
        of,
        stem: format!("blk.{layer}.{part}"),
        scaled: true,
        cap: None,
    };
    // The stage behind an optional one.
    let after = |optional, part: &str, otherwise| match has(part) {
        true => here(optional),
        false => here(otherwise),
    };
    let optional = |part: &str| if has(part) { Ok(()) } else { Err(none()) };
    Ok(match stage {
        "attn_norm" => block_norm(before, "attn_norm.weight", spec.n_embd),
        "q_proj" => product(here("attn_norm"), "attn_q"),
        "k_proj" => product(here("attn_norm"), "attn_k"),
        "v_proj" => product(here("attn_norm"), "attn_v"),
        "q_norm" => {
            optional("attn_q_norm.weight")?;
            block_norm(here("q_proj"), "attn_q_norm.weight", spec.head_dim)
        }
        "k_norm" => {
            optional("attn_k_norm.weight")?;
            block_norm(here("k_proj"), "attn_k_norm.weight", spec.head_dim)
        }
        "q_rope" => Formula::Rotate {
            of: after("q_norm", "attn_q_norm.weight", "q_proj"),
            layer: index,
        },
        "k_rope" => Formula::Rotate {
            of: after("k_norm", "attn_k_norm.weight", "k_proj"),
            layer: index,
        },
        "q_scaled" if spec.scales_q => Formula::Scale {
            of: here("q_rope"),
            factor: spec.attention_scale,
        },
        "k_cache" => Formula::Cached { of: here("k_rope") },
        "v_cache" => Formula::Cached { of: here("v_proj") },
        "attn_scores" => Formula::Scores {
            q: here(if spec.scales_q { "q_scaled" } else { "q_rope" }),
            k: here("k_cache"),
        },
        "attn_probs" => Formula::Probabilities {
            of: here("attn_scores"),
            scale: if spec.scales_q { 1.0 } else { spec.attention_scale },
            window: spec.window_of(index),
        },
        "attn_ctx" => Formula::Context {
            probs: here("attn_probs"),
            v: here("v_cache"),
        },
        "attn_sub_norm" => {
            optional("attn_sub_norm.weight")?;
            block_norm(here("attn_ctx"), "attn_sub_norm.weight", spec.q_len())
        }
        "attn_out" => product(
            after("attn_sub_norm", "attn_sub_norm.weight", "attn_ctx"),
            "attn_output",
        ),
        "attn_post_norm" => {
            optional("post_attention_norm.weight")?;
            block_norm(here("attn_out"), "post_attention_norm.weight", spec.n_embd)
        }
        "attn_residual" => Formula::Sum {
            a: before,
            b: after("attn_post_norm", "post_attention_norm.weight", "attn_out"),
        },
        "ffn_norm" => block_norm(here("attn_residual"), "ffn_norm.weight", spec.n_embd),
        "ffn_gate" => product(here("ffn_norm"), "ffn_gate"),
        "ffn_up" => product(here("ffn_norm"), "ffn_up"),
        "ffn_act" => Formula::Gated {
            gate: here("ffn_gate"),
            up: here("ffn_up"),
        },
        "ffn_sub_norm" => {
            optional("ffn_sub_norm.weight")?;
            block_norm(here("ffn_act"), "ffn_sub_norm.weight", spec.n_ff)
        }
        "ffn_down" => product(
            after("ffn_sub_norm", "ffn_sub_norm.weight", "ffn_act"),
            "ffn_down",
        ),
        "ffn_post_norm" => {
            optional("post_ffw_norm.weight")?;
            block_norm(here("ffn_down"), "post_ffw_norm.weight", spec.n_embd)
        }
        "layer_out" => Formula::Sum {
            a: here("attn_residual"),
            b: after("ffn_post_norm", "post_ffw_norm.weight", "ffn_down"),
        },
        _ => return Err(none()),
    })
}
