//! How engines round activations before a product, and how far from the exact result a right engine may be.
//!
//! A product with quantised weights is made of integers: each engine first rounds the activations to 8 bits, and each
//! does so a little otherwise. Which of these ways an engine takes is found by trying them on a few rows
//! ([`Referee::try_roundings`](crate::Referee::try_roundings)); with the right one, a product agrees to about 1e-6, with
//! another to 1e-3, without any to 1e-2.

use bitnet_trace_schema::DType;
use half::{bf16, f16};
use std::fmt;

/// How ties are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ties {
    /// To the even neighbour: vector instructions.
    Even,
    /// Away from zero: C's `roundf`, Rust's `round`.
    Away,
}

impl Ties {
    fn round(self, x: f32) -> f32 {
        match self {
            Self::Even => x.round_ties_even(),
            Self::Away => x.round(),
        }
    }
}

/// What is multiplied with an element to get its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Inverse {
    /// `127 / max`.
    OfMax,
    /// `1 / (max / 127)`.
    OfScale,
}

/// What the sum of a block's codes is scaled with, where weights have a minimum (`Q4_1`, `Q5_1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockSum {
    /// The scale in f32; the product is rounded to f16: ggml.
    F32Scale,
    /// The scale in f16; the sum and the product are rounded to f16: candle.
    F16Scale,
    /// As codes times their f16 scale: not rounded by itself.
    Exact,
}

/// What happens to activations before they are multiplied with weights of some dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rounding {
    /// Nothing: products in f32 or better.
    None,
    /// Rounded to binary16.
    F16,
    /// Rounded to bfloat16.
    Bf16,
    /// Blocks of 32 with an f16 scale: ggml's `Q8_0` and `Q8_1`.
    Block32(Inverse, Ties, BlockSum),
    /// Blocks of 256 with an f32 scale, the largest element being -127 or -128: ggml's `Q8_K` of today and of 2023,
    /// candle's where ties are rounded away from zero.
    Block256(u8, Ties),
    /// One f32 scale for a row: bitnet.cpp's int8.
    Row,
}

impl Rounding {
    /// The ways that are known for products with weights of `dtype`, ggml's own first.
    pub fn candidates(dtype: DType) -> Vec<Self> {
        let block32 = |sums: &[BlockSum]| {
            let mut all = Vec::new();
            for &sum in sums {
                for (inverse, ties) in [
                    (Inverse::OfMax, Ties::Even),
                    (Inverse::OfScale, Ties::Away),
                    (Inverse::OfScale, Ties::Even),
                    (Inverse::OfMax, Ties::Away),
                ] {
                    all.push(Self::Block32(inverse, ties, sum));
                }
            }
            all
        };
        let block256 = [
            Self::Block256(127, Ties::Even),
            Self::Block256(127, Ties::Away),
            Self::Block256(128, Ties::Even),
        ];
        let mut all = match dtype {
            DType::F16 => vec![Self::F16],
            DType::BF16 => vec![Self::Bf16],
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => block32(&[BlockSum::Exact]),
            DType::Q4_1 | DType::Q5_1 => block32(&[BlockSum::F32Scale, BlockSum::F16Scale, BlockSum::Exact]),
            DType::I2_S => vec![Self::Row],
            DType::TQ1_0 | DType::TQ2_0 => [block256.as_slice(), &[Self::Row]].concat(),
            dtype if dtype.is_packed() => block256.into(),
            _ => Vec::new(),
        };
        all.push(Self::None);
        all
    }

    /// Rounds a row of activations.
    pub(crate) fn round(self, x: &[f64]) -> Rounded {
        let plain = |values| Rounded {
            values,
            excess: Vec::new(),
        };
        match self {
            Self::None => plain(x.to_vec()),
            Self::F16 => plain(x.iter().map(|&x| f16::from_f64(x).to_f64()).collect()),
            Self::Bf16 => plain(x.iter().map(|&x| bf16::from_f64(x).to_f64()).collect()),
            Self::Block32(inverse, ties, sum) => block32(x, inverse, ties, sum),
            Self::Block256(full, ties) => plain(
                x.chunks(256)
                    .flat_map(|block| block256(block, full, ties))
                    .collect(),
            ),
            Self::Row => plain(int8_row(x)),
        }
    }

