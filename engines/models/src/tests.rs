//! The engine on models of ternary types, which are the tiny BitNet's own numbers packed.
#![allow(clippy::unwrap_used)] // a failed test is a panic

use std::path::{Path, PathBuf};

use bitnet_trace::Recorder;
use half::f16;
use tempfile::TempDir;

use crate::{
    Activations, Engine, Error, Gguf, LoadOptions, TinyArch, TinySpec, dequantize_gguf, product,
    write_tiny_model,
};
use bitnet_gguf::{GgmlType, Metadata, TensorInfo, write_gguf};

const IDS: [u32; 9] = [290, 303, 17, 301, 88, 250, 3, 260, 99];

/// ggml's numbers.
const TQ2_0: u32 = 35;
const I2_S: u32 = 36;

struct Models {
    dir: TempDir,
    f32: PathBuf,
}

impl Models {
    fn new(spec: &TinySpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let f32 = dir.path().join("f32.gguf");
        write_tiny_model(&f32, spec).unwrap();
        Self { dir, f32 }
    }

    /// A copy whose matrices, but for the embedding table, are of type `id`.
    fn packed(&self, id: u32) -> PathBuf {
        let path = self.dir.path().join(format!("{id}.gguf"));
        let gguf = Gguf::open(&self.f32).unwrap();
        let pack = |tensor: &TensorInfo| tensor.shape.len() == 2 && tensor.name != "token_embd.weight";
        let data: Vec<Vec<u8>> = gguf
            .tensors()
            .iter()
            .map(|tensor| {
                let bytes = gguf.read_tensor(tensor).unwrap();
                let values: Vec<f32> = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| f32::from_le_bytes(b))
                    .collect();
                match id {
                    _ if !pack(tensor) => bytes,
                    I2_S => i2_s(&values),
                    _ => tq2_0(&values),
                }
            })
            .collect();
        let tensors: Vec<TensorInfo> = gguf
            .tensors()
            .iter()
            .zip(&data)
            .map(|(tensor, data)| TensorInfo {
                ggml_type: if pack(tensor) {
                    GgmlType::from_id(id).unwrap()
                } else {
                    tensor.ggml_type
                },
                byte_len: data.len() as u64,
                ..tensor.clone()
            })
            .collect();
        let metadata = Metadata::copied_from(&gguf, 40).unwrap();
        let mut file = std::fs::File::create(&path).unwrap();
        write_gguf(&mut file, &metadata, &tensors, |index| {
            Ok::<_, Error>(data[index].clone())
        })
        .unwrap();
        path
    }
}

fn scale(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, value| value.abs().max(max))
}

fn code(value: f32) -> u8 {
    1 + u8::from(value > 0.0) - u8::from(value < 0.0)
}

fn i2_s(values: &[f32]) -> Vec<u8> {
    let blocks = values.chunks(128);
    let byte = |block: &[f32], l: usize| {
        (0..4usize)
            .map(|g| code(block[32 * g + l]) << (6 - 2 * g))
            .sum::<u8>()
    };
    let mut bytes: Vec<u8> = blocks
        .flat_map(|block| (0..32).map(move |l| byte(block, l)))
        .collect();
    bytes.extend(scale(values).to_le_bytes());
    bytes.resize(values.len() / 4 + 32, 0);
    bytes
}

fn tq2_0(values: &[f32]) -> Vec<u8> {
    let d = f16::from_f32(scale(values)).to_le_bytes();
    let byte = |half: &[f32], l: usize| (0..4usize).map(|g| code(half[32 * g + l]) << (2 * g)).sum::<u8>();
    let block = |block: &[f32]| -> Vec<u8> {
        let codes = block
            .chunks(128)
            .flat_map(|half| (0..32).map(move |l| byte(half, l)));
        codes.chain(d).collect()
    };
    values.chunks(256).flat_map(block).collect()
}

