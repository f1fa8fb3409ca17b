//! Scaled dot-product attention with grouped key and value heads.
//!
//! Query heads `g * H/K .. (g + 1) * H/K` read key head `g` (Ainslie et al. 2023,
//! "GQA"). Each group is one matrix product, so no key is ever repeated.

use candle_core::{Result, Tensor};

/// Products q·k, before scale and mask. `q` [T, H, D], `keys` [K, n, D]; returns [H, T, n].
pub(crate) fn scores(q: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let (tokens, heads, head_dim) = q.dims3()?;
    let (kv_heads, n, _) = keys.dims3()?;
    let groups = q
        .transpose(0, 1)?
        .reshape((kv_heads, heads / kv_heads * tokens, head_dim))?;
    groups.matmul(&keys.t()?)?.reshape((heads, tokens, n))
}

/// The probabilities' mean of the values. `probs` [H, T, n], `values` [K, n, D]; returns [T, H * D].
pub(crate) fn context(probs: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (heads, tokens, n) = probs.dims3()?;
    let (kv_heads, _, head_dim) = values.dims3()?;
    let groups = probs
        .reshape((kv_heads, heads / kv_heads * tokens, n))?
        .matmul(values)?;
    groups
        .reshape((heads, tokens, head_dim))?
        .transpose(0, 1)?
        .reshape((tokens, heads * head_dim))
}
