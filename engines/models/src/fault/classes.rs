//! What can be planted: classes of bugs that real inference engines have had.

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EmbdScale,
    RmsEps,
    LayerNorm,
    MissingSubNorm,
    Bias,
    WeightScale,
    BlockScale,
    PackingOrder,
    Int8Truncation,
    RopeBase,
    RopeScale,
    RopePairing,
    PositionOffByOne,
    CacheQ8,
    SwapKvHead,
    TiledHeads,
    NoCausalMask,
    AttnScale,
    HeadMerge,
    MissingResidual,
    Gelu,
    Silu,
    SquaredRelu,
    Overflow,
    Nan,
    LogitsRoll,
}

/// A class of faults, with the stages of the trace vocabulary at which it is planted.
#[derive(Debug, PartialEq, Eq)]
pub struct FaultClass {
    pub(crate) kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What the number after the name is, where it takes one.
    pub value: Option<&'static str>,
    /// What goes wrong.
    pub meaning: &'static str,
    /// Where it is planted when no stage is given, in causal order. The first of them is the first stage that shows it.
    pub stages: &'static [&'static str],
    /// Stages that can be given in their place, one at a time.
    pub elsewhere: &'static [&'static str],
    /// The first position that can show it.
    pub first_position: usize,
}

impl FaultClass {
    /// How it is written: `NAME` or `NAME=VALUE`.
    pub fn form(&self) -> String {
        match self.value {
            Some(value) => format!("{}={value}", self.name),
            None => self.name.to_owned(),
        }
    }
}

const PROJECTIONS: &[&str] = &[
    "q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_down",
];
const NORMS: &[&str] = &[
    "attn_norm",
    "attn_sub_norm",
    "ffn_norm",
    "ffn_sub_norm",
    "final_norm",
];
const ROPES: &[&str] = &["q_rope", "k_rope"];
const ATTENTION: &[&str] = &["attn_scores", "attn_ctx"];
/// Every stage that is computed and whose first axis is the tokens.
const ANY: &[&str] = &[
    "embeddings",
    "attn_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "q_rope",
    "k_rope",
    "k_cache",
    "v_cache",
    "attn_ctx",
    "attn_sub_norm",
    "attn_out",
    "attn_residual",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_act",
    "ffn_sub_norm",
    "ffn_down",
    "layer_out",
    "final_norm",
    "logits",
];

/// A class at `stages`, from position 0, and nowhere else.
const fn class(
    kind: Kind,
    name: &'static str,
    value: Option<&'static str>,
    stages: &'static [&'static str],
    meaning: &'static str,
) -> FaultClass {
    FaultClass {
        kind,
        name,
        value,
        meaning,
        stages,
        elsewhere: &[],
        first_position: 0,
    }
}

impl FaultClass {
    const fn or(self, elsewhere: &'static [&'static str]) -> Self {
        Self { elsewhere, ..self }
    }

    /// At position 0 nothing is rotated, and attention has one key.
    const fn not_at_position_0(self) -> Self {
        Self {
            first_position: 1,
            ..self
        }
    }
}

/// Every class, in the order of the forward pass.
#[rustfmt::skip] // a table
pub static FAULTS: &[FaultClass] = &[
    class(Kind::EmbdScale, "embd-scale", Some("FACTOR"), &["embeddings"], "embeddings are scaled"),
    class(Kind::RmsEps, "rms-eps", Some("EPS"), &["attn_norm"], "a norm has another epsilon").or(NORMS),
    class(Kind::LayerNorm, "layer-norm", None, &["attn_norm"], "a norm subtracts the mean first").or(NORMS),
    class(Kind::MissingSubNorm, "missing-sub-norm", None, &["attn_sub_norm"], "a BitNet's sub-norm is left out")
        .or(&["ffn_sub_norm"]),
    class(Kind::Bias, "bias", Some("NUMBER"), &["q_proj", "k_proj", "v_proj"], "a number is added to every output of a projection")
        .or(PROJECTIONS),
    class(Kind::WeightScale, "weight-scale", Some("FACTOR"), &["q_proj"], "a weight matrix is scaled").or(PROJECTIONS),
    class(Kind::BlockScale, "block-scale", Some("FACTOR"), &["q_proj"], "the first 32 columns of a weight matrix are scaled")
        .or(PROJECTIONS),
    class(Kind::PackingOrder, "packing-order", None, &["q_proj"], "a weight matrix has every four columns in reverse order")
        .or(PROJECTIONS),
    class(Kind::Int8Truncation, "int8-truncation", None, &["q_proj"],
        "a projection's inputs are truncated to 8 bits, with one scale for the batch").or(PROJECTIONS),
    class(Kind::RopeBase, "rope-base", Some("BASE"), ROPES, "RoPE has another base frequency").or(ROPES).not_at_position_0(),
    class(Kind::RopeScale, "rope-scale", Some("FACTOR"), ROPES, "RoPE's frequencies are scaled").or(ROPES).not_at_position_0(),
    class(Kind::RopePairing, "rope-pairing", None, ROPES, "RoPE pairs halves in place of neighbours, or the other way round")
        .or(ROPES).not_at_position_0(),
    class(Kind::PositionOffByOne, "position-off-by-one", None, ROPES, "RoPE takes the next position").or(ROPES),
    class(Kind::CacheQ8, "cache-q8", None, &["k_cache", "v_cache"], "the KV cache is kept in q8_0").or(&["k_cache", "v_cache"]),
    class(Kind::SwapKvHead, "swap-kv-head", None, ATTENTION, "every query head reads the next key and value head").or(ATTENTION),
    class(Kind::TiledHeads, "tiled-heads", None, ATTENTION,
        "key and value heads are tiled over the query heads in place of repeated").or(ATTENTION),
    class(Kind::NoCausalMask, "no-causal-mask", None, &["attn_probs"], "future keys of the same batch are seen"),
    class(Kind::AttnScale, "attn-scale", Some("FACTOR"), &["attn_probs"], "the scale of attention's scores is scaled")
        .not_at_position_0(),
    class(Kind::HeadMerge, "head-merge", None, &["attn_ctx"], "heads are merged element by element"),
    class(Kind::MissingResidual, "missing-residual", None, &["attn_residual"], "the residual stream is not added")
        .or(&["attn_residual", "layer_out"]),
    class(Kind::Gelu, "gelu", None, &["ffn_act"], "the activation is GELU"),
    class(Kind::Silu, "silu", None, &["ffn_act"], "the activation is SiLU"),
    class(Kind::SquaredRelu, "squared-relu", None, &["ffn_act"], "the activation is squared ReLU"),
    class(Kind::Overflow, "overflow", None, &["ffn_down"], "each token's largest element becomes infinite, as a half past 65504").or(ANY),
    class(Kind::Nan, "nan", None, &["attn_out"], "each token's largest element becomes NaN").or(ANY),
    class(Kind::LogitsRoll, "logits-roll", None, &["logits"], "logits are those of the token before"),
];
