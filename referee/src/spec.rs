//! What kind of network a model file holds: sizes and constants of its metadata.

use crate::Error;
use bitnet_gguf::Gguf;

/// Which two elements of a head RoPE turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Elements 2i and 2i + 1 (ggml's "norm").
    Interleaved,
    /// Elements i and i + n/2 of the n that are turned (ggml's "NeoX").
    Halves,
}

/// The non-linearity of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `max(x, 0)²` (So et al. 2021, "Primer").
    SquaredRelu,
    /// GELU by tanh (Hendrycks and Gimpel 2016).
    Gelu,
}

/// What no metadata tells: conventions that belong to an architecture's name.
struct Arch {
    name: &'static str,
    pairing: Pairing,
    activation: Activation,
    /// Whether embeddings are multiplied by √n_embd.
    scales_embeddings: bool,
    /// Whether q is scaled before the product with k, and not the product after it.
    scales_q: bool,
    /// One layer in so many sees all keys, where there is a sliding window.
    window_period: usize,
}

const LLAMA: Arch = Arch {
    name: "llama",
    // Its weights are permuted for it when they are converted to GGUF.
    pairing: Pairing::Interleaved,
    activation: Activation::Silu,
    scales_embeddings: false,
    scales_q: false,
    window_period: 1,
};

/// The graphs are those of llama.cpp, for `bitnet-b1.58` and `bitnet-25` those of bitnet.cpp.
const ARCHS: [Arch; 7] = [
    LLAMA,
    Arch {
        name: "bitnet",
        pairing: Pairing::Halves,
        ..LLAMA
    },
    Arch {
        name: "bitnet-b1.58",
        pairing: Pairing::Halves,
        activation: Activation::SquaredRelu,
        ..LLAMA
    },
    Arch {
        name: "bitnet-25",
        pairing: Pairing::Halves,
        activation: Activation::SquaredRelu,
        ..LLAMA
    },
    Arch {
        name: "qwen2",
        pairing: Pairing::Halves,
        ..LLAMA
    },
    Arch {
        name: "qwen3",
        pairing: Pairing::Halves,
        ..LLAMA
    },
    Arch {
        name: "gemma3",
        pairing: Pairing::Halves,
        activation: Activation::Gelu,
        scales_embeddings: true,
        scales_q: true,
        window_period: 6,
    },
];

/// RoPE's angles in one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Angles {
    /// Pair i turns by `position · scale · base^(-2i / n_rot)`.
    pub base: f64,
    /// 1, or 1 / factor with linear scaling.
    pub scale: f64,
}

/// Sizes and constants of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// `general.architecture`.
    pub arch: &'static str,
    /// Transformer blocks.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; a divisor of `n_head`.
    pub n_head_kv: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Leading elements of a head that RoPE turns; even.
    pub n_rot: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f64,
    /// Which elements RoPE turns together.
    pub pairing: Pairing,
    /// RoPE in layers that see all keys.
    pub angles: Angles,
    /// RoPE in layers with a window.
    pub window_angles: Angles,
    /// Keys that a layer with a window sees, its own included.
    pub window: Option<usize>,
    /// One layer in so many sees all keys.
    pub window_period: usize,
    /// The factor on q·k.
    pub attention_scale: f64,
    /// Whether q is multiplied by it before the product.
    pub scales_q: bool,
    /// Soft cap of the scores: `cap · tanh(x / cap)`.
    pub scores_cap: Option<f64>,
    /// Soft cap of the logits.
    pub logits_cap: Option<f64>,
    /// The factor on embeddings, where the architecture has one.
    pub embd_scale: Option<f64>,
    /// The gate's non-linearity.
    pub activation: Activation,
}

