//! Whether a record's elements are still those that were hashed when it was recorded.

use crate::TensorRef;
use bitnet_trace_schema::DType;
use half::{bf16, f16};

impl TensorRef {
    /// Whether the original bytes have this BLAKE3 (hex).
    ///
    /// Elements that were widened to f32 are narrowed again; one that is no value of the dtype is damage. None where
    /// that is not known: without elements or without a hash, and where another hash may come of NaN alone, which
    /// lost its kind when it was widened from F16 or BF16.
    pub fn has_hash(&self, blake3: &str) -> Option<bool> {
        if blake3.len() != 64 {
            return None;
        }
        let is = |bytes: &[u8]| blake3::hash(bytes).to_hex().as_str() == blake3;
        if let Some(raw) = self.raw() {
            return Some(is(raw));
        }
        let values = self.values()?;
        let Some(bytes) = original(values, self.dtype()) else {
            return Some(false);
        };
        let half = matches!(self.dtype(), DType::F16 | DType::BF16);
        match is(&bytes) {
            false if half && values.iter().any(|x| x.is_nan()) => None,
            same => Some(same),
        }
    }
}

/// The bytes that `values` were widened from; none where one of them is no value of the dtype.
fn original(values: &[f32], dtype: DType) -> Option<Vec<u8>> {
    fn each<const N: usize>(values: &[f32], narrow: impl Fn(f32) -> ([u8; N], f32)) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(values.len() * N);
        for &x in values {
            let (narrowed, back) = narrow(x);
            if back.to_bits() != x.to_bits() && !x.is_nan() {
                return None;
            }
            bytes.extend(narrowed);
        }
        Some(bytes)
    }
    match dtype {
        DType::F16 => each(values, |x| {
            let h = f16::from_f32(x);
            (h.to_le_bytes(), h.to_f32())
        }),
        DType::BF16 => each(values, |x| {
            let h = bf16::from_f32(x);
            (h.to_le_bytes(), h.to_f32())
        }),
        DType::I8 => each(values, |x| ((x as i8).to_le_bytes(), f32::from(x as i8))),
        DType::I16 => each(values, |x| ((x as i16).to_le_bytes(), f32::from(x as i16))),
        DType::U8 | DType::Bool => each(values, |x| ([x as u8], f32::from(x as u8))),
        _ => each(values, |x| (x.to_le_bytes(), x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A tensor as the recorder writes it, and the hash of its original bytes.
    fn widened(dtype: DType, original: &[u8], values: &[f32]) -> (TensorRef, String) {
        let values = Bytes::from_iter(values.iter().flat_map(|x| x.to_le_bytes()));
        let hash = blake3::hash(original).to_hex().to_string();
        (TensorRef::new(dtype, Some(values), None), hash)
    }

    #[test]
    fn the_hash_of_every_dtype_is_found_again_and_one_other_bit_is_not() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes();
        let brain = |x: f32| bf16::from_f32(x).to_le_bytes();
        let cases: [(DType, Vec<u8>, [f32; 2]); 7] = [
            (
                DType::F32,
                [1.5f32, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect(),
                [1.5, -0.0],
            ),
            (DType::F16, [half(1.5), half(-0.0)].concat(), [1.5, -0.0]),
            (
                DType::BF16,
                [brain(1e30), brain(-2.0)].concat(),
                [bf16::from_f32(1e30).to_f32(), -2.0],
            ),
            (DType::I8, vec![0x80, 7], [-128.0, 7.0]),
            (DType::I16, vec![0xff, 0x7f, 1, 0], [32767.0, 1.0]),
            (DType::U8, vec![255, 0], [255.0, 0.0]),
            (DType::Bool, vec![1, 0], [1.0, 0.0]),
        ];
        for (dtype, original, values) in cases {
            let (tensor, hash) = widened(dtype, &original, &values);
            assert_eq!(tensor.has_hash(&hash), Some(true), "{dtype}");
            assert_eq!(tensor.has_hash(""), None);
            // The last bit of an element: of the narrow dtypes one that narrowing would round away.
            for bit in [0, 13, 22] {
                let flipped = [f32::from_bits(values[0].to_bits() ^ (1 << bit)), values[1]];
                let (tensor, _) = widened(dtype, &original, &flipped);
                assert_eq!(tensor.has_hash(&hash), Some(false), "{dtype}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_nan_that_became_quiet_decides_nothing() {
        let signaling = f16::from_bits(0x7d00);
        let (tensor, hash) = widened(DType::F16, &signaling.to_le_bytes(), &[f32::NAN]);
        assert_eq!(tensor.has_hash(&hash), None);
    }
}
