//! A small random `llama` model, so that tests run real engines on a real file.

use std::path::Path;
use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::error::Error;
use crate::file::write_whole;
use crate::gguf::write::{Metadata, write_gguf};
use crate::gguf::{Array, GgmlType, TensorInfo, Value};

/// Types of the tiny model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TinyType {
    /// Everything F32.
    F32,
    /// Matrices Q4_1, the embedding table Q8_0, norms F32.
    Q4_1,
}

impl FromStr for TinyType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "f32" => Ok(Self::F32),
            "q4_1" => Ok(Self::Q4_1),
            _ => Err(format!("{text:?} is not f32 or q4_1")),
        }
    }
}

/// The tiny model's sizes. The same values give the same file, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TinySpec {
    /// Weight types.
    pub weights: TinyType,
    /// Transformer blocks.
    pub n_layer: usize,
    /// Width of the residual stream; a multiple of 32 and of `n_head`.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; a divisor of `n_head`.
    pub n_head_kv: usize,
    /// Width of the feed-forward network; a multiple of 32.
    pub n_ff: usize,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for TinySpec {
    fn default() -> Self {
        Self {
            weights: TinyType::F32,
            n_layer: 4,
            n_embd: 64,
            n_head: 4,
            n_head_kv: 2,
            n_ff: 128,
            seed: 0,
        }
    }
}

const CONTROL_TOKENS: [&str; 4] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"];

/// Merges in order of rank; each result is a token. `Ġ` stands for a space.
const MERGES: &str = "h e|i n|Ġ t|Ġ a|e r|o n|r e|a t|Ġt he|Ġ s|Ġ w|o r|e n|Ġ c|i s|o u|i t|e s|a n|n d|\
    Ġ b|Ġ f|e d|Ġ p|in g|Ġ o|Ġa nd|a l|a r|Ġt o|Ġ m|Ġo f|Ġ in|Ġ d|Ġ h|i c|l e|a s|l l|Ġ is|o m|Ġ l|\
    Ġ re|s t|Ġ g|i on|e l|T he|Ġc a|p it|Ġca pit|Ġcapit al|F r|an c|Fr anc|Franc e|Ġ France|it y|Ġc ity";

/// Writes a random model that this engine and llama.cpp both load: byte-level BPE with all 256 bytes, a few merges
/// and control tokens, tied output, about 320 tokens.
///
/// # Errors
/// [`Error::Write`] when the file cannot be written, [`Error::Compute`] when the sizes are no multiples of 32.
pub fn write_tiny_llama(path: &Path, spec: &TinySpec) -> Result<(), Error> {
    let (tokens, merges) = vocabulary();
    let weights = weights(spec, tokens.len())?;
    let metadata = Metadata::encode(&metadata(spec, tokens, merges));
    let tensors: Vec<TensorInfo> = weights.iter().map(|(info, _)| info.clone()).collect();
    write_whole(path, |out| {
        write_gguf(out, &metadata, &tensors, |index| {
            Ok::<_, Error>(weights[index].1.clone())
        })
    })
}

fn metadata(spec: &TinySpec, tokens: Vec<String>, merges: Vec<String>) -> Vec<(&'static str, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let file_type = match spec.weights {
        TinyType::F32 => 0,
        TinyType::Q4_1 => 3,
    };
    let types = (0..tokens.len())
        .map(|id| if id < CONTROL_TOKENS.len() { 3 } else { 1 })
        .collect();
    vec![
        ("general.architecture", text("llama")),
        ("general.name", text("tiny random llama")),
        ("llama.block_count", count(spec.n_layer)),
        ("llama.context_length", count(512)),
        ("llama.embedding_length", count(spec.n_embd)),
        ("llama.feed_forward_length", count(spec.n_ff)),
        ("llama.attention.head_count", count(spec.n_head)),
        ("llama.attention.head_count_kv", count(spec.n_head_kv)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        (
            "llama.rope.dimension_count",
            count(spec.n_embd / spec.n_head.max(1)),
        ),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.vocab_size", count(tokens.len())),
        ("general.file_type", Value::U32(file_type)),
        ("general.quantization_version", Value::U32(2)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(merges))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.padding_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ]
}

/// Control tokens, then the 256 bytes, then the merges' results.
fn vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = CONTROL_TOKENS.map(str::to_owned).to_vec();
    tokens.extend(byte_alphabet());
    let merges: Vec<String> = MERGES.split('|').map(str::to_owned).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    (tokens, merges)
}

/// GPT-2's printable character for each byte: itself where printable, else 256 + n.
fn byte_alphabet() -> Vec<String> {
    let mut next = 256;
    let to_char = |byte: u8| {
        let code = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
            _ => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(code).map(String::from)
    };
    (0..=u8::MAX).filter_map(to_char).collect()
}

type Weight = (TensorInfo, Vec<u8>);

fn weights(spec: &TinySpec, n_vocab: usize) -> Result<Vec<Weight>, Error> {
    let mut random = SplitMix64(spec.seed);
    let (embd, ff) = (spec.n_embd, spec.n_ff);
    let head_dim = embd / spec.n_head.max(1);
    let (q, kv) = (spec.n_head * head_dim, spec.n_head_kv * head_dim);
    let (embedding, matrix) = match spec.weights {
        TinyType::F32 => (GgmlDType::F32, GgmlDType::F32),
        TinyType::Q4_1 => (GgmlDType::Q8_0, GgmlDType::Q4_1),
    };
    let mut out = vec![weight(
        "token_embd.weight",
        &[n_vocab, embd],
        embedding,
        &mut random,
    )?];
    for layer in 0..spec.n_layer {
        let parts: [(&str, &[usize]); 9] = [
            ("attn_norm", &[embd]),
            ("attn_q", &[q, embd]),
            ("attn_k", &[kv, embd]),
            ("attn_v", &[kv, embd]),
            ("attn_output", &[embd, q]),
            ("ffn_norm", &[embd]),
            ("ffn_gate", &[ff, embd]),
            ("ffn_up", &[ff, embd]),
            ("ffn_down", &[embd, ff]),
        ];
        for (part, shape) in parts {
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { matrix };
            out.push(weight(
                &format!("blk.{layer}.{part}.weight"),
                shape,
                dtype,
                &mut random,
            )?);
        }
    }
    out.push(weight(
        "output_norm.weight",
        &[embd],
        GgmlDType::F32,
        &mut random,
    )?);
    Ok(out)
}

/// Norm weights lie around 1; a matrix's variance is 1 / inputs, which keeps activations at about 1.
fn weight(name: &str, shape: &[usize], dtype: GgmlDType, random: &mut SplitMix64) -> Result<Weight, Error> {
    let count = shape.iter().product();
    let values: Vec<f32> = match *shape {
        [_] => (0..count).map(|_| 1.0 + 0.2 * random.uniform()).collect(),
        _ => {
            // A uniform value in -1..1 has variance 1/3.
            let spread = (3.0 / shape[shape.len() - 1] as f32).sqrt();
            (0..count).map(|_| spread * random.uniform()).collect()
        }
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
}
