//! Products with ternary weights in the arithmetic of the reference engines, to the bit.
//!
//! The weights' codes are 0, 1 and 2 for -1, 0 and 1; activations are rounded to 8 bits, and from the sum of code · q the
//! sum of q is taken off. What makes the result differ from other orders of the same sums, on x86-64 with AVX2:
//!
//! - Sums run in 16 wrapping 16-bit lanes, of which lane l takes elements 2l and 2l + 1 of every 32.
//! - `I2_S` (bitnet.cpp, `ggml_vec_dot_i2_i8_s` in `ggml-bitnet-mad.cpp`, `quantize_row_i8_s` in its `ggml-quants.c`): a row of
//!   activations has one scale; the lanes are added up every 4096 elements, and 2176 of 2 · 127 overflow them; the
//!   scaling is `(dot - sum) / s * scale` (`ggml_compute_forward_mul_mat`).
//! - `TQ1_0`, `TQ2_0` (ggml, `ggml_vec_dot_tq2_0_q8_K` and `quantize_row_q8_K_ref`): every 256 activations have a scale;
//!   lanes 2l and 2l + 1 of such a block go, scaled, to the lth of 8 sums in f32.

use bitnet_trace_schema::{DType, quant};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use half::f16;
use rayon::prelude::*;

use crate::ops::elements;

/// A ternary weight matrix in its blocks.
pub(crate) struct Ternary {
    dtype: DType,
    rows: usize,
    columns: usize,
    /// Whole blocks, row by row.
    blocks: Vec<u8>,
    /// Of `I2_S` the tensor's scale; the others have theirs in the blocks.
    scale: f32,
    fused: bool,
}

impl Ternary {
    /// `bytes` are those of a tensor [rows, columns] and whatever padding follows it. `fused` rounds
    /// `x * s + c` once, as a fused multiply-add does.
    pub(crate) fn new(
        dtype: DType,
        mut bytes: Vec<u8>,
        rows: usize,
        columns: usize,
        fused: bool,
    ) -> Result<Self> {
        if !columns.is_multiple_of(dtype.block()) {
            bail!("rows of {columns} elements are not whole blocks of {dtype}");
        }
        let len = rows * columns / dtype.block() * dtype.size();
        let scale = match dtype.tail() {
            0 => 1.0,
            _ => match bytes.get(len..).and_then(|tail| tail.first_chunk::<4>()) {
                Some(&scale) => f32::from_le_bytes(scale),
                None => bail!("the scale behind {rows} rows of {columns} elements of {dtype} is missing"),
            },
        };
        bytes.truncate(len);
        Ok(Self {
            dtype,
            rows,
            columns,
            blocks: bytes,
            scale,
            fused,
        })
    }

    fn row(&self, row: usize) -> &[u8] {
        let len = self.columns / self.dtype.block() * self.dtype.size();
        &self.blocks[row * len..][..len]
    }

    /// Rows `ids` as f32: [ids, columns].
    pub(crate) fn dequantized(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = vec![0.0; ids.len() * self.columns];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.columns)) {
            if id as usize >= self.rows {
                bail!("row {id} of a matrix of {} rows", self.rows);
            }
            let row = [
                self.row(id as usize),
                &self.scale.to_le_bytes()[..self.dtype.tail()],
            ];
            quant::dequantize(self.dtype, &row.concat(), out).map_err(candle_core::Error::wrap)?;
        }
        Tensor::from_vec(out, (ids.len(), self.columns), &Device::Cpu)
    }

    /// `x` [T, columns] times this matrix transposed: [T, rows].
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Product(self))
    }

    /// Every row of the weights with every token of `x`, the tokens' first.
    fn product<A: Sync>(
        &self,
        x: &[f32],
        quantize: impl Fn(&[f32]) -> A,
        dot: impl Fn(&[u8], &[u8], &A) -> f32 + Sync,
    ) -> Result<Vec<f32>> {
        let tokens: Vec<A> = x.chunks_exact(self.columns).map(quantize).collect();
        let mut by_row = vec![0.0; self.rows * tokens.len()];
        by_row
            .par_chunks_mut(tokens.len().max(1))
            .with_min_len(16)
            .enumerate()
            .try_for_each_init(
                || vec![0; self.columns],
                |codes, (row, out)| {
                    let blocks = self.row(row);
                    quant::codes(self.dtype, blocks, codes)?;
                    for (out, token) in out.iter_mut().zip(&tokens) {
                        *out = dot(blocks, codes, token);
                    }
                    Ok::<_, quant::QuantError>(())
                },
            )
            .map_err(candle_core::Error::wrap)?;
        let at = |token, row| by_row[row * tokens.len() + token];
        Ok((0..tokens.len())
            .flat_map(|token| (0..self.rows).map(move |row| at(token, row)))
            .collect())
    }
}

