//! GGUF files: opening, checking, metadata, tensor bytes, writing.
//!
//! [`Gguf::open`] reads the header and believes nothing in it: every length is compared with the file before
//! anything follows it. It keeps the file's order and its exact metadata bytes (a converted copy carries them
//! unchanged), and knows bitnet.cpp's `I2_S` beside ggml's tensor types. What the elements of a packed type are, is
//! none of its business.

#![forbid(unsafe_code)]

mod damage;
mod error;
mod parse;
#[cfg(test)]
mod tests;
mod types;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use damage::Damage;
pub use error::Error;
pub use types::{Array, GgmlType, Value};
pub use write::{Metadata, write_gguf};

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape, slowest dimension first: a matrix is [rows (outputs), columns (inputs)].
    pub shape: Vec<usize>,
    /// Element type.
    pub ggml_type: GgmlType,
    /// Byte offset in the data section.
    pub offset: u64,
    /// Bytes of data.
    pub byte_len: u64,
}

#[derive(Debug)]
struct Header {
    version: u32,
    metadata: BTreeMap<String, Value>,
    entry_count: u64,
    /// Where the metadata entries lie in the file.
    entries: Range<u64>,
    /// Where the u32 value of `general.file_type` lies in the file.
    file_type_offset: Option<u64>,
    alignment: u64,
    tensors: Vec<TensorInfo>,
    index: BTreeMap<String, usize>,
    data_offset: u64,
}

/// An opened GGUF file whose header has been read and checked: every tensor lies
/// inside the file. Tensor data is read when asked for.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    header: Header,
}

impl Gguf {
    /// Opens `path` and reads the header.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Read`] when the system refuses, [`Error::Damaged`] when the file
    /// is damaged or no GGUF.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        let stat = file.metadata().map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        if !stat.is_file() {
            return Err(Error::Damaged {
                path: path.to_owned(),
                source: Damage::NotAFile,
            });
        }
        let header = parse::parse(BufReader::with_capacity(1 << 16, &file), stat.len());
        let header = header.map_err(|failure| failure.at(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header
            .index
            .get(name)
            .map(|&index| &self.header.tensors[index])
    }

    /// How many tensors there are of each type, by ggml's name.
    pub fn type_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for tensor in self.tensors() {
            *counts.entry(tensor.ggml_type.name().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Reads a tensor's bytes as they are in the file.
    ///
    /// # Errors
    /// [`Error::Read`] when the system fails, for example because the file was replaced.
    pub fn read_tensor(&self, tensor: &TensorInfo) -> Result<Vec<u8>, Error> {
        self.read_range(self.header.data_offset + tensor.offset, tensor.byte_len)
    }

    /// Reads `len` of a tensor's bytes from byte `from` on.
    ///
    /// # Errors
    /// [`Error::Read`] when the system fails, or where the tensor has not so many.
    pub fn read_part(&self, tensor: &TensorInfo, from: u64, len: u64) -> Result<Vec<u8>, Error> {
        if from.checked_add(len).is_none_or(|end| end > tensor.byte_len) {
            return Err(Error::Read {
                path: self.path.clone(),
                source: ErrorKind::UnexpectedEof.into(),
            });
        }
        self.read_range(self.header.data_offset + tensor.offset + from, len)
    }

    fn read_range(&self, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len as usize];
        // At an offset, so that threads can read at once.
        self.file
            .read_exact_at(&mut bytes, start)
            .map_err(|source| Error::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }

    /// The metadata value of `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.header.metadata
    }

    fn required<T>(&self, key: &str, value: Result<Option<T>, Error>) -> Result<T, Error> {
        value?.ok_or_else(|| Error::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let found = value.type_name();
        get(value).map(Some).ok_or_else(|| Error::KeyType {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found,
        })
    }

    /// A string, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::KeyType`] when it is something else.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::MissingKey`] or [`Error::KeyType`].
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.required(key, self.str_opt(key))
    }

    /// A count or an id of any integer type, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::KeyType`] when it is something else, negative or above `u32::MAX`.
    pub fn u32_opt(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an unsigned integer", |value| {
            value.as_u64()?.try_into().ok()
        })
    }

    /// A count or an id of any integer type.
    ///
    /// # Errors
    /// [`Error::MissingKey`] or [`Error::KeyType`].
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.required(key, self.u32_opt(key))
    }

    /// A float, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::KeyType`] when it is something else.
    pub fn f32_opt(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a float", |value| match *value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        })
    }

    /// A float.
    ///
    /// # Errors
    /// [`Error::MissingKey`] or [`Error::KeyType`].
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.required(key, self.f32_opt(key))
    }

    /// A boolean, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::KeyType`] when it is something else.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a boolean", |value| match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`Error::MissingKey`] or [`Error::KeyType`].
    pub fn strings(&self, key: &str) -> Result<&[String], Error> {
        let value = self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        });
        self.required(key, value)
    }

    /// An array of 32-bit signed integers, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::KeyType`] when it is something else.
    pub fn i32s_opt(&self, key: &str) -> Result<Option<&[i32]>, Error> {
        self.typed(key, "an array of 32-bit integers", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }
}
