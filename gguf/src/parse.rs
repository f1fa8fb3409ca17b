//! Reads a GGUF header. Every length is checked against the bytes that are left
//! before anything is allocated, so a hostile header costs no more memory than
//! a small multiple of its file.

use std::collections::BTreeMap;
use std::io::Read;

use crate::Error;
use crate::damage::Damage;
use crate::types::{Array, GgmlType, Value};
use crate::{Header, TensorInfo};

/// The smallest metadata entry: key length, value type, one byte of value.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// The smallest tensor entry: name length, dimension count, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far above any real one; padding by it must stay cheap.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// What can end a parse: damage, or the system failing to read.
pub(crate) enum Failure {
    Damage(Damage),
    Io(std::io::Error),
}

impl Failure {
    pub(crate) fn at(self, path: &std::path::Path) -> Error {
        match self {
            Self::Damage(source) => Error::Damaged {
                path: path.to_owned(),
                source,
            },
            Self::Io(source) => Error::Read {
                path: path.to_owned(),
                source,
            },
        }
    }
}

impl From<Damage> for Failure {
    fn from(error: Damage) -> Self {
        Self::Damage(error)
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Reads forward, knowing where it is and where the file ends.
struct Cursor<R> {
    reader: R,
    offset: u64,
    len: u64,
}

impl<R: Read> Cursor<R> {
    fn left(&self) -> u64 {
        self.len - self.offset
    }

    /// Fails unless `needed` more bytes exist.
    fn require(&self, needed: u64, what: &dyn Fn() -> String) -> Result<()> {
        if needed <= self.left() {
            return Ok(());
        }
        let (offset, available) = (self.offset, self.left());
        Err(Damage::Truncated {
            what: what(),
            offset,
            needed,
            available,
        }
        .into())
    }

    fn bytes(&mut self, needed: u64, what: &dyn Fn() -> String) -> Result<Vec<u8>> {
        self.require(needed, what)?;
        let mut bytes = vec![0; needed as usize];
        self.reader.read_exact(&mut bytes).map_err(Failure::Io)?;
        self.offset += needed;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &dyn Fn() -> String) -> Result<[u8; N]> {
        self.require(N as u64, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(Failure::Io)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &dyn Fn() -> String) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &dyn Fn() -> String) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length-prefixed string's bytes.
    fn string(&mut self, what: &dyn Fn() -> String) -> Result<Vec<u8>> {
        let len = self.u64(what)?;
        self.bytes(len, what)
    }

    fn name(&mut self, what: &'static str) -> Result<String> {
        let offset = self.offset;
        let bytes = self.string(&|| what.to_owned())?;
        String::from_utf8(bytes).map_err(|_| Damage::NotUtf8 { what, offset }.into())
    }
}

pub(crate) fn parse(reader: impl Read, len: u64) -> Result<Header> {
    let mut cursor = Cursor {
        reader,
        offset: 0,
        len,
    };
    if len == 0 {
        return Err(Damage::Empty.into());
    }
    let start = cursor.bytes(len.min(4), &|| "the magic".to_owned())?;
    if start != b"GGUF" {
        return Err(Damage::Magic {
            found: String::from_utf8_lossy(&start).into_owned(),
        }
        .into());
    }
    let version = cursor.u32(&|| "the version".to_owned())?;
    if !(2..=3).contains(&version) {
        return Err(Damage::Version { version }.into());
    }
    let tensor_count = cursor.u64(&|| "the tensor count".to_owned())?;
    let entry_count = cursor.u64(&|| "the metadata count".to_owned())?;
    let needed = entry_count
        .saturating_mul(MIN_ENTRY)
        .saturating_add(tensor_count.saturating_mul(MIN_TENSOR));
    cursor.require(needed, &|| {
        format!("a header of {entry_count} metadata entries and {tensor_count} tensors")
    })?;

    let entries_start = cursor.offset;
    let mut metadata = BTreeMap::new();
    let mut file_type_offset = None;
    for _ in 0..entry_count {
        let key = cursor.name("metadata key")?;
        let what = || format!("metadata key {key:?}");
        let value_type = cursor.u32(&what)?;
        if key == "general.file_type" && value_type == 4 {
            file_type_offset = Some(cursor.offset);
        }
        let value = read_value(&mut cursor, &key, value_type)?;
        if metadata.contains_key(&key) {
            return Err(Damage::DuplicateKey { key }.into());
        }
        metadata.insert(key, value);
    }
    let entries_end = cursor.offset;
    let alignment = alignment(&metadata)?;

    let mut tensors = Vec::new();
    let mut index = BTreeMap::new();
    for _ in 0..tensor_count {
        let tensor = read_tensor_info(&mut cursor, alignment)?;
        if index.insert(tensor.name.clone(), tensors.len()).is_some() {
            return Err(Damage::DuplicateTensor { name: tensor.name }.into());
        }
        tensors.push(tensor);
    }
    let data_offset = cursor.offset.next_multiple_of(alignment);
    for tensor in &tensors {
        let available = len.saturating_sub(data_offset).saturating_sub(tensor.offset);
        if tensor.byte_len > available {
            return Err(Damage::Truncated {
                what: format!("tensor {:?}", tensor.name),
                offset: data_offset.saturating_add(tensor.offset),
                needed: tensor.byte_len,
                available,
            }
            .into());
        }
    }
    Ok(Header {
        version,
        metadata,
        entry_count,
        entries: entries_start..entries_end,
        file_type_offset,
        alignment,
        tensors,
        index,
        data_offset,
    })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(value)) if value.is_power_of_two() && *value <= MAX_ALIGNMENT => {
            Ok(u64::from(*value))
        }
        Some(other) => Err(Damage::Alignment {
            found: format!("{other:?}"),
        }
        .into()),
    }
}

