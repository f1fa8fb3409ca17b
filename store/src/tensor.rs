use bitnet_trace_schema::{DType, quant};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// The elements of one record, borrowed from the mapped part wherever that is possible.
///
/// Row-major (C order), in the shape of the record's `shape` column. It keeps the map alive, outlives the
/// [`Run`](crate::Run) it came from, and is cheap to clone.
#[derive(Debug, Clone)]
pub struct TensorRef {
    dtype: DType,
    /// `None` where no f32 values are kept.
    values: Option<Values>,
    /// The original bytes, where they are kept.
    raw: Option<Bytes>,
}

#[derive(Debug, Clone)]
enum Values {
    /// Little-endian f32 in the map, aligned to 4 bytes.
    Mapped(Bytes),
    /// The same where the map is not aligned (or the machine is not little-endian).
    Copied(Arc<[f32]>),
}

/// Little-endian f32 where they lie, if they are aligned and this machine has them so.
#[inline]
pub(crate) fn floats(bytes: &[u8]) -> Option<&[f32]> {
    bytemuck::try_cast_slice(bytes)
        .ok()
        .filter(|_| cfg!(target_endian = "little"))
}

impl Values {
    /// From f32 bytes in the map, whose number is a multiple of 4.
    fn new(bytes: Bytes) -> Self {
        if floats(&bytes).is_some() {
            return Self::Mapped(bytes);
        }
        let (chunks, _) = bytes.as_chunks::<4>();
        Self::Copied(chunks.iter().map(|&c| f32::from_le_bytes(c)).collect())
    }
}

impl TensorRef {
    /// From the f32 bytes in the map and the original bytes, as far as they are kept.
    pub(crate) fn new(dtype: DType, values: Option<Bytes>, raw: Option<Bytes>) -> Self {
        let values = values.map(Values::new);
        Self { dtype, values, raw }
    }

    /// Element type before the elements were widened to f32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements that are kept as f32: of the dtypes that f32 holds exactly, and of packed dtypes where the
    /// recorder was asked to dequantise them. `None` otherwise and in runs that keep statistics only.
    pub fn values(&self) -> Option<&[f32]> {
        match self.values.as_ref()? {
            Values::Mapped(bytes) => bytemuck::try_cast_slice(bytes).ok(),
            Values::Copied(values) => Some(values),
        }
    }

    /// The original bytes (little-endian, contiguous), for packed dtypes and those that f32 does not hold
    /// exactly; `None` for the others and in runs that keep statistics only.
    pub fn raw(&self) -> Option<&[u8]> {
        self.raw.as_deref()
    }

    /// [`TensorRef::values`], or the dequantised elements of a packed dtype.
    pub fn to_f32(&self) -> Option<Cow<'_, [f32]>> {
        let packed = || quant::dequantized(self.dtype, self.raw()?).map(Cow::Owned);
        self.values().map(Cow::Borrowed).or_else(packed)
    }

    /// The elements as f64, from `values` or `raw`; `None` in runs that keep statistics only.
    /// 64-bit integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        if let Some(values) = self.to_f32() {
            return Some(values.iter().map(|&x| f64::from(x)).collect());
        }
        let raw = self.raw()?;
        match self.dtype {
            DType::F64 => Some(raw.as_chunks().0.iter().map(|&c| f64::from_le_bytes(c)).collect()),
            DType::I64 => Some(
                raw.as_chunks()
                    .0
                    .iter()
                    .map(|&c| i64::from_le_bytes(c) as f64)
                    .collect(),
            ),
            DType::I32 => Some(
                raw.as_chunks()
                    .0
                    .iter()
                    .map(|&c| i32::from_le_bytes(c).into())
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Whether [`TensorRef::values`] lie in the mapped file and were not copied.
    pub fn is_zero_copy(&self) -> bool {
        matches!(self.values, Some(Values::Mapped(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_values_are_copied_and_aligned_ones_are_not() {
        let floats = [0.0f32, 1.0, -2.5, f32::MAX];
        let buffer = Bytes::from_iter(
            [0u8; 8]
                .into_iter()
                .chain(floats.iter().flat_map(|x| x.to_le_bytes())),
        );
        let aligned = buffer.as_ptr().align_offset(4);
        for shift in 0..4 {
            // The floats, moved so that they begin `shift` bytes after an aligned address.
            let mut moved = vec![0; aligned + shift];
            moved.extend_from_slice(&buffer[8..]);
            let moved = Bytes::from(moved);
            let start = aligned + shift;
            let tensor = TensorRef::new(DType::F32, Some(moved.slice(start..)), None);
            assert_eq!(tensor.values(), Some(&floats[..]));
            assert_eq!(
                tensor.is_zero_copy(),
                moved[start..].as_ptr().align_offset(4) == 0
            );
        }
    }

    #[test]
    fn raw_elements_widen_to_f64_and_statistics_have_none() {
        let raw =
            |dtype, bytes: &[u8]| TensorRef::new(dtype, None, Some(Bytes::copy_from_slice(bytes))).to_f64();
        assert_eq!(raw(DType::F64, &(-0.1f64).to_le_bytes()), Some(vec![-0.1]));
        assert_eq!(raw(DType::I64, &(-7i64).to_le_bytes()), Some(vec![-7.0]));
        assert_eq!(
            raw(DType::I32, &i32::MIN.to_le_bytes()),
            Some(vec![-2147483648.0])
        );
        let none = TensorRef::new(DType::F16, None, None);
        assert!(none.values().is_none() && none.raw().is_none() && none.to_f64().is_none());
    }
}
