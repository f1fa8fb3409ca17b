//! Blocks whose elements are -1, 0 or 1 times a scale: codes 0, 1 and 2.

use super::{crumb, half};

/// 48 bytes of five ternary digits, 4 bytes of four. The digits of a byte are the leading ones of its value as a
/// fraction of 256 in base 3.
pub(super) fn tq1_0_codes(block: &[u8; 54], out: &mut [u8; 256]) {
    for (i, code) in out.iter_mut().enumerate() {
        // digit `n` of byte `at`; bytes stand in groups of 32, 16 and 4, digit by digit
        let (n, at) = match i {
            0..160 => (i / 32, i % 32),
            160..240 => ((i - 160) / 16, 32 + i % 16),
            _ => ((i - 240) / 4, 48 + i % 4),
        };
        let rest = block[at].wrapping_mul([1, 3, 9, 27, 81][n]);
        *code = ((u16::from(rest) * 3) >> 8) as u8;
    }
}

/// 64 bytes of codes.
pub(super) fn tq2_0_codes(block: &[u8; 66], out: &mut [u8; 256]) {
    for (i, code) in out.iter_mut().enumerate() {
        *code = crumb(&block[..64], i);
    }
}

/// 32 bytes of codes: the highest bits are the first 32 elements.
pub(super) fn i2_s_codes(block: &[u8; 32], out: &mut [u8; 128]) {
    for (group, codes) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(block) {
            *code = byte >> (6 - 2 * group) & 3;
        }
    }
}

/// `d (code - 1)`, with d behind the codes.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let mut codes = [0; 256];
    tq1_0_codes(block, &mut codes);
    scaled(&codes, half(block, 52), out);
}

/// As [`tq1_0`].
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let mut codes = [0; 256];
    tq2_0_codes(block, &mut codes);
    scaled(&codes, half(block, 64), out);
}

fn scaled(codes: &[u8; 256], d: f32, out: &mut [f32; 256]) {
    for (x, &code) in out.iter_mut().zip(codes) {
        *x = (f32::from(code) - 1.0) * d;
    }
}

/// A tensor's blocks, then its scale in f32. Code 3 is 0 here.
pub(super) fn i2_s(bytes: &[u8], out: &mut [f32]) {
    let Some((blocks, &scale)) = bytes.split_last_chunk::<4>() else {
        return; // without elements
    };
    let scale = f32::from_le_bytes(scale);
    let worth = [-1.0f32, 0.0, 1.0, 0.0].map(|x| scale * x);
    super::blocks(blocks, out, |block: &[u8; 32], out: &mut [f32; 128]| {
        let mut codes = [0; 128];
        i2_s_codes(block, &mut codes);
        for (x, &code) in out.iter_mut().zip(&codes) {
            *x = worth[usize::from(code)];
        }
    });
}
