//! Every way a GGUF can be damaged gives its own error, and none a panic.

use std::io::Cursor;

use crate::parse::{Failure, parse};
use crate::write::{Metadata, write_gguf};
use crate::{Array, Damage, GgmlType, Header, TensorInfo, Value};

/// Writes headers field by field, so that each field can be wrong.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(version: u32, tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A metadata entry of a u32 value.
    fn entry(self, key: &str, value: u32) -> Self {
        self.text(key).u32(4).u32(value)
    }

    fn tensor(self, name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Self {
        let mut bytes = self.text(name).u32(dims.len() as u32);
        for &dim in dims {
            bytes = bytes.u64(dim);
        }
        bytes.u32(ggml_type).u64(offset)
    }

    /// Enough zeros that counts and data sections fit.
    fn padded(self) -> Self {
        self.raw(&[0; 4096])
    }

    fn parse(&self) -> Result<Header, Damage> {
        parse(Cursor::new(&self.0), self.0.len() as u64).map_err(|failure| match failure {
            Failure::Damage(error) => error,
            Failure::Io(error) => panic!("reading memory cannot fail: {error}"),
        })
    }

    fn error(&self) -> Damage {
        self.parse().expect_err("the header is damaged")
    }
}

fn sample() -> Vec<u8> {
    let metadata = Metadata::encode(&[
        ("general.architecture", Value::String("llama".to_owned())),
        ("a.u8", Value::U8(1)),
        ("a.i8", Value::I8(-1)),
        ("a.u16", Value::U16(2)),
        ("a.i16", Value::I16(-2)),
        ("a.u32", Value::U32(3)),
        ("a.i32", Value::I32(-3)),
        ("a.f32", Value::F32(0.5)),
        ("a.bool", Value::Bool(true)),
        ("a.u64", Value::U64(4)),
        ("a.i64", Value::I64(-4)),
        ("a.f64", Value::F64(-0.5)),
        ("b.u8", Value::Array(Array::U8(vec![1, 2]))),
        ("b.i8", Value::Array(Array::I8(vec![-1]))),
        ("b.u16", Value::Array(Array::U16(vec![1]))),
        ("b.i16", Value::Array(Array::I16(vec![-1]))),
        ("b.u32", Value::Array(Array::U32(vec![7, 8]))),
        ("b.i32", Value::Array(Array::I32(vec![-7]))),
        ("b.f32", Value::Array(Array::F32(vec![1.5]))),
        ("b.bool", Value::Array(Array::Bool(vec![true, false]))),
        (
            "b.str",
            Value::Array(Array::String(vec!["é".to_owned(), String::new()])),
        ),
        ("b.u64", Value::Array(Array::U64(vec![9]))),
        ("b.i64", Value::Array(Array::I64(vec![-9]))),
        ("b.f64", Value::Array(Array::F64(vec![2.5]))),
    ]);
    let tensors = [
        TensorInfo {
            name: "x".to_owned(),
            shape: vec![2, 3],
            ggml_type: GgmlType::F32,
            offset: 0,
            byte_len: 24,
        },
        TensorInfo {
            name: "y".to_owned(),
            shape: vec![5],
            ggml_type: GgmlType::F32,
            offset: 0,
            byte_len: 20,
        },
    ];
    let mut out = Vec::new();
    write_gguf(&mut out, &metadata, &tensors, |index| {
        Ok::<_, std::io::Error>(vec![index as u8 + 1; tensors[index].byte_len as usize])
    })
    .unwrap();
    out
}

#[test]
fn what_is_written_is_read_back() {
    let header = Bytes(sample()).parse().unwrap();
    assert_eq!(header.metadata.len(), 24);
    assert_eq!(header.metadata["a.f64"], Value::F64(-0.5));
    assert_eq!(
        header.metadata["b.bool"],
        Value::Array(Array::Bool(vec![true, false]))
    );
    assert_eq!(
        header.metadata["b.str"],
        Value::Array(Array::String(vec!["é".to_owned(), String::new()]))
    );
    assert_eq!(header.tensors[0].shape, [2, 3]);
    assert_eq!((header.tensors[1].offset, header.tensors[1].byte_len), (32, 20));
    assert_eq!(header.data_offset % 32, 0);
}

#[test]
fn every_shorter_file_is_an_error() {
    let whole = sample();
    let data_end = whole.len() - 12; // the last tensor is padded to 32 bytes
    for len in 0..data_end {
        let error = Bytes(whole[..len].to_vec()).error();
        match len {
            0 => assert_eq!(error, Damage::Empty),
            1..4 => assert!(matches!(error, Damage::Magic { .. }), "{len}: {error}"),
            _ => assert!(matches!(error, Damage::Truncated { .. }), "{len}: {error}"),
        }
    }
    assert!(Bytes(whole[..data_end].to_vec()).parse().is_ok());
}

#[test]
fn every_changed_byte_gives_a_header_or_an_error() {
    let whole = sample();
    for at in 0..whole.len() {
        for value in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
            let mut bytes = Bytes(whole.clone());
            bytes.0[at] = value;
            let _ = bytes.parse();
        }
    }
}

