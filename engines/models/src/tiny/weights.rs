//! The tiny models' weights.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::{TinyArch, TinySpec, TinyType};
use crate::error::Error;
use bitnet_gguf::{GgmlType, TensorInfo};

/// A tensor and its bytes.
pub(super) type Weight = (TensorInfo, Vec<u8>);

/// All tensors, in the order of the file.
pub(super) fn weights(spec: &TinySpec, n_vocab: usize) -> Result<Vec<Weight>, Error> {
    let mut random = SplitMix64(spec.seed);
    let (embd, ff) = (spec.n_embd, spec.n_ff);
    let head_dim = spec.head_dim();
    let (q, kv) = (spec.n_head * head_dim, spec.n_head_kv * head_dim);
    let arch = spec.arch;
    let mut out = vec![tensor("token_embd.weight", &[n_vocab, embd], spec, &mut random)?];
    for layer in 0..spec.n_layer {
        let (always, biases) = (true, arch == TinyArch::Qwen2);
        let (sub_norms, post_norms) = (arch.is_bitnet(), arch == TinyArch::Gemma3);
        let parts: [(bool, &str, &[usize]); 18] = [
            (always, "attn_norm.weight", &[embd]),
            (always, "attn_q.weight", &[q, embd]),
            (biases, "attn_q.bias", &[q]),
            (always, "attn_k.weight", &[kv, embd]),
            (biases, "attn_k.bias", &[kv]),
            (always, "attn_v.weight", &[kv, embd]),
            (biases, "attn_v.bias", &[kv]),
            (arch.has_qk_norm(), "attn_q_norm.weight", &[head_dim]),
            (arch.has_qk_norm(), "attn_k_norm.weight", &[head_dim]),
            (sub_norms, "attn_sub_norm.weight", &[q]),
            (always, "attn_output.weight", &[embd, q]),
            (post_norms, "post_attention_norm.weight", &[embd]),
            (always, "ffn_norm.weight", &[embd]),
            (always, "ffn_gate.weight", &[ff, embd]),
            (always, "ffn_up.weight", &[ff, embd]),
            (sub_norms, "ffn_sub_norm.weight", &[ff]),
            (always, "ffn_down.weight", &[embd, ff]),
            (post_norms, "post_ffw_norm.weight", &[embd]),
        ];
        for (_, part, shape) in parts.into_iter().filter(|(has, ..)| *has) {
            let name = format!("blk.{layer}.{part}");
            out.push(tensor(&name, shape, spec, &mut random)?);
            if let (true, &[_, _], Some(matrix)) = (spec.scales, shape, name.strip_suffix(".weight")) {
                out.push(tensor(&format!("{matrix}.scale"), &[1], spec, &mut random)?);
            }
        }
    }
    out.push(tensor("output_norm.weight", &[embd], spec, &mut random)?);
    Ok(out)
}

fn tensor(name: &str, shape: &[usize], spec: &TinySpec, random: &mut SplitMix64) -> Result<Weight, Error> {
    let embedding = name == "token_embd.weight";
    let values = match (shape, spec.arch.is_bitnet()) {
        (&[count], _) if name.ends_with(".bias") => (0..count).map(|_| 0.5 * random.uniform()).collect(),
        (&[count], _) => norm(count, random),
        (&[rows, columns], true) if embedding => bytes(rows * columns, random),
        (&[rows, columns], true) => ternary(name, rows, columns, spec.wrap, random),
        (shape, _) => uniform(shape, random),
    };
    let dtype = match spec.weights {
        TinyType::Q4_1 if embedding => GgmlDType::Q8_0,
        TinyType::Q4_1 if shape.len() > 1 => GgmlDType::Q4_1,
        _ => GgmlDType::F32,
    };
    let (ggml_type, bytes) = match dtype {
        GgmlDType::F32 => (0, values.into_iter().flat_map(f32::to_le_bytes).collect()),
        _ => {
            let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
            let id = if dtype == GgmlDType::Q8_0 { 8 } else { 3 };
            (id, QTensor::quantize(&values, dtype)?.data()?.into_owned())
        }
    };
    let info = TensorInfo {
        name: name.to_owned(),
        shape: shape.to_vec(),
        ggml_type: GgmlType::from_id(ggml_type).unwrap_or(GgmlType::F32),
        offset: 0,
        byte_len: bytes.len() as u64,
    };
    Ok((info, bytes))
}

/// Norm weights lie around 1.
fn norm(count: usize, random: &mut SplitMix64) -> Vec<f32> {
    (0..count).map(|_| 1.0 + 0.2 * random.uniform()).collect()
}

/// A matrix's variance is 1 / inputs, which keeps activations at about 1; that of a uniform value in -1..1 is 1/3.
fn uniform(shape: &[usize], random: &mut SplitMix64) -> Vec<f32> {
    let spread = (3.0 / shape[shape.len() - 1] as f32).sqrt();
    (0..shape.iter().product())
        .map(|_| spread * random.uniform())
        .collect()
}

/// Whole numbers of -127..=127 by 1/256, with 127 in every block of 32: Q8_0 and F16 hold them exactly. bitnet.cpp's
/// quantiser keeps the embedding table in one of them, and it is to be the same table.
fn bytes(count: usize, random: &mut SplitMix64) -> Vec<f32> {
    let code = |index: usize, uniform: f32| match index % 32 {
        0 => 127f32.copysign(uniform),
        _ => (uniform * 127.0).round() + 0.0, // no negative zero
    };
    (0..count)
        .map(|index| code(index, random.uniform()) / 256.0)
        .collect()
}

/// A trained BitNet's matrix: -s, 0 and +s, equally likely, with one s for the whole tensor, so that quantising to
/// ternary types loses nothing. Its variance is about 1 / inputs, and s is one of F16's values.
fn ternary(name: &str, rows: usize, columns: usize, wrap: bool, random: &mut SplitMix64) -> Vec<f32> {
    let scale = (1.5 / columns as f32).sqrt() * (1.0 + 0.2 * random.uniform());
    let scale = (scale * 4096.0).round() / 4096.0;
    let codes: Vec<f32> = (0..rows * columns).map(|_| random.ternary()).collect();
    let value = |index: usize| match wrap {
        true if name.contains("ffn_down") => 1.0,
        true if name.contains("ffn_gate") || name.contains("ffn_up") => codes[index % columns],
        _ => codes[index],
    };
    (0..codes.len()).map(|index| scale * value(index)).collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1, on a grid that f32 holds exactly.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// -1, 0 or 1.
    fn ternary(&mut self) -> f32 {
        (((self.next() >> 32) * 3) >> 32) as f32 - 1.0
    }
}
