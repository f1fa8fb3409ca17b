//! The ways a GGUF file can be malformed.

/// Why a file is not a usable GGUF. One variant for each kind of damage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The path is a directory, a pipe or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file has no bytes at all.
    #[error("the file is empty")]
    Empty,
    /// The first four bytes are not `GGUF`.
    #[error("it is not a GGUF file: it starts with {found:?} and not with \"GGUF\"")]
    Magic {
        /// The first bytes, as text where they are text.
        found: String,
    },
    /// A version this reader does not know, or a big-endian file.
    #[error("GGUF version {version} is not supported (2 and 3, little-endian, are)")]
    Version {
        /// The version field.
        version: u32,
    },
    /// The file ends before something it announces.
    #[error(
        "the file is cut short: {what} at byte {offset} needs {needed} bytes and {available} are left; \
         copy or download it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Byte offset from the start of the file.
        offset: u64,
        /// Bytes that it needs at least.
        needed: u64,
        /// Bytes that the file still has.
        available: u64,
    },
    /// A key or a tensor name is not UTF-8.
    #[error("the {what} at byte {offset} is not UTF-8")]
    NotUtf8 {
        /// "metadata key" or "tensor name".
        what: &'static str,
        /// Byte offset from the start of the file.
        offset: u64,
    },
    /// A metadata key comes twice.
    #[error("metadata key {key:?} comes twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value of a type that GGUF does not define.
    #[error("metadata key {key:?} has the unknown value type {value_type}")]
    ValueType {
        /// The key.
        key: String,
        /// The type field.
        value_type: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key {key:?} holds a boolean of value {value}")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        value: u8,
    },
    /// An array of arrays, which no model uses.
    #[error("metadata key {key:?} is an array of arrays, which is not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// `general.alignment` is not a usable power of two.
    #[error("general.alignment is {found}; it must be a 32-bit power of two, 65536 at most")]
    Alignment {
        /// The value as text.
        found: String,
    },
    /// A tensor name comes twice.
    #[error("tensor {name:?} comes twice")]
    DuplicateTensor {
        /// The tensor's name.
        name: String,
    },
    /// A tensor with no or with more than four dimensions.
    #[error("tensor {name:?} has {n_dims} dimensions; 1 to 4 are possible")]
    Dimensions {
        /// The tensor's name.
        name: String,
        /// The field.
        n_dims: u32,
    },
    /// A tensor with an empty dimension, or more bytes than can be addressed.
    #[error("tensor {name:?} has the impossible shape {dims:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Dimensions in the file's order.
        dims: Vec<u64>,
    },
    /// A tensor type of unknown size.
    #[error("tensor {name:?} has the unknown type {id}")]
    TensorType {
        /// The tensor's name.
        name: String,
        /// The type field.
        id: u32,
    },
    /// A row that is no whole number of blocks.
    #[error("tensor {name:?}: rows of {row} elements are no whole number of {type_name} blocks of {block}")]
    Block {
        /// The tensor's name.
        name: String,
        /// Elements in a row.
        row: u64,
        /// The type.
        type_name: &'static str,
        /// Elements in a block.
        block: u64,
    },
    /// A tensor that does not start on the alignment.
    #[error("tensor {name:?} starts at {offset}, which is not a multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor's name.
        name: String,
        /// Offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
}