fn logits(path: &Path, activations: Activations, batch: usize) -> Vec<Vec<f32>> {
    let mut options = LoadOptions::new(path, Recorder::off());
    options.activations = activations;
    let mut engine = Engine::load(options, &mut |_, _| {}).unwrap();
    engine.logits(&IDS, batch).unwrap()
}

/// The largest relative L2 of a position's logits.
fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let of_row = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(b - a)).sum();
        (error / a.iter().map(|&a| square(a)).sum::<f64>()).sqrt()
    };
    a.iter().zip(b).map(of_row).fold(0.0, f64::max)
}

/// Widths that suit blocks of 256.
fn spec(arch: TinyArch) -> TinySpec {
    TinySpec {
        n_embd: 256,
        n_ff: 512,
        ..TinySpec::bitnet(arch)
    }
}

#[test]
fn with_exact_activations_a_packed_model_is_the_f32_model_to_the_bit() {
    for arch in [TinyArch::Bitnet, TinyArch::BitnetB158] {
        let models = Models::new(&spec(arch));
        let expected = logits(&models.f32, Activations::Exact, 4);
        // without packed weights the choice means nothing
        assert_eq!(logits(&models.f32, Activations::Reference, 4), expected);
        for id in [I2_S, TQ2_0] {
            assert_eq!(
                logits(&models.packed(id), Activations::Exact, 4),
                expected,
                "{id}"
            );
        }
    }
}

#[test]
fn rounded_activations_change_the_logits_by_about_a_percent_and_not_with_the_batch() {
    for arch in [TinyArch::Bitnet, TinyArch::BitnetB158] {
        let models = Models::new(&spec(arch));
        let exact = logits(&models.f32, Activations::Exact, 1);
        for id in [I2_S, TQ2_0] {
            let path = models.packed(id);
            let rounded = logits(&path, Activations::Reference, 1);
            let change = difference(&exact, &rounded);
            assert!(change > 1e-4 && change < 0.1, "{arch:?} {id}: {change}");
            // attention sums over other numbers of keys differ in the last bits, which rounding can amplify
            let batched = logits(&path, Activations::Reference, 4);
            assert!(
                difference(&rounded, &batched) < change / 2.0 + 1e-6,
                "{arch:?} {id}"
            );
        }
    }
}

#[test]
fn a_dequantised_copy_of_a_packed_model_has_the_f32_model_s_tensors() {
    let models = Models::new(&spec(TinyArch::BitnetB158));
    let expected = Gguf::open(&models.f32).unwrap();
    for id in [I2_S, TQ2_0] {
        let copy = models.dir.path().join("copy.gguf");
        dequantize_gguf(&models.packed(id), &copy, &mut |_, _| {}).unwrap();
        let copy = Gguf::open(&copy).unwrap();
        assert_eq!(copy.tensors(), expected.tensors());
        for tensor in expected.tensors() {
            assert!(
                copy.read_tensor(tensor).unwrap() == expected.read_tensor(tensor).unwrap(),
                "{id}: {}",
                tensor.name
            );
        }
    }
}

#[test]
fn a_product_by_itself_needs_a_matrix_and_whole_tokens() {
    let models = Models::new(&spec(TinyArch::BitnetB158));
    let gguf = Gguf::open(&models.packed(I2_S)).unwrap();
    let x: Vec<f32> = (0..512).map(|i| (i % 7) as f32 - 3.0).collect();
    let of = |name: &str, x: &[f32]| product(&gguf, name, Activations::Reference, x);
    let both = of("blk.1.attn_k.weight", &x).unwrap();
    assert_eq!(both.len(), 2 * 128);
    assert_eq!(of("blk.1.attn_k.weight", &x[256..]).unwrap(), both[128..]);
    for (name, x, reason) in [
        ("blk.9.attn_k.weight", &x[..], "no tensor"),
        ("blk.0.attn_norm.weight", &x, "has shape [256]"),
        (
            "blk.0.attn_k.weight",
            &x[..300],
            "300 activations are not whole rows of the 256",
        ),
    ] {
        let error = of(name, x).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
