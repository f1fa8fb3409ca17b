use candle_core::{Result, Tensor};

use super::{Fault, FaultKind};
use crate::rope::Rotation;

/// The planted faults during one forward pass. Each hook gives the right value, with the faulty one in its place for
/// the tokens where a fault is planted.
#[derive(Clone, Copy)]
pub(crate) struct Faults<'a> {
    faults: &'a [Fault],
    first_pos: usize,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(faults: &'a [Fault], first_pos: usize) -> Self {
        Self { faults, first_pos }
    }

    pub(crate) fn attn_norm(
        &self,
        layer: usize,
        eps: f32,
        norm: impl Fn(f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.plant(layer, norm(eps)?, 0, |kind| match kind {
            FaultKind::RmsEps(eps) => Some(norm(eps)),
            _ => None,
        })
    }

    pub(crate) fn ffn_norm(
        &self,
        layer: usize,
        eps: f32,
        norm: impl Fn(f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.plant(layer, norm(eps)?, 0, |kind| match kind {
            FaultKind::FfnRmsEps(eps) => Some(norm(eps)),
            _ => None,
        })
    }

    pub(crate) fn rope(
        &self,
        layer: usize,
        rotation: &Rotation,
        rotate: impl Fn(&Rotation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.plant(layer, rotate(rotation)?, 0, |kind| match kind {
            FaultKind::RopeBase(base) => Some(rotate(&rotation.with_base(base))),
            _ => None,
        })
    }

    /// `read` computes from the cached keys or values `heads` [kv_heads, ..]; its result has the tokens at `token_axis`.
    pub(crate) fn kv_heads(
        &self,
        layer: usize,
        heads: &Tensor,
        token_axis: usize,
        read: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.plant(layer, read(heads)?, token_axis, |kind| match kind {
            FaultKind::SwapKvHead => Some(next_heads(heads).and_then(|heads| read(&heads))),
            _ => None,
        })
    }

    pub(crate) fn attn_residual(&self, layer: usize, good: Tensor, out: &Tensor) -> Result<Tensor> {
        self.plant(layer, good, 0, |kind| match kind {
            FaultKind::MissingResidual => Some(Ok(out.clone())),
            _ => None,
        })
    }

    /// The tokens of `good` before a fault's first position, and those of the faulty value from there on.
    fn plant(
        &self,
        layer: usize,
        mut good: Tensor,
        token_axis: usize,
        faulty: impl Fn(FaultKind) -> Option<Result<Tensor>>,
    ) -> Result<Tensor> {
        for fault in self
            .faults
            .iter()
            .filter(|fault| fault.layer.is_none_or(|planted| planted == layer))
        {
            let tokens = good.dim(token_axis)?;
            let kept = fault.from.saturating_sub(self.first_pos).min(tokens);
            if kept == tokens {
                continue;
            }
            let Some(bad) = faulty(fault.kind) else { continue };
            let bad = bad?.narrow(token_axis, kept, tokens - kept)?;
            let parts = [good.narrow(token_axis, 0, kept)?, bad];
            good = if kept == 0 {
                parts[1].contiguous()?
            } else {
                Tensor::cat(&parts, token_axis)?.contiguous()?
            };
        }
        Ok(good)
    }
}

/// Heads in the order 1, 2, .., 0.
fn next_heads(heads: &Tensor) -> Result<Tensor> {
    let count = heads.dim(0)?;
    Tensor::cat(&[heads.narrow(0, 1, count - 1)?, heads.narrow(0, 0, 1)?], 0)
}
