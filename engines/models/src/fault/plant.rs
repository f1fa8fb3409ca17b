use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, Device, Result, Tensor};

use super::{Fault, Kind};
use crate::op::Op;
use crate::ops::Activation;

/// The planted faults during one forward pass.
#[derive(Clone, Copy)]
pub(crate) struct Faults<'a> {
    faults: &'a [Fault],
    /// One more than the position of the pass's last token.
    end: usize,
}

impl<'a> Faults<'a> {
    /// For a pass over `tokens` positions from `first_pos`.
    pub(crate) fn new(faults: &'a [Fault], first_pos: usize, tokens: usize) -> Self {
        Self {
            faults,
            end: first_pos + tokens,
        }
    }

    /// What `op` computes for the tokens before a fault's first position, and what the fault makes of it from there on.
    /// An operation may leave out tokens of the pass, but not the last.
    pub(crate) fn at(&self, stage: &str, layer: Option<usize>, op: Op<'_>) -> Result<Tensor> {
        let mut value = op.compute()?;
        let planted = |fault: &&Fault| {
            fault.stages().contains(&stage) && (fault.layer.is_none() || fault.layer == layer)
        };
        for fault in self.faults.iter().filter(planted) {
            let token_axis = match op {
                Op::Scores { .. } | Op::Softmax { .. } => 1,
                _ => 0,
            };
            let tokens = value.dim(token_axis)?;
            let sound = (fault.from + tokens).saturating_sub(self.end).min(tokens);
            if sound == tokens {
                continue;
            }
            let faulty = faulty(fault, op, &value)?.narrow(token_axis, sound, tokens - sound)?;
            let parts = [value.narrow(token_axis, 0, sound)?, faulty];
            value = match sound {
                0 => parts[1].contiguous()?,
                _ => Tensor::cat(&parts, token_axis)?.contiguous()?,
            };
        }
        Ok(value)
    }
}

