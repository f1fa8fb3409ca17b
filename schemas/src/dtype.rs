use std::{fmt, str::FromStr};

/// Element type of a recorded tensor.
///
/// The name ([`DType::name`]) is what stands in the `dtype` column, in JSON and in tolerance files.
///
/// The packed dtypes are ggml's: blocks of elements that share their scales, laid out as in its
/// `ggml-common.h`; [`quant`](crate::quant) says what their elements are. A tensor's shape counts elements, and its
/// rows (the innermost dimension) are whole blocks.
#[allow(non_camel_case_types)] // the field's own names
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary64.
    F64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// Blocks of 32: 4 bits and a scale.
    Q4_0,
    /// Blocks of 32: 4 bits, a scale and a minimum.
    Q4_1,
    /// Blocks of 32: 5 bits and a scale.
    Q5_0,
    /// Blocks of 32: 5 bits, a scale and a minimum.
    Q5_1,
    /// Blocks of 32: 8 bits and a scale.
    Q8_0,
    /// Blocks of 32: 8 bits, a scale and the scaled sum.
    Q8_1,
    /// Blocks of 256: 2 bits; scales and minima of each 16.
    Q2_K,
    /// Blocks of 256: 3 bits; scales of each 16.
    Q3_K,
    /// Blocks of 256: 4 bits; scales and minima of each 32.
    Q4_K,
    /// Blocks of 256: 5 bits; scales and minima of each 32.
    Q5_K,
    /// Blocks of 256: 6 bits; scales of each 16.
    Q6_K,
    /// Blocks of 256: 8 bits, an f32 scale and sums of each 16.
    Q8_K,
    /// Blocks of 256: ternary, five to a byte, and a scale.
    TQ1_0,
    /// Blocks of 256: ternary, four to a byte, and a scale.
    TQ2_0,
    /// bitnet.cpp's ternary: blocks of 128, four elements to a byte, and one f32 scale behind the last block of
    /// the tensor.
    I2_S,
}

impl DType {
    /// Every dtype, in the order of its C ABI number.
    pub const ALL: [DType; 25] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::Bool,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q8_1,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::Q8_K,
        DType::TQ1_0,
        DType::TQ2_0,
        DType::I2_S,
    ];

    /// The name in the `dtype` column.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::F64 => "F64",
            DType::I8 => "I8",
            DType::I16 => "I16",
            DType::I32 => "I32",
            DType::I64 => "I64",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q8_1 => "Q8_1",
            DType::Q2_K => "Q2_K",
            DType::Q3_K => "Q3_K",
            DType::Q4_K => "Q4_K",
            DType::Q5_K => "Q5_K",
            DType::Q6_K => "Q6_K",
            DType::Q8_K => "Q8_K",
            DType::TQ1_0 => "TQ1_0",
            DType::TQ2_0 => "TQ2_0",
            DType::I2_S => "I2_S",
        }
    }

    /// Bytes of one element; of a packed dtype, of one block.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q8_1 => 36,
            DType::Q2_K => 84,
            DType::Q3_K => 110,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
            DType::Q8_K => 292,
            DType::TQ1_0 => 54,
            DType::TQ2_0 => 66,
            DType::I2_S => 32,
        }
    }

    /// Elements of one block; 1 for dtypes that are not packed.
    pub const fn block(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::Q8_1 => 32,
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::Q8_K => 256,
            DType::TQ1_0 | DType::TQ2_0 => 256,
            DType::I2_S => 128,
            _ => 1,
        }
    }

    /// Whether elements are packed into blocks, so that a record keeps its original bytes in `raw`.
    pub const fn is_packed(self) -> bool {
        self.block() > 1
    }

    /// Bytes that a tensor has once, behind its elements: the scale of `I2_S`.
    pub const fn tail(self) -> usize {
        match self {
            DType::I2_S => 4,
            _ => 0,
        }
    }

    /// Bytes of a contiguous tensor of so many elements; `None` where they are not whole blocks or the bytes
    /// are not countable. A tensor without elements has no bytes.
    pub const fn bytes(self, elements: u64) -> Option<u64> {
        let block = self.block() as u64;
        if elements == 0 {
            return Some(0);
        }
        if !elements.is_multiple_of(block) {
            return None;
        }
        match (elements / block).checked_mul(self.size() as u64) {
            Some(bytes) => bytes.checked_add(self.tail() as u64),
            None => None,
        }
    }

    /// Elements of a contiguous tensor of so many bytes; `None` where no number of elements has that many.
    pub const fn elements(self, bytes: u64) -> Option<u64> {
        if bytes == 0 {
            return Some(0);
        }
        let Some(blocks) = bytes.checked_sub(self.tail() as u64) else {
            return None;
        };
        match blocks.is_multiple_of(self.size() as u64) && blocks > 0 {
            true => (blocks / self.size() as u64).checked_mul(self.block() as u64),
            false => None,
        }
    }

    /// Whether binary32 holds every value of this dtype exactly, so that a record keeps its
    /// elements in `values` and not in `raw`. Not of packed dtypes: their original bytes are kept.
    pub const fn fits_f32(self) -> bool {
        !matches!(self, DType::F64 | DType::I32 | DType::I64) && !self.is_packed()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dtype name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype {0:?}; known are {names}", names = DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(s: &str) -> Result<Self, UnknownDType> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == s)
            .ok_or_else(|| UnknownDType(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_elements_are_inverse_and_blocks_are_never_split() {
        for dtype in DType::ALL {
            let block = dtype.block() as u64;
            for elements in [0, block, 7 * block] {
                let bytes = dtype.bytes(elements).expect("whole blocks");
                assert_eq!(dtype.elements(bytes), Some(elements), "{dtype}");
            }
            if dtype.is_packed() {
                assert_eq!(dtype.bytes(block + 1), None, "{dtype}");
                assert_eq!(
                    dtype.elements(dtype.size() as u64 + 1 + dtype.tail() as u64),
                    None
                );
            }
            assert_eq!(
                dtype.bytes(u64::MAX - u64::MAX % block).is_some(),
                dtype.size() <= dtype.block()
            );
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        assert_eq!(DType::I2_S.bytes(256), Some(68), "one scale a tensor");
        assert_eq!(DType::I2_S.elements(3), None);
    }

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        let told = "q8_0".parse::<DType>().expect_err("names are exact").to_string();
        assert!(
            told.contains("\"q8_0\"") && told.contains("BOOL, Q4_0") && told.contains("I2_S"),
            "{told}"
        );
    }
}
