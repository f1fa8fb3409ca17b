//! Scaled dot-product attention with grouped key and value heads.
//!
//! Query heads `g * H/K .. (g + 1) * H/K` read key head `g` (Ainslie et al. 2023,
//! "GQA"). Each group is one matrix product, so no key is ever repeated.

use candle_core::{DType, Result, Tensor};

/// Products q·k, before scale and mask. `q` [T, H, D], `keys` [K, n, D]; returns [H, T, n].
pub(crate) fn scores(q: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let (q, keys) = as_multiplied(q, keys)?;
    let (tokens, heads, head_dim) = q.dims3()?;
    let (kv_heads, n, _) = keys.dims3()?;
    let groups = q
        .transpose(0, 1)?
        .reshape((kv_heads, heads / kv_heads * tokens, head_dim))?;
    groups.matmul(&keys.t()?)?.reshape((heads, tokens, n))
}

/// The probabilities' mean of the values. `probs` [H, T, n], `values` [K, n, D]; returns [T, H * D].
pub(crate) fn context(probs: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (probs, values) = as_multiplied(probs, values)?;
    let (heads, tokens, n) = probs.dims3()?;
    let (kv_heads, _, head_dim) = values.dims3()?;
    let groups = probs
        .reshape((kv_heads, heads / kv_heads * tokens, n))?
        .matmul(&values)?;
    groups
        .reshape((heads, tokens, head_dim))?
        .transpose(0, 1)?
        .reshape((tokens, heads * head_dim))
}

/// Both factors of a product with cached rows, in f32: in a cache of fewer bits `x` is rounded as the rows are.
fn as_multiplied(x: &Tensor, cached: &Tensor) -> Result<(Tensor, Tensor)> {
    let rounded = x.to_dtype(cached.dtype())?;
    Ok((rounded.to_dtype(DType::F32)?, cached.to_dtype(DType::F32)?))
}
