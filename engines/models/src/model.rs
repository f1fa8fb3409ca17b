//! The weights of a model, of whatever architecture.

use candle_core::Tensor;

use crate::activations::Activations;
use crate::arch::Arch;
use crate::config::Config;
use crate::error::Error;
use crate::rope::Rope;
use crate::weights::{Linear, Loader, Matrix};
use bitnet_gguf::Gguf;

/// One transformer block.
pub(crate) struct Block {
    pub(crate) attn_norm: Tensor,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) attn_sub_norm: Option<Tensor>,
    pub(crate) attn_output: Linear,
    pub(crate) ffn_norm: Tensor,
    pub(crate) ffn_gate: Linear,
    pub(crate) ffn_up: Linear,
    pub(crate) ffn_sub_norm: Option<Tensor>,
    pub(crate) ffn_down: Linear,
}

/// A decoder-only transformer.
pub(crate) struct Model {
    pub(crate) arch: &'static Arch,
    pub(crate) config: Config,
    pub(crate) rope: Rope,
    pub(crate) token_embd: Matrix,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Tensor,
    pub(crate) output: Matrix,
    /// Rows of the embedding table.
    pub(crate) n_vocab: usize,
}

impl Model {
    /// Reads all weights; `progress` is told bytes read and bytes in all.
    pub(crate) fn load(
        gguf: &Gguf,
        activations: Activations,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let arch = Arch::of(gguf)?;
        let config = Config::from_gguf(gguf, arch.name)?;
        let mut loader = Loader::new(gguf, activations, progress);
        let n_vocab = loader.row_count("token_embd.weight")?;
        let token_embd = loader.matrix("token_embd.weight", n_vocab, config.n_embd)?;
        let factors = loader.vector_opt("rope_freqs.weight", config.n_rot / 2)?;
        let factors = factors.map(|factors| factors.to_vec1::<f32>()).transpose()?;
        let mut blocks = Vec::new();
        for layer in 0..config.n_layer {
            blocks.push(Block::load(&mut loader, arch, &config, layer)?);
        }
        let output_norm = loader.vector("output_norm.weight", config.n_embd)?;
        // Without a head of its own the model uses the embedding table as one ("tied").
        let output = loader.matrix_opt("output.weight", n_vocab, config.n_embd)?;
        let output = output.unwrap_or_else(|| token_embd.clone());
        loader.finish(arch.name)?;
        let rope = Rope::new(&config, arch.pairing, factors);
        Ok(Self {
            arch,
            config,
            rope,
            token_embd,
            blocks,
            output_norm,
            output,
            n_vocab,
        })
    }
}

impl Block {
    fn load(loader: &mut Loader<'_>, arch: &Arch, config: &Config, layer: usize) -> Result<Self, Error> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (embd, ff) = (config.n_embd, config.n_ff);
        let (attn_sub_norm, ffn_sub_norm) = match arch.sub_norms {
            true => (
                Some(loader.vector(&name("attn_sub_norm.weight"), config.q_len())?),
                Some(loader.vector(&name("ffn_sub_norm.weight"), ff)?),
            ),
            false => (None, None),
        };
        Ok(Self {
            attn_norm: loader.vector(&name("attn_norm.weight"), embd)?,
            q: loader.linear(&name("attn_q"), config.q_len(), embd)?,
            k: loader.linear(&name("attn_k"), config.kv_len(), embd)?,
            v: loader.linear(&name("attn_v"), config.kv_len(), embd)?,
            attn_sub_norm,
            attn_output: loader.linear(&name("attn_output"), embd, config.q_len())?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), embd)?,
            ffn_gate: loader.linear(&name("ffn_gate"), ff, embd)?,
            ffn_up: loader.linear(&name("ffn_up"), ff, embd)?,
            ffn_sub_norm,
            ffn_down: loader.linear(&name("ffn_down"), embd, ff)?,
        })
    }
}
