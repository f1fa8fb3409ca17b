//! Rotary position embeddings (Su et al. 2021, "RoFormer").

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::config::Config;
use crate::ops::elements;

/// Which two elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// Elements 2i and 2i + 1 (ggml's "norm").
    Interleaved,
    /// Elements i and i + n/2 of the n that are rotated (ggml's "NeoX").
    Halves,
}

/// The angles' parameters.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    pairing: Pairing,
    n_rot: usize,
    base: f32,
    scale: f32,
    /// Divisors of each pair's angle (`rope_freqs.weight`).
    factors: Option<Vec<f32>>,
}

impl Rope {
    pub(crate) fn new(config: &Config, pairing: Pairing, factors: Option<Vec<f32>>) -> Self {
        Self {
            pairing,
            n_rot: config.n_rot,
            base: config.rope_base,
            scale: config.rope_scale,
            factors,
        }
    }

    /// Sines and cosines for positions `first_pos..first_pos + tokens`.
    ///
    /// Pair i turns by `pos * base^(-2i / n_rot)`. The power is accumulated by multiplication in f32 because
    /// llama.cpp does so: at position 1000 an exact power would differ from it by about 1e-5 rad.
    pub(crate) fn rotation(&self, first_pos: usize, tokens: usize) -> Rotation {
        let pairs = self.n_rot / 2;
        let step = self.base.powf(-2.0 / self.n_rot as f32);
        let mut cos_sin = Vec::with_capacity(tokens * pairs);
        for pos in first_pos..first_pos + tokens {
            let mut angle = pos as f32;
            for pair in 0..pairs {
                let divisor = self.factors.as_ref().map_or(1.0, |factors| factors[pair]);
                let theta = self.scale * (angle / divisor);
                cos_sin.push((theta.cos(), theta.sin()));
                angle *= step;
            }
        }
        Rotation {
            rope: self.clone(),
            first_pos,
            tokens,
            cos_sin,
        }
    }
}

/// The rotation of a run of positions.
pub(crate) struct Rotation {
    rope: Rope,
    #[cfg_attr(not(feature = "faults"), allow(dead_code))]
    first_pos: usize,
    tokens: usize,
    /// [tokens, pairs]
    cos_sin: Vec<(f32, f32)>,
}

impl Rotation {
    /// Rotates every head of `x` [T, heads, head_dim]; elements beyond the rotated ones stay.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

/// Rotations that a port might take for this one.
#[cfg(feature = "faults")]
impl Rotation {
    fn with(&self, change: impl FnOnce(&mut Rope)) -> Self {
        let mut rope = self.rope.clone();
        change(&mut rope);
        rope.rotation(self.first_pos, self.tokens)
    }

    pub(crate) fn with_base(&self, base: f32) -> Self {
        self.with(|rope| rope.base = base)
    }

    pub(crate) fn with_scaled_frequencies(&self, factor: f32) -> Self {
        self.with(|rope| rope.scale *= factor)
    }

    pub(crate) fn with_other_pairing(&self) -> Self {
        self.with(|rope| {
            rope.pairing = match rope.pairing {
                Pairing::Interleaved => Pairing::Halves,
                Pairing::Halves => Pairing::Interleaved,
            }
        })
    }

    pub(crate) fn one_position_on(&self) -> Self {
        self.rope.rotation(self.first_pos + 1, self.tokens)
    }
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, heads, head_dim) = layout.shape().dims3()?;
        let pairs = self.rope.n_rot / 2;
        if tokens != self.tokens || 2 * pairs > head_dim {
            bail!(
                "rope: a rotation of {} tokens by {pairs} pairs does not fit {:?}",
                self.tokens,
                layout.shape()
            );
        }
        let mut out = elements(x, layout)?.to_vec();
        let angles = self.cos_sin.chunks_exact(pairs);
        for (token, angles) in out.chunks_exact_mut(heads * head_dim).zip(angles) {
            for head in token.chunks_exact_mut(head_dim) {
                for (pair, &(cos, sin)) in angles.iter().enumerate() {
                    let (a, b) = match self.rope.pairing {
                        Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                        Pairing::Halves => (pair, pair + pairs),
                    };
                    let (x0, x1) = (head[a], head[b]);
                    head[a] = x0 * cos - x1 * sin;
                    head[b] = x0 * sin + x1 * cos;
                }
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn rope(n_rot: usize) -> Rope {
        Rope {
            pairing: Pairing::Interleaved,
            n_rot,
            base: 10_000.0,
            scale: 1.0,
            factors: None,
        }
    }

    #[test]
    fn position_zero_is_not_rotated() {
        let x = Tensor::new(&[[[1.0f32, 2.0, 3.0, 4.0]]], &Device::Cpu).unwrap();
        let y = rope(4).rotation(0, 1).apply(&x).unwrap();
        assert_eq!(y.to_vec3::<f32>().unwrap(), x.to_vec3::<f32>().unwrap());
    }

    #[test]
    fn neighbouring_elements_turn_by_position_times_their_frequency() {
        let x = Tensor::new(&[[[1.0f32, 0.0, 1.0, 0.0]]], &Device::Cpu).unwrap();
        let y = rope(4)
            .rotation(3, 1)
            .apply(&x)
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        for (pair, theta) in [3.0f64, 3.0 * 10_000f64.powf(-0.5)].into_iter().enumerate() {
            assert!((f64::from(y[0][0][2 * pair]) - theta.cos()).abs() < 1e-6);
            assert!((f64::from(y[0][0][2 * pair + 1]) - theta.sin()).abs() < 1e-6);
        }
    }

    #[test]
    fn paired_by_halves_the_same_angles_turn_elements_half_the_rotated_ones_apart() {
        let rope = |pairing| Rope { pairing, ..rope(4) };
        let turn = |pairing, x: &[f32; 5]| {
            let x = Tensor::new(&[[*x]], &Device::Cpu).unwrap();
            let y = rope(pairing).rotation(3, 1).apply(&x).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let [a, b, c, d, rest] = [1.0, 2.0, 3.0, 4.0, 5.0];
        let interleaved = turn(Pairing::Interleaved, &[a, b, c, d, rest]);
        let halves = turn(Pairing::Halves, &[a, c, b, d, rest]);
        assert_eq!(halves, [0, 2, 1, 3, 4].map(|i| interleaved[i]));
    }

    #[test]
    fn elements_beyond_the_rotated_ones_stay_as_they_are() {
        let x = Tensor::new(&[[[1.0f32, 2.0, 3.0, 4.0]]], &Device::Cpu).unwrap();
        let y = rope(2)
            .rotation(5, 1)
            .apply(&x)
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        assert_eq!(y[0][0][2..], [3.0, 4.0]);
        assert_ne!(y[0][0][..2], [1.0, 2.0]);
    }
}
