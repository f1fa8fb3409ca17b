//! Keys and values of the positions computed so far, in f32.

use candle_core::{DType, Device, Result, Tensor};

use crate::config::Config;

/// Positions that the buffers grow by at least.
const STEP: usize = 64;

/// The cache of all layers of one sequence.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

impl KvCache {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let layers = (0..config.n_layer)
            .map(|_| LayerCache::new(config))
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
    fn new(config: &Config) -> Result<Self> {
        let empty = || buffer(config.n_head_kv, STEP, config.head_dim);
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

fn buffer(heads: usize, positions: usize, head_dim: usize) -> Result<Tensor> {
    Tensor::zeros((heads, positions, head_dim), DType::F32, &Device::Cpu)
}

fn store(cache: &mut Tensor, first_pos: usize, rows: &Tensor) -> Result<()> {
    let (heads, capacity, head_dim) = cache.dims3()?;
    let end = first_pos + rows.dim(0)?;
    if end > capacity {
        let larger = buffer(heads, end.next_multiple_of(STEP).max(2 * capacity), head_dim)?;
        if first_pos > 0 {
            larger.slice_set(&cache.narrow(1, 0, first_pos)?.contiguous()?, 1, 0)?;
        }
        *cache = larger;
    }
    cache.slice_set(&rows.transpose(0, 1)?.contiguous()?, 1, first_pos)
}
