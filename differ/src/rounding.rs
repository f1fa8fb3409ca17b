//! How far apart two right engines are at one stage that was given the same inputs.
//!
//! Measured on SmolLM2-135M, llama.cpp replayed into the Rust engine and the other way round
//! ([the figures](../../docs/REPLAY.md)): elementwise stages, and products of F32 weights, differ by the order of sums
//! in f32. Products of quantised weights round their activations to 8 bits, each engine in its own way: llama.cpp keeps
//! the sum of a Q8_1 block as `f16(d·Σq)` with d in f32, the Rust engine with d in f16.

use bitnet_trace_schema::Manifest;
use serde::Serialize;

/// What rounds a stage's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounds {
    /// f32 sums and functions.
    Float,
    /// Activations rounded to 8 bits for a product with quantised weights.
    Activations,
    /// Queries, keys, probabilities and values in 16 bits.
    HalfCache,
    /// A stage outside of the vocabulary, or weights that no run tells of.
    Unknown,
}

/// What is expected of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rounding {
    /// What rounds.
    pub rounds: Rounds,
    /// The largest relative L2 that it explains; none where that is not known.
    pub limit: Option<f64>,
}

/// Largest relative L2 of any record of a stage that computes in f32.
pub const FLOAT: f64 = 2e-6;
/// Largest median relative L2 over the positions of a layer, of products with 8-bit activations.
pub const ACTIVATIONS: f64 = 3e-3;
/// Largest median of such a product over a few positions in a row ([`scan`](crate::floor::scan::scan)): on seven prompts of
/// 17 to 26 positions none is beyond 9.4e-3.
pub const ACTIVATIONS_OF_FEW: f64 = 2e-2;
/// Largest relative L2 of any record of a product with a 16-bit cache.
pub const HALF_CACHE: f64 = 1e-3;

/// Types of weights whose products do not round the activations.
const FLOAT_TYPES: [&str; 4] = ["F32", "F16", "BF16", "F64"];

impl Rounding {
    /// What is expected between two runs at `stage`.
    pub fn of(stage: &str, runs: [&Manifest; 2]) -> Self {
        let rounds = match stage {
            "q_proj" | "k_proj" | "v_proj" | "attn_out" | "ffn_gate" | "ffn_up" | "ffn_down" | "logits" => {
                product(runs)
            }
            "attn_scores" | "attn_ctx" if half_cache(runs) => Rounds::HalfCache,
            "embeddings" | "attn_norm" | "q_rope" | "k_rope" | "k_cache" | "v_cache" | "attn_scores"
            | "attn_probs" | "attn_ctx" | "attn_sub_norm" | "attn_residual" | "ffn_norm" | "ffn_act"
            | "ffn_sub_norm" | "layer_out" | "all_layers_out" | "final_norm" => Rounds::Float,
            _ => Rounds::Unknown,
        };
        let limit = match rounds {
            Rounds::Float => Some(FLOAT),
            Rounds::Activations => Some(ACTIVATIONS),
            Rounds::HalfCache => Some(HALF_CACHE),
            Rounds::Unknown => None,
        };
        Self { rounds, limit }
    }

    /// Whether the limit is one of medians: single records scatter too far to be judged by it.
    pub fn is_of_medians(self) -> bool {
        self.limit_of_few().is_some()
    }

    /// What the median of a few positions in a row may come to, where the limit is one of medians.
    pub fn limit_of_few(self) -> Option<f64> {
        (self.rounds == Rounds::Activations).then_some(ACTIVATIONS_OF_FEW)
    }
}

fn product(runs: [&Manifest; 2]) -> Rounds {
    let models = runs.into_iter().filter_map(|m| m.model.as_ref());
    let Some(model) = models.into_iter().find(|m| !m.weight_types.is_empty()) else {
        return Rounds::Unknown;
    };
    let is_float = |t: &String| FLOAT_TYPES.contains(&t.as_str());
    match model.weight_types.keys().all(is_float) {
        true => Rounds::Float,
        false => Rounds::Activations,
    }
}

fn half_cache(runs: [&Manifest; 2]) -> bool {
    let types = runs.into_iter().filter_map(|m| m.settings.kv_type.as_deref());
    types.into_iter().any(|t| t != "F32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;
    use bitnet_trace_schema::Model;

    #[test]
    fn what_rounds_follows_from_weights_and_cache() {
        let (a, mut b) = (manifest("a", "x", 1, &[1]), manifest("b", "y", 1, &[1]));
        let of = |stage, b: &Manifest| Rounding::of(stage, [&a, b]).rounds;
        assert_eq!(
            (of("q_proj", &b), of("ffn_norm", &b)),
            (Rounds::Unknown, Rounds::Float)
        );
        let weights = |types: &[&str]| Model {
            weight_types: types.iter().map(|&t| (t.to_owned(), 1)).collect(),
            ..Model::default()
        };
        b.model = Some(weights(&["F32"]));
        assert_eq!(of("q_proj", &b), Rounds::Float);
        b.model = Some(weights(&["F32", "Q4_1"]));
        assert_eq!(
            (of("q_proj", &b), of("attn_ctx", &b)),
            (Rounds::Activations, Rounds::Float)
        );
        b.settings.kv_type = Some("F16".into());
        assert_eq!(
            (of("attn_ctx", &b), of("attn_probs", &b)),
            (Rounds::HalfCache, Rounds::Float)
        );
        assert_eq!(of("my_stage", &b), Rounds::Unknown);
    }
}
