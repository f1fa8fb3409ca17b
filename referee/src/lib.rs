//! What each stage of a transformer should be: recomputed in f64 from what an engine *recorded* of the stage's inputs
//! and from the model's own GGUF file.
//!
//! The difference between that and what the engine recorded of the stage itself is the stage's **local error**: what it
//! got wrong by itself, whatever went wrong before it. A [`Referee`] knows the formulas ([`Referee::exact`]), how engines
//! round activations ([`Rounding`]), which of these ways an engine takes ([`Referee::try_roundings`]), and how far from
//! the exact result a right engine may be ([`Referee::expected`]).
//!
//! Nothing here knows where records come from: they are handed in as [`Recorded`].

#![forbid(unsafe_code)]

mod error;
mod exact;
mod expected;
mod formula;
mod math;
mod product;
mod rounding;
mod spec;
mod trying;
mod weights;

use bitnet_gguf::Gguf;
use bitnet_trace_schema::DType;
use std::collections::BTreeMap;
use std::path::Path;

pub use error::{Error, Refusal};
pub use expected::Expected;
pub use math::{Gelu, Turning};
pub use rounding::{BlockSum, Inverse, Rounding, Ties};
pub use spec::{Activation, Angles, Pairing, Spec};
pub use trying::{Activations, Tried};

use exact::Work;
use formula::{At, OF_LAYER};

/// A token of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Which sequence of a batch.
    pub request: i32,
    /// Its position, from 0.
    pub seq: i64,
}

/// What one engine recorded.
pub trait Recorded: Sync {
    /// The elements of a record, row-major, dequantised where its dtype is packed; none where it was not recorded.
    fn row(&self, stage: &str, layer: i32, token: Token) -> Option<Vec<f64>>;

    /// Whether there is such a record.
    fn has(&self, stage: &str, layer: i32, token: Token) -> bool {
        self.row(stage, layer, token).is_some()
    }

    /// The id of a token, where it is known.
    fn id(&self, token: Token) -> Option<u32>;
}

/// How an engine computes, as far as its results show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Arithmetic {
    /// What happens to activations before products with weights of each dtype.
    pub products: BTreeMap<DType, Tried>,
    /// Element type of the KV cache.
    pub cache: DType,
    /// What happens to queries and probabilities before products with the cache.
    pub attention: Tried,
    /// How GELU is computed.
    pub gelu: Gelu,
    /// How RoPE's angles are computed.
    pub turning: Turning,
}

impl Arithmetic {
    /// Nothing is rounded.
    pub fn exact(cache: DType) -> Self {
        Self {
            products: BTreeMap::new(),
            cache,
            attention: Tried::NONE,
            gelu: Gelu::Exact,
            turning: Turning::Exact,
        }
    }

    /// What happens to activations before a product with weights of `dtype`.
    pub fn product(&self, dtype: DType) -> Rounding {
        self.products
            .get(&dtype)
            .map_or(Rounding::None, |tried| tried.rounding)
    }
}

/// A model, and what its stages should be.
#[derive(Debug)]
pub struct Referee {
    gguf: Gguf,
    spec: Spec,
}

impl Referee {
    /// Opens the model file at `path`.
    ///
    /// # Errors
    /// [`Error`]: the file cannot be read, or holds a model whose formulas are not known.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let spec = Spec::of(&gguf)?;
        Ok(Self { gguf, spec })
    }

    /// The network's sizes and constants.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Replaces the network's sizes and constants: the referee of another model than the file's, such as one with
    /// another epsilon.
    #[must_use]
    pub fn with_spec(self, spec: Spec) -> Self {
        Self { spec, ..self }
    }

    /// Every (layer, stage) that the model has, in causal order.
    pub fn stages(&self) -> Vec<(i32, &'static str)> {
        let mut all = vec![(-1, "embeddings"), (-1, "embd_scaled")];
        for layer in 0..self.spec.n_layer as i32 {
            let behind = ["ffn_post_norm", "layer_out"];
            all.extend(OF_LAYER.into_iter().chain(behind).map(|stage| (layer, stage)));
        }
        all.extend([(-2, "all_layers_out"), (-1, "final_norm"), (-1, "logits")]);
        all.retain(|&(layer, stage)| formula::formula(&self.spec, &self.gguf, stage, layer).is_ok());
        all
    }

    /// The exact elements of a stage for each of `tokens`, in f64, from recorded inputs: row-major, of the record's shape;
    /// of `attn_probs` and `attn_scores` for the keys from 0 to the token's own.
    ///
    /// An input that was not recorded is itself computed, unless that takes a product with weights.
    ///
    /// # Errors
    /// [`Refusal`] where that cannot be told of any token; in the list, where it cannot be told of one.
    pub fn exact(
        &self,
        stage: &str,
        layer: i32,
        tokens: &[Token],
        recorded: &dyn Recorded,
        arithmetic: &Arithmetic,
    ) -> Result<Vec<Result<Vec<f64>, Refusal>>, Refusal> {
        let work = Work {
            referee: self,
            recorded,
            arithmetic,
        };
        work.exact(stage, layer, tokens)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f64>>, Refusal> {
        weights::vector(&self.gguf, name, len)
    }

    /// How many elements a record has; none where no other stage is computed from it.
    fn elements(&self, of: At) -> Option<Elements> {
        let spec = &self.spec;
        Some(Elements::Fixed(match of.stage {
            "embeddings" | "embd_scaled" | "attn_norm" | "attn_out" | "attn_post_norm" | "attn_residual"
            | "ffn_norm" | "ffn_down" | "ffn_post_norm" | "layer_out" | "all_layers_out" | "final_norm" => {
                spec.n_embd
            }
            "q_proj" | "q_norm" | "q_rope" | "q_scaled" | "attn_ctx" | "attn_sub_norm" => spec.q_len(),
            "k_proj" | "k_norm" | "k_rope" | "v_proj" | "k_cache" | "v_cache" => spec.kv_len(),
            "ffn_gate" | "ffn_up" | "ffn_act" | "ffn_sub_norm" => spec.n_ff,
            "attn_scores" | "attn_probs" => return Some(Elements::Keys(spec.n_head)),
            _ => return None,
        }))
    }
}

/// Elements of a token's record.
#[derive(Debug, Clone, Copy)]
enum Elements {
    Fixed(usize),
    /// As many for every key that the token sees.
    Keys(usize),
}

impl Elements {
    fn of(self, token: &Token) -> usize {
        match self {
            Self::Fixed(count) => count,
            Self::Keys(heads) => heads.saturating_mul(usize::try_from(token.seq + 1).unwrap_or(0)),
        }
    }
}