    /// Rounds rows of `width` elements, each by itself.
    pub(crate) fn round_rows(self, x: &[f64], width: usize) -> Vec<f64> {
        x.chunks(width.max(1))
            .flat_map(|row| self.round(row).values)
            .collect()
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("not rounded"),
            Self::F16 => f.write_str("rounded to f16"),
            Self::Bf16 => f.write_str("rounded to bf16"),
            Self::Block32(inverse, ties, sum) => {
                f.write_str("rounded to 8 bits in blocks of 32")?;
                match inverse {
                    Inverse::OfMax => f.write_str(", codes by 127 / max")?,
                    Inverse::OfScale => f.write_str(", codes by 1 / scale")?,
                }
                if *ties == Ties::Away {
                    f.write_str(", ties away from 0")?;
                }
                match sum {
                    BlockSum::F32Scale => f.write_str(", sums by the f32 scale"),
                    BlockSum::F16Scale => f.write_str(", sums by the f16 scale"),
                    BlockSum::Exact => Ok(()),
                }
            }
            Self::Block256(full, ties) => {
                write!(f, "rounded to 8 bits in blocks of 256, the largest to -{full}")?;
                match ties {
                    Ties::Even => Ok(()),
                    Ties::Away => f.write_str(", ties away from 0"),
                }
            }
            Self::Row => f.write_str("rounded to 8 bits, one scale a token"),
        }
    }
}

/// Activations as a product sees them.
pub(crate) struct Rounded {
    /// The rounded elements.
    pub(crate) values: Vec<f64>,
    /// For each block of 32, by how much the sum that weights' minima are multiplied with exceeds the sum of the rounded
    /// elements; empty where it never does.
    pub(crate) excess: Vec<f64>,
}

/// ggml's `quantize_row_q8_0` and `quantize_row_q8_1`, and candle's, in f32 as they are.
fn block32(x: &[f64], inverse: Inverse, ties: Ties, sum: BlockSum) -> Rounded {
    let mut rounded = Rounded {
        values: Vec::with_capacity(x.len()),
        excess: Vec::new(),
    };
    for block in x.chunks(32) {
        let max = block.iter().fold(0.0f32, |max, &x| max.max((x as f32).abs()));
        let scale = max / 127.0;
        let factor = match inverse {
            _ if max == 0.0 => 0.0,
            Inverse::OfMax => 127.0 / max,
            Inverse::OfScale => 1.0 / scale,
        };
        let stored = f16::from_f32(scale).to_f64();
        let mut codes = 0.0;
        for &x in block {
            let code = ties.round(x as f32 * factor);
            codes += f64::from(code);
            rounded.values.push(stored * f64::from(code));
        }
        let exact = stored * codes;
        let by = |scale: f32, codes: f32| f16::from_f32(scale * codes).to_f64();
        match sum {
            BlockSum::Exact => {}
            BlockSum::F32Scale => rounded.excess.push(by(scale, codes as f32) - exact),
            BlockSum::F16Scale => {
                let codes = f16::from_f64(codes).to_f32();
                rounded.excess.push(by(stored as f32, codes) - exact);
            }
        }
    }
    rounded
}

/// ggml's `quantize_row_q8_K`: the element of the largest magnitude becomes `-full`.
fn block256(block: &[f64], full: u8, ties: Ties) -> Vec<f64> {
    let mut largest = 0.0f32;
    for &x in block {
        if (x as f32).abs() > largest.abs() {
            largest = x as f32;
        }
    }
    if largest == 0.0 {
        return vec![0.0; block.len()];
    }
    let factor = -f32::from(full) / largest;
    let scale = f64::from(1.0 / factor);
    let code = |&x: &f64| ties.round(factor * x as f32).min(127.0);
    block.iter().map(|x| scale * f64::from(code(x))).collect()
}

/// bitnet.cpp's `quantize_row_i8_s`: one scale a row.
fn int8_row(x: &[f64]) -> Vec<f64> {
    let max = x.iter().fold(1e-5f64, |max, &x| max.max(x.abs()));
    let factor = (127.0 / max) as f32;
    let code = |&x: &f64| (x as f32 * factor).round_ties_even().clamp(-128.0, 127.0);
    x.iter().map(|x| f64::from(code(x)) / f64::from(factor)).collect()
}
