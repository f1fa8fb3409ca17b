//! What a weight's name tells of the products and norms that it takes part in.

/// Stage of what goes into an operation and of what comes out of it; `None` where it has been seen before.
pub(crate) type Stages = (Option<&'static str>, Option<&'static str>);

/// A weight's layer (-1: of the model) and the stages beside it.
///
/// The residual stream is added up outside of the backend: it is seen again as what goes into the next norm. So
/// `layer_out` belongs to the layer before, and what goes into the first norm is the embeddings.
pub(crate) fn of_weight(name: &str) -> Option<(i32, Stages)> {
    let name = name.strip_suffix(".weight")?;
    let Some(block) = name.strip_prefix("blk.") else {
        return match name {
            "output_norm" => Some((-1, (Some("all_layers_out"), Some("final_norm")))),
            // the embedding table where the model ties both
            "output" | "token_embd" => Some((-1, (None, Some("logits")))),
            _ => None,
        };
    };
    let (layer, kind) = block.split_once('.')?;
    let stages = match kind {
        "attn_norm" => (Some("layer_out"), Some("attn_norm")),
        "attn_q" => (None, Some("q_proj")),
        "attn_k" => (None, Some("k_proj")),
        "attn_v" => (None, Some("v_proj")),
        "attn_output" => (Some("attn_ctx"), Some("attn_out")),
        "ffn_norm" => (Some("attn_residual"), Some("ffn_norm")),
        "ffn_gate" => (None, Some("ffn_gate")),
        "ffn_up" => (None, Some("ffn_up")),
        "ffn_down" => (Some("ffn_act"), Some("ffn_down")),
        _ => return None,
    };
    Some((layer.parse().ok()?, stages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weights_name_tells_layer_and_stages() {
        assert_eq!(
            of_weight("blk.12.attn_q.weight"),
            Some((12, (None, Some("q_proj"))))
        );
        assert_eq!(
            of_weight("output_norm.weight"),
            Some((-1, (Some("all_layers_out"), Some("final_norm"))))
        );
        assert_eq!(of_weight("token_embd.weight"), of_weight("output.weight"));
        for unknown in [
            "",
            "blk.0.attn_q.bias",
            "blk.x.attn_q.weight",
            "blk.0.ssm_a.weight",
            "rope_freqs.weight",
        ] {
            assert_eq!(of_weight(unknown), None, "{unknown}");
        }
    }
}