fn read_value<R: Read>(cursor: &mut Cursor<R>, key: &str, value_type: u32) -> Result<Value> {
    let what = || format!("metadata key {key:?}");
    Ok(match value_type {
        0 => Value::U8(cursor.array::<1>(&what)?[0]),
        1 => Value::I8(i8::from_le_bytes(cursor.array(&what)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(&what)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(&what)?)),
        4 => Value::U32(cursor.u32(&what)?),
        5 => Value::I32(i32::from_le_bytes(cursor.array(&what)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(&what)?)),
        7 => Value::Bool(to_bool(key, cursor.array::<1>(&what)?[0])?),
        8 => Value::String(String::from_utf8_lossy(&cursor.string(&what)?).into_owned()),
        9 => Value::Array(read_array(cursor, key)?),
        10 => Value::U64(cursor.u64(&what)?),
        11 => Value::I64(i64::from_le_bytes(cursor.array(&what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(&what)?)),
        _ => {
            return Err(Damage::ValueType {
                key: key.to_owned(),
                value_type,
            }
            .into());
        }
    })
}

fn to_bool(key: &str, value: u8) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Damage::Bool {
            key: key.to_owned(),
            value,
        }
        .into()),
    }
}

fn read_array<R: Read>(cursor: &mut Cursor<R>, key: &str) -> Result<Array> {
    let what = || format!("metadata key {key:?}");
    let value_type = cursor.u32(&what)?;
    let len = cursor.u64(&what)?;
    match value_type {
        8 => {
            cursor.require(len.saturating_mul(8), &what)?;
            let mut strings = Vec::new();
            for _ in 0..len {
                strings.push(String::from_utf8_lossy(&cursor.string(&what)?).into_owned());
            }
            return Ok(Array::String(strings));
        }
        9 => return Err(Damage::NestedArray { key: key.to_owned() }.into()),
        _ => {}
    }
    let width: u64 = match value_type {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => {
            return Err(Damage::ValueType {
                key: key.to_owned(),
                value_type,
            }
            .into());
        }
    };
    let bytes = cursor.bytes(len.saturating_mul(width), &what)?;
    Ok(match value_type {
        0 => Array::U8(bytes),
        1 => Array::I8(numbers(&bytes, i8::from_le_bytes)),
        2 => Array::U16(numbers(&bytes, u16::from_le_bytes)),
        3 => Array::I16(numbers(&bytes, i16::from_le_bytes)),
        4 => Array::U32(numbers(&bytes, u32::from_le_bytes)),
        5 => Array::I32(numbers(&bytes, i32::from_le_bytes)),
        6 => Array::F32(numbers(&bytes, f32::from_le_bytes)),
        7 => Array::Bool(
            bytes
                .into_iter()
                .map(|byte| to_bool(key, byte))
                .collect::<Result<_>>()?,
        ),
        10 => Array::U64(numbers(&bytes, u64::from_le_bytes)),
        11 => Array::I64(numbers(&bytes, i64::from_le_bytes)),
        _ => Array::F64(numbers(&bytes, f64::from_le_bytes)),
    })
}

fn numbers<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| from(*chunk)).collect()
}

fn read_tensor_info<R: Read>(cursor: &mut Cursor<R>, alignment: u64) -> Result<TensorInfo> {
    let name = cursor.name("tensor name")?;
    let what = || format!("the entry of tensor {name:?}");
    let n_dims = cursor.u32(&what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(Damage::Dimensions { name, n_dims }.into());
    }
    let mut dims = Vec::new();
    for _ in 0..n_dims {
        dims.push(cursor.u64(&what)?);
    }
    let id = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    let Some(ggml_type) = GgmlType::from_id(id) else {
        return Err(Damage::TensorType { name, id }.into());
    };
    let (row, block) = (dims[0], ggml_type.block_size());
    if !row.is_multiple_of(block) {
        return Err(Damage::Block {
            name,
            row,
            type_name: ggml_type.name(),
            block,
        }
        .into());
    }
    // Bounded by i64 so that the shape is safe in every signed or 4-byte computation downstream.
    let elements = dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let byte_len = elements
        .filter(|&n| n > 0 && n < 1 << 60)
        .and_then(|n| ggml_type.byte_size(n))
        .filter(|&n| n < 1 << 62);
    let Some(byte_len) = byte_len else {
        return Err(Damage::Shape { name, dims }.into());
    };
    if !offset.is_multiple_of(alignment) {
        return Err(Damage::Misaligned {
            name,
            offset,
            alignment,
        }
        .into());
    }
    let shape = dims.iter().rev().map(|&dim| dim as usize).collect();
    Ok(TensorInfo {
        name,
        shape,
        ggml_type,
        offset,
        byte_len,
    })
}
