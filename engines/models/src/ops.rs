//! The element-wise kernels of the forward pass, written out so that their
//! rounding is known: sums are accumulated in f64, as ggml does.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// The elements of a contiguous f32 tensor.
pub(crate) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("the kernel needs a contiguous tensor, not {layout:?}"),
    }
}

/// RMSNorm of each row: `x / sqrt(mean(x²) + eps) * weight`. `x` [T, n], `weight` [n].
///
/// Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (elements(x, x_layout)?, elements(weight, weight_layout)?);
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            let sum: f64 = row.iter().map(|&v| f64::from(v * v)).sum();
            let mean = (sum / row.len() as f64) as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            out.extend(row.iter().zip(weight).map(|(&v, &w)| v * scale * w));
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// Softmax of `scores * scale` over the keys that a query may see. `scores` [heads, T, keys]; query `t` sees
/// keys `0..=first_pos + t`; the probability of every other key is exactly 0.
pub(crate) fn causal_softmax(scores: &Tensor, scale: f32, first_pos: usize) -> Result<Tensor> {
    scores.apply_op1_no_bwd(&CausalSoftmax { scale, first_pos })
}

struct CausalSoftmax {
    scale: f32,
    first_pos: usize,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_heads, tokens, keys) = layout.shape().dims3()?;
        let mut out = elements(scores, layout)?.to_vec();
        for (index, row) in out.chunks_exact_mut(keys).enumerate() {
            let visible = (self.first_pos + index % tokens + 1).min(keys);
            let (seen, future) = row.split_at_mut(visible);
            softmax(seen, self.scale);
            future.fill(0.0);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn softmax(row: &mut [f32], scale: f32) {
    let mut max = f32::NEG_INFINITY;
    for value in row.iter_mut() {
        *value *= scale;
        max = max.max(*value);
    }
    let mut sum = 0.0f64;
    for value in row.iter_mut() {
        *value = (*value - max).exp();
        sum += f64::from(*value);
    }
    let inverse = (1.0 / sum) as f32;
    for value in row.iter_mut() {
        *value *= inverse;
    }
}

/// The gate's non-linearity in a gated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)²` (So et al. 2021, "Primer").
    SquaredRelu,
}

impl Activation {
    /// `act(gate) * up`, both [T, n].
    pub(crate) fn gated(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => gate.silu()?.mul(up),
            Self::SquaredRelu => gate.relu()?.sqr()?.mul(up),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rms_norm_divides_by_the_root_of_the_mean_square_and_applies_the_weight() {
        let x = Tensor::new(&[[3.0f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[1.0f32, 2.0], &Device::Cpu).unwrap();
        let y = rms_norm(&x, &weight, 0.5).unwrap().to_vec2::<f32>().unwrap();
        let scale = 1.0 / (12.5f32 + 0.5).sqrt();
        assert_eq!(y, [[3.0 * scale, 4.0 * scale * 2.0], [0.0, 0.0]]);
    }

    #[test]
    fn softmax_gives_future_keys_exactly_zero_and_the_rest_sums_to_one() {
        let scores = Tensor::new(&[[[1.0f32, 2.0, 90.0], [1.0, 1.0, 1.0]]], &Device::Cpu).unwrap();
        let probs = causal_softmax(&scores, 0.5, 1).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(probs[0][0][2], 0.0);
        assert!((probs[0][0][0] + probs[0][0][1] - 1.0).abs() < 1e-6);
        assert!((probs[0][0][1] / probs[0][0][0] - 0.5f32.exp()).abs() < 1e-6);
        assert!(probs[0][1].iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-7));
    }

    #[test]
    fn squared_relu_gating_lets_nothing_below_zero_through() {
        let gate = Tensor::new(&[[1.5f32, -2.0, 0.0]], &Device::Cpu).unwrap();
        let up = Tensor::new(&[[3.0f32, 5.0, 7.0]], &Device::Cpu).unwrap();
        let y = Activation::SquaredRelu.gated(&gate, &up).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[6.75, 0.0, 0.0]]);
    }

    #[test]
    fn silu_gating_multiplies_the_activated_gate_by_up() {
        let gate = Tensor::new(&[[1.0f32, -2.0]], &Device::Cpu).unwrap();
        let up = Tensor::new(&[[3.0f32, 5.0]], &Device::Cpu).unwrap();
        let y = Activation::Silu
            .gated(&gate, &up)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        assert!((y[0][0] - silu(1.0) * 3.0).abs() < 1e-6 && (y[0][1] - silu(-2.0) * 5.0).abs() < 1e-6);
    }
}
