//! Blocks of 32 elements with one scale `d`, and perhaps a minimum `m`, in binary16 at their beginning.

use super::{half, nibble};

/// `d (q - 8)`: d, 16 bytes of codes.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, x) in out.iter_mut().enumerate() {
        *x = (f32::from(nibble(&block[2..], 16, i)) - 8.0) * d;
    }
}

/// `d q + m`: d, m, 16 bytes of codes.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        *x = f32::from(nibble(&block[4..], 16, i)) * d + m;
    }
}

/// A code's fifth bit: bit `i` of four bytes.
fn fifth(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 8] >> (i % 8) & 1) << 4
}

/// `d (q - 16)`: d, 4 bytes of fifth bits, 16 bytes of codes.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, x) in out.iter_mut().enumerate() {
        let q = nibble(&block[6..], 16, i) | fifth(&block[2..6], i);
        *x = (f32::from(q) - 16.0) * d;
    }
}

/// `d q + m`: d, m, 4 bytes of fifth bits, 16 bytes of codes.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let q = nibble(&block[8..], 16, i) | fifth(&block[4..8], i);
        *x = f32::from(q) * d + m;
    }
}

/// `d q`: d, 32 signed bytes.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(q as i8) * d;
    }
}

/// `d q`: d, d times the sum of the codes (which products use), 32 signed bytes.
pub(super) fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[4..]) {
        *x = f32::from(q as i8) * d;
    }
}
