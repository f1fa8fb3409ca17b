//! The operations of the forward pass as values: an operation with its operands, to be computed.
//!
//! Whoever stands between the forward pass and its arithmetic sees what is to be computed, and may compute it with
//! other operands: that is how `fault` works.

use candle_core::{Result, Tensor};

use crate::attention;
use crate::ops::{Activation, causal_softmax, rms_norm};
use crate::rope::Rotation;
use crate::weights::{Linear, Matrix};

/// One operation on one batch of T tokens.
#[derive(Clone, Copy)]
pub(crate) enum Op<'a> {
    /// Rows `ids` of the embedding table: [T, E].
    Embed { table: &'a Matrix, ids: &'a [u32] },
    /// RMSNorm of each row of `x` [T, n].
    Norm {
        x: &'a Tensor,
        weight: &'a Tensor,
        eps: f32,
    },
    /// A projection of `x` [T, inputs]: [T, outputs].
    Project { linear: &'a Linear, x: &'a Tensor },
    /// RoPE of `x` [T, heads, head_dim].
    Rotate { rotation: &'a Rotation, x: &'a Tensor },
    /// Keys or values [T, kv_heads, head_dim] on their way into the cache.
    Cache { rows: &'a Tensor },
    /// Products of `q` [T, heads, head_dim] with `keys` [kv_heads, n, head_dim]: [heads, T, n].
    Scores { q: &'a Tensor, keys: &'a Tensor },
    /// Probabilities of `scores * scale` [heads, T, n], future keys masked.
    Softmax {
        scores: &'a Tensor,
        scale: f32,
        first_pos: usize,
    },
    /// The mean of `values` [kv_heads, n, head_dim] by `probs` [heads, T, n]: [T, heads * head_dim].
    Context { probs: &'a Tensor, values: &'a Tensor },
    /// `out` added to the residual stream `x`, both [T, E].
    Residual { x: &'a Tensor, out: &'a Tensor },
    /// `activation(gate) * up`, both [T, n].
    Gate {
        activation: Activation,
        gate: &'a Tensor,
        up: &'a Tensor,
    },
    /// `x` [T, E] to logits [T, V].
    Head { matrix: &'a Matrix, x: &'a Tensor },
}

impl Op<'_> {
    pub(crate) fn compute(self) -> Result<Tensor> {
        match self {
            Self::Embed { table, ids } => table.rows(ids),
            Self::Norm { x, weight, eps } => rms_norm(x, weight, eps),
            Self::Project { linear, x } => linear.apply(x),
            Self::Rotate { rotation, x } => rotation.apply(x),
            Self::Cache { rows } => Ok(rows.clone()), // shares the data
            Self::Scores { q, keys } => attention::scores(q, keys),
            Self::Softmax {
                scores,
                scale,
                first_pos,
            } => causal_softmax(scores, scale, first_pos),
            Self::Context { probs, values } => attention::context(probs, values),
            Self::Residual { x, out } => x + out,
            Self::Gate { activation, gate, up } => activation.gated(gate, up),
            Self::Head { matrix, x } => matrix.apply(x),
        }
    }
}