/// What `op` computes with the fault, where it should compute `value`. A fault that has nothing to do with the operation
/// leaves the value as it is; the tests see to it that none does.
fn faulty(fault: &Fault, op: Op<'_>, value: &Tensor) -> Result<Tensor> {
    let number = fault.value.unwrap_or_default();
    let times = |factor: f32| value.affine(f64::from(factor), 0.0);
    match (fault.class.kind, op) {
        (Kind::EmbdScale | Kind::WeightScale, _) => times(number),
        (Kind::Bias, _) => value.affine(1.0, f64::from(number)),
        (Kind::Overflow, _) => largest_becomes(f32::INFINITY, value),
        (Kind::Nan, _) => largest_becomes(f32::NAN, value),
        (Kind::LogitsRoll, _) => value.roll(1, D::Minus1),

        (Kind::RmsEps, Op::Norm { x, weight, .. }) => Op::Norm {
            x,
            weight,
            eps: number,
        }
        .compute(),
        (Kind::LayerNorm, Op::Norm { x, weight, eps }) => {
            let x = &x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            Op::Norm { x, weight, eps }.compute()
        }
        (Kind::MissingSubNorm, Op::Norm { x, .. }) => Ok(x.clone()),

        (Kind::BlockScale, Op::Project { linear, x }) => {
            // The product is linear in its inputs: those of the block are added once more, without the bias.
            let outside = x.narrow(1, 32, x.dim(1)? - 32)?.zeros_like()?;
            let block = Tensor::cat(&[x.narrow(1, 0, 32)?, outside], 1)?;
            let part = linear.apply(&block)?.sub(&linear.apply(&x.zeros_like()?)?)?;
            value + part.affine(f64::from(number - 1.0), 0.0)?
        }
        (Kind::PackingOrder, Op::Project { linear, x }) => {
            let columns: Vec<u32> = (0..x.dim(1)? as u32).map(|column| column ^ 3).collect();
            linear.apply(&x.index_select(&Tensor::new(columns, &Device::Cpu)?, 1)?)
        }
        (Kind::Int8Truncation, Op::Project { linear, x }) => {
            let step = x.abs()?.max_all()?.to_scalar::<f32>()? / 127.0;
            let codes = x.affine(f64::from(1.0 / step), 0.0)?;
            // Towards zero, which `floor` of the magnitude is.
            let truncated = codes.abs()?.floor()?.mul(&codes.sign()?)?;
            linear.apply(&truncated.affine(f64::from(step), 0.0)?)
        }

        (Kind::RopeBase, Op::Rotate { rotation, x }) => rotation.with_base(number).apply(x),
        (Kind::RopeScale, Op::Rotate { rotation, x }) => rotation.with_scaled_frequencies(number).apply(x),
        (Kind::RopePairing, Op::Rotate { rotation, x }) => rotation.with_other_pairing().apply(x),
        (Kind::PositionOffByOne, Op::Rotate { rotation, x }) => rotation.one_position_on().apply(x),
        (Kind::CacheQ8, Op::Cache { rows }) => {
            let flat = rows.flatten_from(1)?;
            let blocks = QTensor::quantize(&flat, GgmlDType::Q8_0)?;
            blocks.dequantize(&Device::Cpu)?.reshape(rows.shape())
        }

        (Kind::SwapKvHead, _) => with_kv_heads(op, |head, group, kv_heads| (head / group + 1) % kv_heads),
        (Kind::TiledHeads, _) => with_kv_heads(op, |head, _, kv_heads| head % kv_heads),
        (Kind::NoCausalMask, Op::Softmax { scores, scale, .. }) => Op::Softmax {
            scores,
            scale,
            first_pos: scores.dim(2)?, // every key lies before it
        }
        .compute(),
        (
            Kind::AttnScale,
            Op::Softmax {
                scores,
                scale,
                first_pos,
            },
        ) => Op::Softmax {
            scores,
            scale: scale * number,
            first_pos,
        }
        .compute(),
        (Kind::HeadMerge, Op::Context { probs, .. }) => {
            let (tokens, width) = value.dims2()?;
            let heads = (tokens, probs.dim(0)?, width / probs.dim(0)?);
            value.reshape(heads)?.transpose(1, 2)?.reshape((tokens, width))
        }
        (Kind::MissingResidual, Op::Residual { out, .. }) => Ok(out.clone()),

        (Kind::Gelu, Op::Gate { gate, up, .. }) => gate.gelu()?.mul(up),
        (Kind::Silu, Op::Gate { gate, up, .. }) => Activation::Silu.gated(gate, up),
        (Kind::SquaredRelu, Op::Gate { gate, up, .. }) => Activation::SquaredRelu.gated(gate, up),
        _ => Ok(value.clone()),
    }
}

/// Attention in which query head h of H reads the key and value head `read(h, H / K, K)` of K: there are as many of them then as
/// query heads.
fn with_kv_heads(op: Op<'_>, read: impl Fn(usize, usize, usize) -> usize) -> Result<Tensor> {
    let expanded = |cached: &Tensor, heads: usize| {
        let kv_heads = cached.dim(0)?;
        let order: Vec<u32> = (0..heads)
            .map(|head| read(head, heads / kv_heads, kv_heads) as u32)
            .collect();
        cached
            .contiguous()?
            .index_select(&Tensor::new(order, &Device::Cpu)?, 0)
    };
    match op {
        Op::Scores { q, keys } => Op::Scores {
            q,
            keys: &expanded(keys, q.dim(1)?)?,
        }
        .compute(),
        Op::Context { probs, values } => Op::Context {
            probs,
            values: &expanded(values, probs.dim(0)?)?,
        }
        .compute(),
        _ => op.compute(),
    }
}

/// The first of the largest elements of each token replaced by `by`, with its sign. Tokens are the first axis.
fn largest_becomes(by: f32, value: &Tensor) -> Result<Tensor> {
    let mut rows = value.flatten_from(1)?.to_vec2::<f32>()?;
    for row in &mut rows {
        let larger = |a: usize, b: usize| if row[b].abs() > row[a].abs() { b } else { a };
        if let Some(largest) = (0..row.len()).reduce(larger) {
            row[largest] = by.copysign(row[largest]);
        }
    }
    Tensor::new(rows, &Device::Cpu)?.reshape(value.shape())
}
