//! Blocks whose elements are -1, 0 or 1 times a scale.

use super::{crumb, half};

/// `d t`: 48 bytes of five ternary digits, 4 bytes of four, d. The digits of a byte are the leading ones of its
/// value as a fraction of 256 in base 3.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half(block, 52);
    for (i, x) in out.iter_mut().enumerate() {
        // digit `n` of byte `at`; bytes stand in groups of 32, 16 and 4, digit by digit
        let (n, at) = match i {
            0..160 => (i / 32, i % 32),
            160..240 => ((i - 160) / 16, 32 + i % 16),
            _ => ((i - 240) / 4, 48 + i % 4),
        };
        let rest = block[at].wrapping_mul([1, 3, 9, 27, 81][n]);
        let digit = ((u16::from(rest) * 3) >> 8) as u8;
        *x = (f32::from(digit) - 1.0) * d;
    }
}

/// `d (q - 1)`: 64 bytes of codes, d.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (i, x) in out.iter_mut().enumerate() {
        *x = (f32::from(crumb(&block[..64], i)) - 1.0) * d;
    }
}

/// A tensor's blocks of 32 bytes, then its scale in f32: codes 0, 1, 2 are -1, 0, 1 (and 3 is 0); the highest bits
/// are the first 32 elements of a block.
pub(super) fn i2_s(bytes: &[u8], out: &mut [f32]) {
    let Some((codes, &scale)) = bytes.split_last_chunk::<4>() else {
        return; // without elements
    };
    let scale = f32::from_le_bytes(scale);
    let worth = [-1.0f32, 0.0, 1.0, 0.0].map(|x| scale * x);
    super::blocks(codes, out, |block: &[u8; 32], out: &mut [f32; 128]| {
        for (i, x) in out.iter_mut().enumerate() {
            *x = worth[usize::from(block[i % 32] >> (6 - 2 * (i / 32)) & 3)];
        }
    });
}
