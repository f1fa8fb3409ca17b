//! The formulas, in f64, on one token's row.

use crate::spec::{Activation, Angles, Pairing};
use half::f16;

/// RMSNorm (Zhang and Sennrich 2019) of each group of `weight.len()` elements: `x / √(mean(x²) + eps) · weight`.
pub(crate) fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for group in x.chunks(weight.len().max(1)) {
        let mean = group.iter().map(|x| x * x).sum::<f64>() / group.len() as f64;
        let factor = 1.0 / (mean + eps).sqrt();
        out.extend(group.iter().zip(weight).map(|(x, w)| x * factor * w));
    }
    out
}

/// How an engine computes RoPE's angles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turning {
    /// As the formula says.
    Exact,
    /// In f32, the angle of each pair from that of the pair before: ggml's `ggml_rope_cache_init`. Its error grows with the
    /// position, to 6e-5 at 750.
    F32Steps,
}

/// How RoPE turns the pairs of a head.
pub(crate) struct Turn<'a> {
    pub(crate) pairing: Pairing,
    pub(crate) n_rot: usize,
    pub(crate) angles: Angles,
    /// Divisors of each pair's angle.
    pub(crate) factors: Option<&'a [f64]>,
    pub(crate) turning: Turning,
}

impl Turn<'_> {
    /// RoPE (Su et al. 2021) of every head of `x` at `position`; elements beyond the turned ones stay.
    pub(crate) fn apply(&self, x: &[f64], head_dim: usize, position: f64) -> Vec<f64> {
        let mut out = x.to_vec();
        let pairs = self.n_rot / 2;
        let step = (self.angles.base as f32).powf(-2.0 / self.n_rot as f32);
        let mut stepped = position as f32;
        for pair in 0..pairs {
            let divisor = self.factors.map_or(1.0, |factors| factors[pair]);
            let angle = match self.turning {
                Turning::Exact => {
                    let frequency = self.angles.base.powf(-2.0 * pair as f64 / self.n_rot as f64);
                    position * self.angles.scale * frequency / divisor
                }
                Turning::F32Steps => (self.angles.scale as f32 * (stepped / divisor as f32)).into(),
            };
            stepped *= step;
            let (sin, cos) = angle.sin_cos();
            let (first, second) = match self.pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Halves => (pair, pair + pairs),
            };
            for head in out.chunks_mut(head_dim) {
                let (a, b) = (head[first], head[second]);
                head[first] = a * cos - b * sin;
                head[second] = a * sin + b * cos;
            }
        }
        out
    }
}

/// Softmax of `cap(scores) · scale` over the keys from `first` on; the others get 0.
pub(crate) fn softmax(scores: &[f64], scale: f64, cap: Option<f64>, first: usize) -> Vec<f64> {
    let logits: Vec<f64> = scores.iter().map(|&x| capped(x * scale, cap)).collect();
    let seen = &logits[first.min(logits.len())..];
    let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = seen.iter().map(|x| (x - max).exp()).sum();
    let weight = |(key, x): (usize, &f64)| if key < first { 0.0 } else { (x - max).exp() / sum };
    logits.iter().enumerate().map(weight).collect()
}

/// `cap · tanh(x / cap)`, or `x`.
pub(crate) fn capped(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// How an engine computes GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// As the formula says.
    Exact,
    /// By ggml's table, which has an f16 result for every f16 argument between -10 and 10.
    F16Table {
        /// Whether the compiler of ggml's `ggml_gelu_f32` made one instruction of `1 + a·x²` (gcc does for a processor
        /// that has it): seldom, an entry is then its other neighbour in f16.
        fused: bool,
    },
}

impl Gelu {
    /// The ways that are known.
    pub(crate) const ALL: [Self; 3] = [
        Self::Exact,
        Self::F16Table { fused: true },
        Self::F16Table { fused: false },
    ];
}

impl Activation {
    /// `act(gate) · up`.
    pub(crate) fn gated(self, gate: f64, up: f64, gelu: Gelu) -> f64 {
        up * match self {
            Self::Silu => gate / (1.0 + (-gate).exp()),
            Self::SquaredRelu => gate.max(0.0).powi(2),
            Self::Gelu => match gelu {
                Gelu::F16Table { fused } => gelu_by_table(gate as f32, fused),
                Gelu::Exact => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * gate * (1.0 + 0.044_715 * gate * gate);
                    0.5 * gate * (1.0 + inner.tanh())
                }
            },
        }
    }
}

/// ggml's `ggml_vec_gelu_f32` with `GGML_GELU_FP16`, in f32 as its table is made.
fn gelu_by_table(x: f32, fused: bool) -> f64 {
    if x <= -10.0 {
        return 0.0;
    }
    if x >= 10.0 {
        return x.into();
    }
    let x = f16::from_f32(x).to_f32();
    let cubic = match fused {
        true => (0.044715 * x).mul_add(x, 1.0),
        false => 1.0 + 0.044715 * x * x,
    };
    let inner = 0.797_884_6_f32 * x * cubic;
    f16::from_f32(0.5 * x * (1.0 + inner.tanh())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 63,488 arguments of f16 are numbers.
    #[test]
    fn the_gelu_tables_of_both_compilers_differ_in_few_entries_and_by_one_step_of_f16() {
        let mut differ = 0;
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            if !x.is_finite() {
                continue;
            }
            let [fused, plain] = [true, false].map(|fused| gelu_by_table(x.to_f32(), fused));
            if fused != plain {
                let steps = f16::from_f64(fused)
                    .to_bits()
                    .abs_diff(f16::from_f64(plain).to_bits());
                assert_eq!(steps, 1, "{x}: {fused} and {plain}");
                differ += 1;
            }
        }
        assert!((1..600).contains(&differ), "{differ}");
    }

    #[test]
    fn gelu_by_table_is_the_formula_to_the_precision_of_f16() {
        for i in -1200..=1200 {
            let x = f64::from(i) / 100.0;
            let [exact, table] = [Gelu::Exact, Gelu::F16Table { fused: true }]
                .map(|gelu| Activation::Gelu.gated(x, 1.0, gelu));
            assert!(
                (exact - table).abs() <= 2e-3 * x.abs().max(0.1),
                "{x}: {exact} and {table}"
            );
        }
    }
}