struct Product<'a>(&'a Ternary);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "ternary-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, x) = (self.0, elements(x, layout)?);
        let (tokens, columns) = layout.shape().dims2()?;
        if columns != weight.columns {
            bail!("{columns} activations for {} columns of weights", weight.columns);
        }
        let fused = weight.fused;
        let out = match weight.dtype {
            DType::I2_S => weight.product(
                x,
                |x| I8Row::new(x, fused),
                |_, codes, token| token.dot(codes, weight.scale),
            )?,
            _ => weight.product(
                x,
                |x| Q8K::row(x, fused),
                |blocks, codes, token| Q8K::dot(token, blocks, codes, weight.dtype, fused),
            )?,
        };
        Ok((CpuStorage::F32(out), (tokens, weight.rows).into()))
    }
}

/// `x * scale` to the nearest integer, ties to even, by what adding 1.5 · 2^23 does to the lower bits; a NaN gives 0.
fn nearest(x: f32, scale: f32, fused: bool) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    let sum = match fused {
        true => x.mul_add(scale, SHIFT),
        false => x * scale + SHIFT,
    };
    (sum.to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// Σ code · q in the 16 lanes. The 32 sums that are kept apart here wrap to the same lanes when they are joined.
fn lanes(codes: &[u8], q: &[i8]) -> [i16; 16] {
    let mut sums = [0i16; 32];
    for (codes, q) in codes.as_chunks::<32>().0.iter().zip(q.as_chunks::<32>().0) {
        for ((sum, &code), &q) in sums.iter_mut().zip(codes).zip(q) {
            *sum = sum.wrapping_add(i16::from(code) * i16::from(q));
        }
    }
    std::array::from_fn(|lane| sums[2 * lane].wrapping_add(sums[2 * lane + 1]))
}

/// A token's activations as `I2_S` takes them.
struct I8Row {
    q: Vec<i8>,
    /// x times it is q.
    scale: f32,
    sum: i32,
}

impl I8Row {
    /// Elements after which the lanes are added up.
    const FLUSH: usize = 4096;

    fn new(x: &[f32], fused: bool) -> Self {
        // The comparison decides what a NaN does, as in C's macro.
        let max = x.iter().fold(0.00001, |max, &x| {
            let x = f64::from(x).abs();
            if max > x { max } else { x }
        });
        let scale = (127.0 / max) as f32;
        let q: Vec<i8> = x
            .iter()
            .map(|&x| nearest(x, scale, fused).clamp(-128, 127) as i8)
            .collect();
        let sum = q.iter().fold(0i32, |sum, &q| sum.wrapping_add(q.into()));
        Self { q, scale, sum }
    }

    fn dot(&self, codes: &[u8], weight_scale: f32) -> f32 {
        let chunks = codes.chunks(Self::FLUSH).zip(self.q.chunks(Self::FLUSH));
        let dot = chunks.fold(0i32, |dot, (codes, q)| {
            lanes(codes, q)
                .iter()
                .fold(dot, |dot, &lane| dot.wrapping_add(lane.into()))
        });
        (dot as f32 - self.sum as f32) / self.scale * weight_scale
    }
}

/// 256 of a token's activations as the TQ types take them: ggml's `block_q8_K`.
struct Q8K {
    q: [i8; 256],
    d: f32,
    /// Of every 16.
    sums: [i16; 16],
}

impl Q8K {
    fn row(x: &[f32], fused: bool) -> Vec<Self> {
        let blocks = x.as_chunks::<256>().0.iter();
        blocks.map(|x| Self::new(x, fused)).collect()
    }

    fn new(x: &[f32; 256], fused: bool) -> Self {
        // The first of the largest, with its sign.
        let max = x
            .iter()
            .fold(0.0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
        if max == 0.0 {
            return Self {
                q: [0; 256],
                d: 0.0,
                sums: [0; 16],
            };
        }
        let scale = -127.0 / max;
        let q = x.map(|x| nearest(x, scale, fused).min(127) as i8);
        let sums = std::array::from_fn(|n| q[16 * n..][..16].iter().map(|&q| i16::from(q)).sum());
        Self {
            q,
            d: 1.0 / scale,
            sums,
        }
    }

    fn dot(token: &[Self], blocks: &[u8], codes: &[u8], dtype: DType, fused: bool) -> f32 {
        let mut sums = [0.0f32; 8];
        let blocks = blocks.chunks_exact(dtype.size());
        for ((block, codes), x) in blocks.zip(codes.as_chunks::<256>().0).zip(token) {
            let weight_d = f16::from_le_bytes([block[dtype.size() - 2], block[dtype.size() - 1]]);
            let d = x.d * weight_d.to_f32();
            let lanes = lanes(codes, &x.q);
            let lane = |lane: usize| i32::from(lanes[lane].wrapping_sub(x.sums[lane]));
            for (l, sum) in sums.iter_mut().enumerate() {
                let dot = (lane(2 * l) + lane(2 * l + 1)) as f32;
                *sum = match fused {
                    true => dot.mul_add(d, *sum),
                    false => dot * d + *sum,
                };
            }
        }
        let [a, b, c, d] = std::array::from_fn(|l| sums[l + 4] + sums[l]);
        (a + c) + (b + d)
    }
}

#[cfg(test)]
#[path = "ternary/tests.rs"]
mod tests;
