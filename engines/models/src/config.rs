//! Hyperparameters of a decoder-only transformer, from a GGUF's metadata.

use crate::error::Error;
use bitnet_gguf::{Gguf, Value};

/// Sizes and constants of the network. Everything here has been checked for
/// consistency; the weights are checked against it when they are loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub arch: String,
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
    /// Leading elements of a head that RoPE rotates; even, at most `head_dim`.
    pub n_rot: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Largest number of positions.
    pub context_length: usize,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// RoPE base frequency (theta).
    pub rope_base: f32,
    /// Factor on RoPE's angles: 1, or 1 / factor with linear scaling.
    pub rope_scale: f32,
}

impl Config {
    /// Reads the keys of architecture `arch`.
    ///
    /// # Errors
    /// A missing key, one of another type, or a value that contradicts another.
    pub fn from_gguf(gguf: &Gguf, arch: &str) -> Result<Self, Error> {
        let keys = Keys { gguf, arch };
        if keys.u32_opt("expert_count")?.is_some_and(|n| n > 0) {
            return Err(keys.bad("expert_count", "mixtures of experts are not supported"));
        }
        let n_embd = keys.positive("embedding_length")?;
        let n_head = keys.positive("attention.head_count")?;
        let n_head_kv = keys.positive_or("attention.head_count_kv", n_head)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad(
                "attention.head_count_kv",
                "it does not divide attention.head_count",
            ));
        }
        if keys.u32_opt("attention.key_length")?.is_none() && !n_embd.is_multiple_of(n_head) {
            return Err(keys.bad("attention.head_count", "it does not divide embedding_length"));
        }
        let head_dim = keys.positive_or("attention.key_length", n_embd / n_head)?;
        if keys.positive_or("attention.value_length", head_dim)? != head_dim {
            return Err(keys.bad(
                "attention.value_length",
                "values of another length than keys are not supported",
            ));
        }
        let n_rot = keys.positive_or("rope.dimension_count", head_dim)?;
        if n_rot > head_dim || !n_rot.is_multiple_of(2) {
            return Err(keys.bad(
                "rope.dimension_count",
                "it must be even and at most the head's length",
            ));
        }
        let rms_eps = gguf.f32(&keys.key("attention.layer_norm_rms_epsilon"))?;
        if !(rms_eps.is_finite() && rms_eps >= 0.0) {
            return Err(keys.bad(
                "attention.layer_norm_rms_epsilon",
                "it must be a number that is not negative",
            ));
        }
        let rope_base = gguf.f32_opt(&keys.key("rope.freq_base"))?.unwrap_or(10_000.0);
        if !(rope_base.is_finite() && rope_base > 0.0) {
            return Err(keys.bad("rope.freq_base", "it must be a positive number"));
        }
        Ok(Self {
            arch: arch.to_owned(),
            n_layer: keys.positive("block_count")?,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_rot,
            n_ff: keys.positive("feed_forward_length")?,
            context_length: keys.positive("context_length")?,
            rms_eps,
            rope_base,
            rope_scale: rope_scale(&keys)?,
        })
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

fn rope_scale(keys: &Keys<'_>) -> Result<f32, Error> {
    let factor = keys.gguf.f32_opt(&keys.key("rope.scaling.factor"))?;
    let linear = keys.gguf.f32_opt(&keys.key("rope.scale_linear"))?;
    let kind = keys.gguf.str_opt(&keys.key("rope.scaling.type"))?;
    match kind {
        None | Some("linear") => {}
        Some("none") => return Ok(1.0),
        Some(_) => return Err(keys.bad("rope.scaling.type", "only none and linear are supported")),
    }
    let factor = factor.or(linear).unwrap_or(0.0);
    if !factor.is_finite() || factor < 0.0 {
        return Err(keys.bad("rope.scaling.factor", "it must be a number that is not negative"));
    }
    // A factor of 0 means "none" by GGUF's convention.
    Ok(if factor == 0.0 { 1.0 } else { 1.0 / factor })
}

/// Looks keys up under the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn u32_opt(&self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.gguf.u32_opt(&self.key(name))?)
    }

    fn positive(&self, name: &str) -> Result<usize, Error> {
        match self.gguf.u32(&self.key(name))? {
            0 => Err(self.bad(name, "it must be at least 1")),
            value => Ok(value as usize),
        }
    }

    fn positive_or(&self, name: &str, default: usize) -> Result<usize, Error> {
        if self.gguf.value(&self.key(name)).is_none() {
            Ok(default)
        } else {
            self.positive(name)
        }
    }

    fn bad(&self, name: &str, reason: &'static str) -> Error {
        let key = self.key(name);
        let value = match self.gguf.value(&key) {
            None => "absent".to_owned(),
            Some(Value::String(text)) => format!("{text:?}"),
            Some(Value::U32(value)) => value.to_string(),
            Some(Value::F32(value)) => value.to_string(),
            Some(other) => format!("{other:?}"),
        };
        Error::Hyperparameter {
            path: self.gguf.path().to_owned(),
            key,
            value,
            reason,
        }
    }
}
