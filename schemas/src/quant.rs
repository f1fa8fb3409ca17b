//! What the elements of packed dtypes are worth, as f32.
//!
//! The layouts are those of ggml (`block_q4_0` and its kin in `ggml-common.h`), and each element is computed as
//! its reference does (`dequantize_row_*` in `ggml-quants.c`): the same products and sums in f32, in the same
//! order and not fused, so that the results agree to the bit. `I2_S` is bitnet.cpp's (`dequantize_row_i2_s` in its
//! fork of ggml).
//!
//! ```
//! use bitnet_trace_schema::{DType, quant};
//!
//! let mut block = [0u8; 34]; // Q8_0: a scale (f16) and 32 signed bytes
//! block[..2].copy_from_slice(&[0x00, 0x38]); // 0.5
//! block[2] = 254; // -2
//! let mut out = [f32::NAN; 32];
//! quant::dequantize(DType::Q8_0, &block, &mut out).expect("one block");
//! assert_eq!(out[..2], [-1.0, 0.0]);
//! ```

mod simple;
mod superblock;
mod ternary;

use crate::DType;

/// Why bytes could not be dequantised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The dtype has no blocks.
    #[error("{0} is not a packed dtype")]
    NotPacked(DType),
    /// The dtype has no ternary codes.
    #[error("{0} is not a ternary dtype")]
    NotTernary(DType),
    /// The bytes are not those of as many elements.
    #[error("{bytes} bytes are not {elements} elements of {dtype}")]
    Length {
        /// The packed dtype.
        dtype: DType,
        /// Bytes that were given.
        bytes: usize,
        /// Elements that were asked for.
        elements: usize,
    },
}

/// Dequantises a contiguous tensor of a packed dtype into `out`, which has room for exactly its elements.
///
/// # Errors
/// [`QuantError`]; `out` is left as it was then.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if !dtype.is_packed() {
        return Err(QuantError::NotPacked(dtype));
    }
    if dtype.bytes(out.len() as u64) != Some(bytes.len() as u64) {
        let (bytes, elements) = (bytes.len(), out.len());
        return Err(QuantError::Length {
            dtype,
            bytes,
            elements,
        });
    }
    match dtype {
        DType::Q4_0 => blocks(bytes, out, simple::q4_0),
        DType::Q4_1 => blocks(bytes, out, simple::q4_1),
        DType::Q5_0 => blocks(bytes, out, simple::q5_0),
        DType::Q5_1 => blocks(bytes, out, simple::q5_1),
        DType::Q8_0 => blocks(bytes, out, simple::q8_0),
        DType::Q8_1 => blocks(bytes, out, simple::q8_1),
        DType::Q2_K => blocks(bytes, out, superblock::q2_k),
        DType::Q3_K => blocks(bytes, out, superblock::q3_k),
        DType::Q4_K => blocks(bytes, out, superblock::q4_k),
        DType::Q5_K => blocks(bytes, out, superblock::q5_k),
        DType::Q6_K => blocks(bytes, out, superblock::q6_k),
        DType::Q8_K => blocks(bytes, out, superblock::q8_k),
        DType::TQ1_0 => blocks(bytes, out, ternary::tq1_0),
        DType::TQ2_0 => blocks(bytes, out, ternary::tq2_0),
        _ => ternary::i2_s(bytes, out),
    }
    Ok(())
}

/// The f32 elements of a contiguous tensor of a packed dtype; `None` where it is none, or the bytes are not whole
/// blocks.
pub fn dequantized(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let elements = dtype.elements(bytes.len() as u64)?;
    if !dtype.is_packed() {
        return None;
    }
    let mut out = vec![0.0; usize::try_from(elements).ok()?];
    dequantize(dtype, bytes, &mut out).ok()?;
    Some(out)
}

/// The codes of whole blocks of a ternary dtype (`TQ1_0`, `TQ2_0`, `I2_S`), in the order of the elements: 0, 1 and 2 are
/// -1, 0 and 1 times the block's scale, or the tensor's, which `bytes` do not include. 3 occurs in damaged data alone.
///
/// # Errors
/// [`QuantError::NotTernary`] or [`QuantError::Length`]; `out` is left as it was then.
pub fn codes(dtype: DType, bytes: &[u8], out: &mut [u8]) -> Result<(), QuantError> {
    let whole = out.len().is_multiple_of(dtype.block());
    if !whole
        || bytes.len() / dtype.size() != out.len() / dtype.block()
        || !bytes.len().is_multiple_of(dtype.size())
    {
        let (bytes, elements) = (bytes.len(), out.len());
        return Err(QuantError::Length {
            dtype,
            bytes,
            elements,
        });
    }
    match dtype {
        DType::TQ1_0 => blocks(bytes, out, ternary::tq1_0_codes),
        DType::TQ2_0 => blocks(bytes, out, ternary::tq2_0_codes),
        DType::I2_S => blocks(bytes, out, ternary::i2_s_codes),
        _ => return Err(QuantError::NotTernary(dtype)),
    }
    Ok(())
}

/// Calls `f` with each block and the room for its elements.
fn blocks<T, const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [T],
    f: impl Fn(&[u8; BYTES], &mut [T; ELEMENTS]),
) {
    let rooms = out.as_chunks_mut::<ELEMENTS>().0;
    for (block, room) in bytes.as_chunks::<BYTES>().0.iter().zip(rooms) {
        f(block, room);
    }
}

/// The binary16 number at byte `at` of a block.
fn half(block: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    let (sign, exponent, fraction) = (bits >> 15 << 31, bits >> 10 & 31, bits & 0x3ff);
    match exponent {
        // subnormal: in units of 2^-24
        0 => f32::from_bits(sign | (fraction as f32 * f32::from_bits(103 << 23)).to_bits()),
        31 => f32::from_bits(sign | 0xff << 23 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// Four-bit code `i` of a group of `2 * n` that are kept in `n` bytes: the lower halves first.
fn nibble(bytes: &[u8], n: usize, i: usize) -> u8 {
    bytes[i % n] >> (4 * (i / n)) & 15
}

/// Two-bit code `i` of 256: 128 in 32 bytes, of which the lowest bits are the first 32.
fn crumb(bytes: &[u8], i: usize) -> u8 {
    bytes[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3
}

#[cfg(test)]
#[path = "quant/tests.rs"]
mod tests;
