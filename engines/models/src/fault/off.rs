//! The hooks of the forward pass in a build without faults: each computes what it is given.

use std::marker::PhantomData;

use candle_core::{Result, Tensor};

use crate::rope::Rotation;

/// Nothing that could go wrong.
#[derive(Clone, Copy)]
pub(crate) struct Faults<'a>(PhantomData<&'a ()>);

impl Faults<'_> {
    pub(crate) fn none() -> Self {
        Self(PhantomData)
    }

    pub(crate) fn attn_norm(
        &self,
        _layer: usize,
        eps: f32,
        norm: impl Fn(f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        norm(eps)
    }

    pub(crate) fn ffn_norm(
        &self,
        _layer: usize,
        eps: f32,
        norm: impl Fn(f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        norm(eps)
    }

    pub(crate) fn rope(
        &self,
        _layer: usize,
        rotation: &Rotation,
        rotate: impl Fn(&Rotation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        rotate(rotation)
    }

    pub(crate) fn kv_heads(
        &self,
        _layer: usize,
        heads: &Tensor,
        _token_axis: usize,
        read: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        read(heads)
    }

    pub(crate) fn attn_residual(&self, _layer: usize, good: Tensor, _out: &Tensor) -> Result<Tensor> {
        Ok(good)
    }
}
