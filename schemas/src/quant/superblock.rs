//! Blocks of 256 elements, in groups of 16 or 32 whose own small scales multiply the block's.

use super::{crumb, half, nibble};

/// `(d s) q - dmin m`: 16 bytes of scales (low half) and minima (high half), 64 bytes of codes, d, dmin.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 80), half(block, 82));
    for (group, xs) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scales = block[group];
        let (d, min) = (d * f32::from(scales & 15), min * f32::from(scales >> 4));
        for (i, x) in xs.iter_mut().enumerate() {
            *x = d * f32::from(crumb(&block[16..80], 16 * group + i)) - min;
        }
    }
}

/// `(d (s - 32)) q`, q from -4 to 3: 32 bytes of third bits (set: q is not below 0), 64 bytes of codes, 12 bytes of
/// scales, d.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 108);
    let scales = &block[96..108];
    for (group, xs) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // six bits: four in one of the first 8 bytes, two in one of the last 4
        let scale = nibble(scales, 8, group) | (scales[8 + group % 4] >> (2 * (group / 4)) & 3) << 4;
        let d = d * (f32::from(scale) - 32.0);
        for (i, x) in xs.iter_mut().enumerate() {
            let at = 16 * group + i;
            let third = block[at % 32] >> (at / 32) & 1;
            *x = d * (f32::from(crumb(&block[32..96], at)) - f32::from(4 * (1 - third)));
        }
    }
}

/// Scale and minimum of group `g` of 8, six bits each, in 12 bytes: the first four groups have bytes of their
/// own, whose upper bits complete those of the others.
fn scale_min(bytes: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = match g {
        0..4 => (bytes[g] & 63, bytes[g + 4] & 63),
        _ => (
            bytes[g + 4] & 15 | (bytes[g - 4] >> 6) << 4,
            bytes[g + 4] >> 4 | (bytes[g] >> 6) << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

/// `(d s) q - dmin m`: d, dmin, 12 bytes of scales and minima, 128 bytes of codes.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    for (group, xs) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_min(&block[4..16], group);
        let (d, min) = (d * scale, min * minimum);
        let codes = &block[16 + 32 * (group / 2)..];
        for (i, x) in xs.iter_mut().enumerate() {
            *x = d * f32::from(nibble(codes, 32, 32 * (group % 2) + i)) - min;
        }
    }
}

/// `(d s) q - dmin m`: d, dmin, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes of codes.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = (half(block, 0), half(block, 2));
    for (group, xs) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_min(&block[4..16], group);
        let (d, min) = (d * scale, min * minimum);
        let codes = &block[48 + 32 * (group / 2)..];
        for (i, x) in xs.iter_mut().enumerate() {
            let fifth = (block[16 + i] >> group & 1) << 4;
            let q = nibble(codes, 32, 32 * (group % 2) + i) | fifth;
            *x = d * f32::from(q) - min;
        }
    }
}

/// `(d s) (q - 32)`: 128 bytes of lower halves, 64 of upper two bits, 16 signed scales, d.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(block, 208);
    for (group, xs) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = d * f32::from(block[192 + group] as i8);
        for (i, x) in xs.iter_mut().enumerate() {
            let at = 16 * group + i;
            let low = nibble(&block[64 * (at / 128)..], 64, at % 128);
            let q = low | crumb(&block[128..192], at) << 4;
            *x = d * (f32::from(q) - 32.0);
        }
    }
}

/// `d q`: d in f32, 256 signed bytes, their sums by 16 (which products use).
pub(super) fn q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (x, &q) in out.iter_mut().zip(&block[4..260]) {
        *x = d * f32::from(q as i8);
    }
}
