//! The hook of the forward pass in a build without faults: it computes what it is given.

use std::marker::PhantomData;

use candle_core::{Result, Tensor};

use crate::op::Op;

/// Nothing that could go wrong.
#[derive(Clone, Copy)]
pub(crate) struct Faults<'a>(PhantomData<&'a ()>);

impl Faults<'_> {
    pub(crate) fn none() -> Self {
        Self(PhantomData)
    }

    #[inline]
    pub(crate) fn at(&self, _stage: &str, _layer: Option<usize>, op: Op<'_>) -> Result<Tensor> {
        op.compute()
    }
}
