//! Keys and values of the positions computed so far.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Result, Tensor};

use crate::config::Config;

/// Element type of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// Nothing is rounded.
    #[default]
    F32,
    /// Keys and values are rounded when they are stored and, as ggml does, queries and probabilities before they are
    /// multiplied with them; sums are in f32.
    F16,
}

impl KvType {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(format!("{text:?} is not f32 or f16")),
        }
    }
}

/// Positions that the buffers grow by at least.
const STEP: usize = 64;

/// The cache of all layers of one sequence.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

impl KvCache {
    pub(crate) fn new(config: &Config, kv_type: KvType) -> Result<Self> {
        let layers = (0..config.n_layer)
            .map(|_| LayerCache::new(config, kv_type))
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0 })
    }

    /// Positions held, which is the position of the next token.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Forgets every position; the buffers stay.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    /// Counts `tokens` more positions as held, once every layer has stored them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// One layer's buffers, [kv_heads, capacity, head_dim] each.
pub(crate) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    fn new(config: &Config, kv_type: KvType) -> Result<Self> {
        let empty = || buffer(config.n_head_kv, STEP, config.head_dim, kv_type.dtype());
        Ok(Self {
            keys: empty()?,
            values: empty()?,
        })
    }

    /// Stores `keys` and `values` [T, kv_heads, head_dim] at positions from `first_pos`.
    pub(crate) fn store(&mut self, first_pos: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        store(&mut self.keys, first_pos, keys)?;
        store(&mut self.values, first_pos, values)
    }

    /// Keys of positions 0..`end` as attention reads them: [kv_heads, end, head_dim], a view.
    pub(crate) fn keys(&self, end: usize) -> Result<Tensor> {
        self.keys.narrow(1, 0, end)
    }

    /// Values of positions 0..`end`, laid out as the keys.
    pub(crate) fn values(&self, end: usize) -> Result<Tensor> {
        self.values.narrow(1, 0, end)
    }
}

fn buffer(heads: usize, positions: usize, head_dim: usize, dtype: DType) -> Result<Tensor> {
    Tensor::zeros((heads, positions, head_dim), dtype, &Device::Cpu)
}

fn store(cache: &mut Tensor, first_pos: usize, rows: &Tensor) -> Result<()> {
    let (heads, capacity, head_dim) = cache.dims3()?;
    let end = first_pos + rows.dim(0)?;
    if end > capacity {
        let positions = end.next_multiple_of(STEP).max(2 * capacity);
        let larger = buffer(heads, positions, head_dim, cache.dtype())?;
        if first_pos > 0 {
            larger.slice_set(&cache.narrow(1, 0, first_pos)?.contiguous()?, 1, 0)?;
        }
        *cache = larger;
    }
    let rows = rows.transpose(0, 1)?.to_dtype(cache.dtype())?;
    cache.slice_set(&rows.contiguous()?, 1, first_pos)
}
