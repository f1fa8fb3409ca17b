//! Small random models, so that tests run real engines on a real file.

mod vocabulary;
mod weights;

use std::path::Path;
use std::str::FromStr;

use crate::error::Error;
use crate::file::write_whole;
use bitnet_gguf::{Array, Metadata, TensorInfo, Value, write_gguf};
use vocabulary::{CONTROL_TOKENS, vocabulary};
use weights::weights;

/// Architecture of a tiny model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TinyArch {
    /// `llama`: random weights.
    Llama,
    /// `bitnet`: SiLU, sub-norms; ternary weights.
    Bitnet,
    /// `bitnet-b1.58`: squared ReLU, sub-norms; ternary weights.
    BitnetB158,
    /// `qwen2`, for other engines: biases of q, k and v.
    Qwen2,
    /// `qwen3`, for other engines: norms of q and k.
    Qwen3,
    /// `gemma3`, for other engines: scaled embeddings and q, norms of q and k and after attention and feed-forward, GELU,
    /// heads wider than `n_embd / n_head`, and a sliding window with a RoPE base of its own in every other layer.
    Gemma3,
}

/// Tokens that a layer of the tiny Gemma 3 with a sliding window attends to.
const WINDOW: usize = 8;

impl TinyArch {
    /// As `general.architecture` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Bitnet => "bitnet",
            Self::BitnetB158 => "bitnet-b1.58",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    pub(crate) fn is_bitnet(self) -> bool {
        matches!(self, Self::Bitnet | Self::BitnetB158)
    }

    /// Whether q and k are normalised, head by head.
    pub(crate) fn has_qk_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }
}

impl FromStr for TinyArch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let archs = [
            Self::Llama,
            Self::Bitnet,
            Self::BitnetB158,
            Self::Qwen2,
            Self::Qwen3,
            Self::Gemma3,
        ];
        let known = archs.map(Self::name).join(", ");
        archs
            .into_iter()
            .find(|arch| arch.name() == text)
            .ok_or_else(|| format!("{text:?} is none of {known}"))
    }
}

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
    /// Architecture.
    pub arch: TinyArch,
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
    /// Ternary feed-forward weights under which every input of `ffn_down` is as large as any other and all of them are
    /// added: from `n_ff` = 2176 on, the 16-bit lanes in which bitnet.cpp adds I2_S products wrap around.
    pub wrap: bool,
    /// A factor of its own for each matrix of a layer, beside it in the file (`.scale`).
    pub scales: bool,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for TinySpec {
    fn default() -> Self {
        Self {
            arch: TinyArch::Llama,
            weights: TinyType::F32,
            n_layer: 4,
            n_embd: 64,
            n_head: 4,
            n_head_kv: 2,
            n_ff: 128,
            wrap: false,
            scales: false,
            seed: 0,
        }
    }
}

impl TinySpec {
    /// A BitNet of 1.4 MB, whose widths are multiples of the 128 elements of a block of I2_S.
    pub fn bitnet(arch: TinyArch) -> Self {
        Self {
            arch,
            n_layer: 2,
            n_embd: 128,
            n_ff: 256,
            ..Self::default()
        }
    }

    /// Width of a head.
    pub(crate) fn head_dim(&self) -> usize {
        let divided = self.n_embd / self.n_head.max(1);
        match self.arch {
            TinyArch::Gemma3 => 2 * divided,
            _ => divided,
        }
    }
}

/// Writes a random model that this engine, llama.cpp and bitnet.cpp load (the last alone has `bitnet-b1.58`, llama.cpp
/// alone the Qwens and Gemma): byte-level BPE with all 256 bytes, a few merges and control tokens, tied output, about 320 tokens.
///
/// # Errors
/// [`Error::Write`] when the file cannot be written, [`Error::Compute`] when the sizes are no multiples of 32.
pub fn write_tiny_model(path: &Path, spec: &TinySpec) -> Result<(), Error> {
    let (tokens, merges) = vocabulary();
    let weights = weights(spec, tokens.len())?;
    let entries = metadata(spec, tokens, merges);
    let entries: Vec<(&str, Value)> = entries
        .iter()
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    let metadata = Metadata::encode(&entries);
    let tensors: Vec<TensorInfo> = weights.iter().map(|(info, _)| info.clone()).collect();
    write_whole(path, |out| {
        write_gguf(out, &metadata, &tensors, |index| {
            Ok::<_, Error>(weights[index].1.clone())
        })
    })
}

fn metadata(spec: &TinySpec, tokens: Vec<String>, merges: Vec<String>) -> Vec<(String, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let arch = spec.arch.name();
    let file_type = match spec.weights {
        TinyType::F32 => 0,
        TinyType::Q4_1 => 3,
    };
    let types = (0..tokens.len())
        .map(|id| if id < CONTROL_TOKENS.len() { 3 } else { 1 })
        .collect();
    let of_arch = [
        ("block_count", count(spec.n_layer)),
        ("context_length", count(512)),
        ("embedding_length", count(spec.n_embd)),
        ("feed_forward_length", count(spec.n_ff)),
        ("attention.head_count", count(spec.n_head)),
        ("attention.head_count_kv", count(spec.n_head_kv)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("rope.dimension_count", count(spec.head_dim())),
        ("rope.freq_base", Value::F32(10_000.0)),
        ("vocab_size", count(tokens.len())),
    ];
    let of_gemma = [
        ("attention.key_length", count(spec.head_dim())),
        ("attention.value_length", count(spec.head_dim())),
        ("attention.sliding_window", count(WINDOW)),
        // the last of every two layers has none
        ("attention.sliding_window_pattern", count(2)),
        ("rope.freq_base_swa", Value::F32(1_000.0)),
    ];
    let of_all = [
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
    ];
    let mut entries = vec![
        ("general.architecture".to_owned(), text(arch)),
        ("general.name".to_owned(), text(&format!("tiny random {arch}"))),
    ];
    entries.extend(of_arch.map(|(key, value)| (format!("{arch}.{key}"), value)));
    if spec.arch == TinyArch::Gemma3 {
        entries.extend(of_gemma.map(|(key, value)| (format!("{arch}.{key}"), value)));
    }
    entries.extend(of_all.map(|(key, value)| (key.to_owned(), value)));
    entries
}
