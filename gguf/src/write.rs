//! Writes GGUF files.

use std::io::{self, Write};

use crate::Error;
use crate::types::{Array, Value};
use crate::{Gguf, TensorInfo};

/// Metadata entries as bytes.
pub struct Metadata {
    version: u32,
    count: u64,
    bytes: Vec<u8>,
    alignment: u64,
}

impl Metadata {
    /// Encodes entries in the given order, version 3, alignment 32.
    pub fn encode(entries: &[(&str, Value)]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            put_string(&mut bytes, key);
            bytes.extend(value.type_id().to_le_bytes());
            put_value(&mut bytes, value);
        }
        Self {
            version: 3,
            count: entries.len() as u64,
            bytes,
            alignment: 32,
        }
    }

    /// The very bytes of an opened file, except that `general.file_type`, which names the type
    /// of most weights, is set to `file_type`.
    pub fn copied_from(gguf: &Gguf, file_type: u32) -> Result<Self, Error> {
        let header = &gguf.header;
        let start = header.entries.start;
        let mut bytes = gguf.read_range(start, header.entries.end - start)?;
        if let Some(at) = header.file_type_offset {
            let at = (at - start) as usize;
            bytes[at..at + 4].copy_from_slice(&file_type.to_le_bytes());
        }
        Ok(Self {
            version: header.version,
            count: header.entry_count,
            bytes,
            alignment: header.alignment,
        })
    }
}

/// Writes a whole file. The offsets in `tensors` are ignored and laid out anew; `data` is asked
/// for each tensor's bytes in turn, so that only one is in memory.
pub fn write_gguf<E: From<io::Error>>(
    out: &mut impl Write,
    metadata: &Metadata,
    tensors: &[TensorInfo],
    mut data: impl FnMut(usize) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let alignment = metadata.alignment;
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(metadata.version.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(metadata.count.to_le_bytes());
    head.extend(&metadata.bytes);
    let mut offset = 0u64;
    for tensor in tensors {
        put_string(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for &dim in tensor.shape.iter().rev() {
            head.extend((dim as u64).to_le_bytes());
        }
        head.extend(tensor.ggml_type.id().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += tensor.byte_len.next_multiple_of(alignment);
    }
    pad(&mut head, alignment);
    out.write_all(&head)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let mut bytes = data(index)?;
        debug_assert_eq!(bytes.len() as u64, tensor.byte_len);
        pad(&mut bytes, alignment);
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn pad(bytes: &mut Vec<u8>, alignment: u64) {
    bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, id: u32, items: &[T], bytes: fn(T) -> [u8; N]) {
        out.extend(id.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        for &item in items {
            out.extend(bytes(item));
        }
    }
    match array {
        Array::U8(v) => put(out, 0, v, u8::to_le_bytes),
        Array::I8(v) => put(out, 1, v, i8::to_le_bytes),
        Array::U16(v) => put(out, 2, v, u16::to_le_bytes),
        Array::I16(v) => put(out, 3, v, i16::to_le_bytes),
        Array::U32(v) => put(out, 4, v, u32::to_le_bytes),
        Array::I32(v) => put(out, 5, v, i32::to_le_bytes),
        Array::F32(v) => put(out, 6, v, f32::to_le_bytes),
        Array::Bool(v) => put(out, 7, v, |value| [u8::from(value)]),
        Array::String(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            for text in v {
                put_string(out, text);
            }
        }
        Array::U64(v) => put(out, 10, v, u64::to_le_bytes),
        Array::I64(v) => put(out, 11, v, i64::to_le_bytes),
        Array::F64(v) => put(out, 12, v, f64::to_le_bytes),
    }
}
