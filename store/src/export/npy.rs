//! NumPy's file format, version 1.0: a magic number, a header that is a Python dictionary, the array's bytes
//! (numpy.lib.format in NumPy's documentation).

use crate::TensorRef;
use bitnet_trace_schema::DType;
use half::f16;
use std::borrow::Cow;

/// The array begins at a multiple of this.
const ALIGNMENT: usize = 64;

/// An array as its file holds it.
pub(super) struct Array {
    tensor: TensorRef,
    kind: Kind,
    /// The elements, where they are not those that the tensor has.
    narrowed: Option<Vec<u8>>,
}

/// NumPy's name of a dtype, and how a header says it.
struct Kind {
    name: &'static str,
    descr: &'static str,
}

impl Kind {
    fn of(dtype: DType) -> Self {
        let (name, descr) = match dtype {
            DType::F16 => ("float16", "<f2"),
            DType::F64 => ("float64", "<f8"),
            DType::I8 => ("int8", "|i1"),
            DType::I16 => ("int16", "<i2"),
            DType::I32 => ("int32", "<i4"),
            DType::I64 => ("int64", "<i8"),
            DType::U8 => ("uint8", "|u1"),
            DType::Bool => ("bool", "|b1"),
            // NumPy has no bfloat16.
            _ => ("float32", "<f4"),
        };
        Self { name, descr }
    }
}

impl Array {
    /// The elements of a record; `None` where they were not recorded.
    pub(super) fn of(tensor: TensorRef) -> Option<Self> {
        let dtype = tensor.dtype();
        let narrowed = match (tensor.values(), tensor.raw()) {
            (Some(values), _) => narrowed(values, dtype),
            (None, Some(_)) => None,
            (None, None) => return None,
        };
        Some(Self {
            kind: Kind::of(dtype),
            tensor,
            narrowed,
        })
    }

    /// NumPy's name of the elements' type.
    pub(super) fn numpy(&self) -> &'static str {
        self.kind.name
    }

    /// What the file begins with.
    pub(super) fn header(&self, shape: &[i64]) -> Vec<u8> {
        let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
        // A tuple of one element is written with its comma, one of none without.
        let dims = if shape.len() == 1 {
            dims.trim_end()
        } else {
            dims.trim_end_matches(", ")
        };
        let descr = self.kind.descr;
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
        // Version 2.0 differs in the width of the length: a header of more than 64 KiB.
        let wide = text.len() + ALIGNMENT > usize::from(u16::MAX);
        let before = if wide { 12 } else { 10 };
        let length = (before + text.len() + 1).next_multiple_of(ALIGNMENT) - before;
        text.push_str(&" ".repeat(length - text.len() - 1));
        text.push('\n');
        let mut header = b"\x93NUMPY".to_vec();
        header.extend([if wide { 2 } else { 1 }, 0]);
        let length = (text.len() as u32).to_le_bytes();
        header.extend(&length[..if wide { 4 } else { 2 }]);
        header.extend(text.as_bytes());
        header
    }

    /// The elements, row-major and little-endian.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        match (&self.narrowed, self.tensor.raw(), self.tensor.values()) {
            (Some(bytes), ..) => bytes.into(),
            (None, Some(raw), _) => raw.into(),
            (None, None, Some(values)) if cfg!(target_endian = "little") => {
                bytemuck::cast_slice(values).into()
            }
            (None, None, Some(values)) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            (None, None, None) => (&[]).into(),
        }
    }
}

/// Elements in the dtype that they were widened from; `None` where that is F32, or nothing that NumPy has.
fn narrowed(values: &[f32], dtype: DType) -> Option<Vec<u8>> {
    // Widening kept every value, so that all of these are exact.
    Some(match dtype {
        DType::F16 => values
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
        DType::I8 => values.iter().flat_map(|&x| (x as i8).to_le_bytes()).collect(),
        DType::I16 => values.iter().flat_map(|&x| (x as i16).to_le_bytes()).collect(),
        DType::U8 => values.iter().map(|&x| x as u8).collect(),
        DType::Bool => values.iter().map(|&x| u8::from(x != 0.0)).collect(),
        _ => return None,
    })
}