impl Spec {
    /// Reads the metadata of `gguf`.
    ///
    /// # Errors
    /// [`Error::Architecture`], [`Error::Hyperparameter`], and [`Error::Gguf`] for a key that is missing or of another
    /// type.
    pub fn of(gguf: &Gguf) -> Result<Self, Error> {
        let name = gguf.str("general.architecture")?;
        let arch = ARCHS.iter().find(|arch| arch.name == name);
        let arch = arch.ok_or_else(|| Error::Architecture {
            path: gguf.path().to_owned(),
            found: name.to_owned(),
            known: ARCHS.iter().map(|arch| arch.name).collect(),
        })?;
        let keys = Keys {
            gguf,
            arch: arch.name,
        };
        if keys.count_opt("expert_count")?.is_some_and(|n| n > 0) {
            return Err(keys.bad("expert_count", "mixtures of experts are not known"));
        }
        let n_layer = keys.count("block_count")?;
        if n_layer > gguf.tensors().len() {
            return Err(keys.bad("block_count", "the file has fewer tensors than that"));
        }
        let n_embd = keys.count("embedding_length")?;
        let n_head = keys.count("attention.head_count")?;
        let n_head_kv = keys.count_opt("attention.head_count_kv")?.unwrap_or(n_head);
        let head_dim = keys.count_opt("attention.key_length")?.unwrap_or(n_embd / n_head);
        if head_dim == 0 {
            return Err(keys.bad("attention.head_count", "it is more than embedding_length"));
        }
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad(
                "attention.head_count_kv",
                "it does not divide attention.head_count",
            ));
        }
        if keys
            .count_opt("attention.value_length")?
            .is_some_and(|n| n != head_dim)
        {
            return Err(keys.bad(
                "attention.value_length",
                "values of another length than keys are not known",
            ));
        }
        let n_rot = keys.count_opt("rope.dimension_count")?.unwrap_or(head_dim);
        if n_rot > head_dim || !n_rot.is_multiple_of(2) {
            return Err(keys.bad(
                "rope.dimension_count",
                "it must be even and at most the head's length",
            ));
        }
        let angles = Angles {
            base: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
            scale: keys.rope_scale()?,
        };
        let window = keys.count_opt("attention.sliding_window")?;
        let period = keys.count_opt("attention.sliding_window_pattern")?;
        Ok(Self {
            arch: arch.name,
            n_layer,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_rot,
            n_ff: keys.count("feed_forward_length")?,
            rms_eps: gguf.f32(&keys.key("attention.layer_norm_rms_epsilon"))?.into(),
            pairing: arch.pairing,
            angles,
            // As llama.cpp reads it: 10,000 where the file does not say, and no scaling.
            window_angles: Angles {
                base: keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
                scale: 1.0,
            },
            // Of the architectures here only those with a period have layers with a window.
            window: window.filter(|_| arch.window_period > 1),
            window_period: period.unwrap_or(arch.window_period),
            attention_scale: attention_scale(arch, n_layer, n_embd, n_head, head_dim),
            scales_q: arch.scales_q,
            scores_cap: keys.number("attn_logit_softcapping")?.filter(|&cap| cap > 0.0),
            logits_cap: keys.number("final_logit_softcapping")?.filter(|&cap| cap > 0.0),
            embd_scale: arch.scales_embeddings.then(|| (n_embd as f64).sqrt()),
            activation: arch.activation,
        })
    }

    /// How many keys the layer sees, where it has a window.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window
            .filter(|_| layer % self.window_period < self.window_period - 1)
    }

    /// RoPE's angles in a layer.
    pub fn angles_of(&self, layer: usize) -> Angles {
        match self.window_of(layer) {
            Some(_) => self.window_angles,
            None => self.angles,
        }
    }

    /// Elements of all query heads.
    pub fn q_len(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Elements of all key (or value) heads.
    pub fn kv_len(&self) -> usize {
        self.n_head_kv * self.head_dim
    }
}

/// 1 / √head_dim; but Gemma 3 27B, which is told by its 62 layers, divides by the width of the stream for each head.
fn attention_scale(arch: &Arch, n_layer: usize, n_embd: usize, n_head: usize, head_dim: usize) -> f64 {
    let divisor = match (arch.name, n_layer) {
        ("gemma3", 62) => n_embd / n_head,
        _ => head_dim,
    };
    1.0 / (divisor as f64).sqrt()
}

/// Looks keys up under the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn bad(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::Hyperparameter {
            path: self.gguf.path().to_owned(),
            key: self.key(name),
            reason: reason.into(),
        }
    }

    fn count_opt(&self, name: &str) -> Result<Option<usize>, Error> {
        match self.gguf.u32_opt(&self.key(name))? {
            Some(0) if name != "expert_count" => Err(self.bad(name, "it must be at least 1")),
            count => Ok(count.map(|count| count as usize)),
        }
    }

    fn count(&self, name: &str) -> Result<usize, Error> {
        let count = self.count_opt(name)?;
        count.map_or_else(|| Ok(self.gguf.u32(&self.key(name))? as usize), Ok)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        let number = self.gguf.f32_opt(&self.key(name))?;
        match number {
            Some(number) if !number.is_finite() => Err(self.bad(name, "it is not finite")),
            number => Ok(number.map(f64::from)),
        }
    }

    /// A factor of 0 means "none" by GGUF's convention.
    fn rope_scale(&self) -> Result<f64, Error> {
        let kind = self.gguf.str_opt(&self.key("rope.scaling.type"))?;
        match kind {
            None | Some("linear") => {}
            Some("none") => return Ok(1.0),
            Some(other) => {
                let reason = format!("scaling of the kind {other:?} is not known, only none and linear");
                return Err(self.bad("rope.scaling.type", reason));
            }
        }
        let factor = self.number("rope.scaling.factor")?;
        let factor = factor.or(self.number("rope.scale_linear")?).unwrap_or(0.0);
        match factor {
            0.0 => Ok(1.0),
            factor if factor > 0.0 => Ok(1.0 / factor),
            _ => Err(self.bad("rope.scaling.factor", "it must not be negative")),
        }
    }
}
