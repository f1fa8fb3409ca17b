//! Values of the metadata and types of the tensors.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// 8-bit unsigned.
    U8(u8),
    /// 8-bit signed.
    I8(i8),
    /// 16-bit unsigned.
    U16(u16),
    /// 16-bit signed.
    I16(i16),
    /// 32-bit unsigned.
    U32(u32),
    /// 32-bit signed.
    I32(i32),
    /// 32-bit float.
    F32(f32),
    /// Boolean.
    Bool(bool),
    /// Text; bytes that are not UTF-8 are replaced by U+FFFD.
    String(String),
    /// An array.
    Array(Array),
    /// 64-bit unsigned.
    U64(u64),
    /// 64-bit signed.
    I64(i64),
    /// 64-bit float.
    F64(f64),
}

/// An array of one element type; a vocabulary of 49,152 tokens is one of them,
/// so the elements are kept unboxed.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// 8-bit unsigned.
    U8(Vec<u8>),
    /// 8-bit signed.
    I8(Vec<i8>),
    /// 16-bit unsigned.
    U16(Vec<u16>),
    /// 16-bit signed.
    I16(Vec<i16>),
    /// 32-bit unsigned.
    U32(Vec<u32>),
    /// 32-bit signed.
    I32(Vec<i32>),
    /// 32-bit float.
    F32(Vec<f32>),
    /// Boolean.
    Bool(Vec<bool>),
    /// Text.
    String(Vec<String>),
    /// 64-bit unsigned.
    U64(Vec<u64>),
    /// 64-bit signed.
    I64(Vec<i64>),
    /// 64-bit float.
    F64(Vec<f64>),
}

impl Value {
    /// The number of the type in the file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// What the value is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "boolean",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Any integer that is not negative.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }
}

/// The element type of a tensor, by ggml's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GgmlType {
    id: u32,
    name: &'static str,
    block: u64,
    bytes: u64,
    /// Bytes behind a tensor's last block.
    tail: u64,
}

/// bitnet.cpp's ternary type, which upstream ggml does not have: blocks of 128 elements (row by row: bitnet.cpp counts
/// elements alone, and its kernels need whole blocks), then 32 bytes that begin with the tensor's scale in f32.
const I2_S: GgmlType = GgmlType {
    id: 36,
    name: "I2_S",
    block: 128,
    bytes: 32,
    tail: 32,
};

/// (number, name, elements in a block, bytes in a block)
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
];

impl GgmlType {
    /// 32-bit float.
    pub const F32: Self = Self {
        id: 0,
        name: "F32",
        block: 1,
        bytes: 4,
        tail: 0,
    };

    /// The type with ggml's number `id`, when its size is known.
    pub fn from_id(id: u32) -> Option<Self> {
        if id == I2_S.id {
            return Some(I2_S);
        }
        let &(id, name, block, bytes) = TYPES.iter().find(|entry| entry.0 == id)?;
        Some(Self {
            id,
            name,
            block,
            bytes,
            tail: 0,
        })
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        self.id
    }

    /// ggml's name, such as `Q4_1`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Elements in a block (1 for the plain types).
    pub fn block_size(self) -> u64 {
        self.block
    }

    /// Bytes of a tensor of `elements` elements, which must be whole blocks; `None` on overflow.
    pub fn byte_size(self, elements: u64) -> Option<u64> {
        (elements / self.block)
            .checked_mul(self.bytes)?
            .checked_add(self.tail)
    }
}