#[test]
fn hostile_counts_are_refused_before_anything_is_allocated() {
    let huge = [1 << 32, 1 << 61, u64::MAX / 13, u64::MAX];
    for count in huge {
        let truncated = |bytes: Bytes| assert!(matches!(bytes.error(), Damage::Truncated { .. }), "{count}");
        truncated(Bytes::header(3, count, 0).padded());
        truncated(Bytes::header(3, 0, count).padded());
        truncated(Bytes::header(3, count, count).padded());
        truncated(Bytes::header(3, 0, 1).u64(count).padded()); // a key's length
        truncated(Bytes::header(3, 0, 1).text("k").u32(8).u64(count).padded()); // a string's length
        for value_type in [0, 2, 4, 8, 10] {
            truncated(
                Bytes::header(3, 0, 1)
                    .text("k")
                    .u32(9)
                    .u32(value_type)
                    .u64(count)
                    .padded(),
            );
        }
        let dims = Bytes::header(3, 1, 0)
            .tensor("t", &[count, 1 << 20], 0, 0)
            .padded();
        assert!(matches!(
            dims.error(),
            Damage::Shape { .. } | Damage::Truncated { .. }
        ));
        let offset = Bytes::header(3, 1, 0).tensor("t", &[4], 0, count & !31).padded();
        assert!(matches!(offset.error(), Damage::Truncated { .. }));
    }
}

#[test]
fn each_kind_of_damage_has_its_own_error() {
    let text = Bytes(b"Once upon a time".to_vec()).error();
    assert_eq!(
        text,
        Damage::Magic {
            found: "Once".to_owned()
        }
    );
    for version in [0, 1, 4, 3 << 24] {
        assert_eq!(
            Bytes::header(version, 0, 0).padded().error(),
            Damage::Version { version }
        );
    }
    let not_utf8 = Bytes::header(3, 0, 1).u64(2).raw(&[0xFF, 0xFE]).padded().error();
    assert_eq!(
        not_utf8,
        Damage::NotUtf8 {
            what: "metadata key",
            offset: 24
        }
    );
    let twice = Bytes::header(3, 0, 2)
        .entry("k", 1)
        .entry("k", 2)
        .padded()
        .error();
    assert_eq!(twice, Damage::DuplicateKey { key: "k".to_owned() });
    let value_type = Bytes::header(3, 0, 1).text("k").u32(13).padded().error();
    assert_eq!(
        value_type,
        Damage::ValueType {
            key: "k".to_owned(),
            value_type: 13
        }
    );
    let element_type = Bytes::header(3, 0, 1)
        .text("k")
        .u32(9)
        .u32(13)
        .u64(1)
        .padded()
        .error();
    assert_eq!(
        element_type,
        Damage::ValueType {
            key: "k".to_owned(),
            value_type: 13
        }
    );
    let boolean = Bytes::header(3, 0, 1).text("k").u32(7).raw(&[2]).padded().error();
    assert_eq!(
        boolean,
        Damage::Bool {
            key: "k".to_owned(),
            value: 2
        }
    );
    let nested = Bytes::header(3, 0, 1)
        .text("k")
        .u32(9)
        .u32(9)
        .u64(1)
        .padded()
        .error();
    assert_eq!(nested, Damage::NestedArray { key: "k".to_owned() });
    for alignment in [0, 3, 1 << 17] {
        let error = Bytes::header(3, 0, 1)
            .entry("general.alignment", alignment)
            .padded()
            .error();
        assert!(matches!(error, Damage::Alignment { .. }), "{alignment}");
    }
    let twice = Bytes::header(3, 2, 0)
        .tensor("t", &[4], 0, 0)
        .tensor("t", &[4], 0, 32)
        .padded()
        .error();
    assert_eq!(twice, Damage::DuplicateTensor { name: "t".to_owned() });
    for dims in [vec![], vec![1; 5]] {
        let error = Bytes::header(3, 1, 0).tensor("t", &dims, 0, 0).padded().error();
        assert_eq!(
            error,
            Damage::Dimensions {
                name: "t".to_owned(),
                n_dims: dims.len() as u32
            }
        );
    }
    for dims in [vec![0], vec![4, 0], vec![1 << 40, 1 << 40]] {
        let error = Bytes::header(3, 1, 0).tensor("t", &dims, 0, 0).padded().error();
        assert_eq!(
            error,
            Damage::Shape {
                name: "t".to_owned(),
                dims
            }
        );
    }
    let unknown = Bytes::header(3, 1, 0).tensor("t", &[4], 999, 0).padded().error();
    assert_eq!(
        unknown,
        Damage::TensorType {
            name: "t".to_owned(),
            id: 999
        }
    );
    let block = Bytes::header(3, 1, 0).tensor("t", &[33], 3, 0).padded().error();
    assert_eq!(
        block,
        Damage::Block {
            name: "t".to_owned(),
            row: 33,
            type_name: "Q4_1",
            block: 32
        }
    );
    let offset = Bytes::header(3, 1, 0).tensor("t", &[4], 0, 8).padded().error();
    assert_eq!(
        offset,
        Damage::Misaligned {
            name: "t".to_owned(),
            offset: 8,
            alignment: 32
        }
    );
}

#[test]
fn an_i2_s_tensor_is_a_quarter_of_a_byte_an_element_and_32_bytes_more() {
    let header = |dims: &[u64], bytes: usize| {
        let header = Bytes::header(3, 1, 0).tensor("t", dims, 36, 0);
        let start = header.0.len().next_multiple_of(32);
        let mut bytes = header.raw(&vec![0; bytes]);
        bytes.0.resize(bytes.0.len().max(start), 0);
        bytes.0.truncate(start + 96 + 31);
        bytes
    };
    let whole = header(&[128, 3], 4096);
    let truncated = whole.error();
    assert!(
        matches!(
            truncated,
            Damage::Truncated {
                needed: 128,
                available: 127,
                ..
            }
        ),
        "{truncated:?}"
    );
    let parsed = whole.raw(&[0]).parse().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (parsed.tensors[0].byte_len, parsed.tensors[0].ggml_type.name()),
        (128, "I2_S")
    );
    let partial = header(&[192, 2], 4096).error();
    assert!(
        matches!(
            partial,
            Damage::Block {
                row: 192,
                block: 128,
                ..
            }
        ),
        "{partial:?}"
    );
}
