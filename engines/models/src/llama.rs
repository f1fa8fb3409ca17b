//! Architecture `llama`: pre-norm blocks of grouped-query attention with RoPE and
//! a SiLU-gated feed-forward network.
//!
//! The forward pass is written so that every stage of the trace vocabulary is a
//! value of its own; `pass.record(stage, layer, &tensor)` follows each.

use candle_core::{Result as CandleResult, Tensor};

use crate::attention;
use crate::config::Config;
use crate::error::Error;
#[cfg(feature = "faults")]
use crate::fault::Faults;
use crate::gguf::Gguf;
use crate::kv_cache::{KvCache, LayerCache};
use crate::ops::{Activation, causal_softmax, rms_norm};
use crate::rope::{Pairing, Rope, Rotation};
use crate::taps::{ALL_LAYERS, NO_LAYER, Pass};
use crate::weights::{Linear, Loader, Matrix};

struct Block {
    attn_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    attn_output: Linear,
    ffn_norm: Tensor,
    ffn_gate: Linear,
    ffn_up: Linear,
    ffn_down: Linear,
}

/// The weights of a `llama` model.
pub(crate) struct Llama {
    config: Config,
    rope: Rope,
    activation: Activation,
    token_embd: Matrix,
    blocks: Vec<Block>,
    output_norm: Tensor,
    output: Matrix,
    n_vocab: usize,
}

impl Llama {
    /// Reads all weights; `progress` is told bytes read and bytes in all.
    pub(crate) fn load(gguf: &Gguf, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Error> {
        let config = Config::from_gguf(gguf, "llama")?;
        let mut loader = Loader::new(gguf, progress);
        let n_vocab = loader.row_count("token_embd.weight")?;
        let token_embd = loader.matrix("token_embd.weight", n_vocab, config.n_embd)?;
        let factors = loader.vector_opt("rope_freqs.weight", config.n_rot / 2)?;
        let factors = factors.map(|factors| factors.to_vec1::<f32>()).transpose()?;
        let mut blocks = Vec::new();
        for layer in 0..config.n_layer {
            blocks.push(Block::load(&mut loader, &config, layer)?);
        }
        let output_norm = loader.vector("output_norm.weight", config.n_embd)?;
        // Without a head of its own the model uses the embedding table as one ("tied").
        let output = loader.matrix_opt("output.weight", n_vocab, config.n_embd)?;
        let output = output.unwrap_or_else(|| token_embd.clone());
        loader.finish(&config.arch)?;
        let rope = Rope::new(&config, Pairing::Interleaved, factors);
        Ok(Self {
            config,
            rope,
            activation: Activation::Silu,
            token_embd,
            blocks,
            output_norm,
            output,
            n_vocab,
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Rows of the embedding table.
    pub(crate) fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Computes the tokens `ids` at the positions that follow `cache`, and stores their keys and values in it.
    ///
    /// Returns logits [T, V], or [1, V] of the last token when `last_only`. The ids must lie in the vocabulary.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        last_only: bool,
        pass: &Pass<'_>,
        #[cfg(feature = "faults")] faults: &Faults<'_>,
    ) -> CandleResult<Tensor> {
        let first_pos = cache.len();
        let rotation = self.rope.rotation(first_pos, ids.len());
        let mut x = self.token_embd.rows(ids)?;
        pass.record("embeddings", NO_LAYER, &x);
        for (layer, block) in self.blocks.iter().enumerate() {
            let step = BlockPass {
                model: self,
                block,
                layer,
                first_pos,
                pass,
                #[cfg(feature = "faults")]
                faults,
            };
            let residual = step.attention(&x, &rotation, cache.layer(layer))?;
            x = step.feed_forward(&residual)?;
        }
        cache.advance(ids.len());
        pass.record("all_layers_out", ALL_LAYERS, &x);
        if last_only {
            x = x.narrow(0, ids.len() - 1, 1)?.contiguous()?;
        }
        let x = rms_norm(&x, &self.output_norm, self.config.rms_eps)?;
        pass.record("final_norm", NO_LAYER, &x);
        let logits = self.output.apply(&x)?;
        pass.record("logits", NO_LAYER, &logits);
        Ok(logits)
    }
}

impl Block {
    fn load(loader: &mut Loader<'_>, config: &Config, layer: usize) -> Result<Self, Error> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (embd, ff) = (config.n_embd, config.n_ff);
        Ok(Self {
            attn_norm: loader.vector(&name("attn_norm.weight"), embd)?,
            q: loader.linear(&name("attn_q"), config.q_len(), embd)?,
            k: loader.linear(&name("attn_k"), config.kv_len(), embd)?,
            v: loader.linear(&name("attn_v"), config.kv_len(), embd)?,
            attn_output: loader.linear(&name("attn_output"), embd, config.q_len())?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), embd)?,
            ffn_gate: loader.linear(&name("ffn_gate"), ff, embd)?,
            ffn_up: loader.linear(&name("ffn_up"), ff, embd)?,
            ffn_down: loader.linear(&name("ffn_down"), embd, ff)?,
        })
    }
}

/// One block at work on one batch.
struct BlockPass<'a> {
    model: &'a Llama,
    block: &'a Block,
    layer: usize,
    first_pos: usize,
    pass: &'a Pass<'a>,
    #[cfg(feature = "faults")]
    faults: &'a Faults<'a>,
}

impl BlockPass<'_> {
    fn record(&self, stage: &str, tensor: &Tensor) {
        self.pass.record(stage, self.layer as i32, tensor);
    }

    /// `x` [T, E] plus what attention adds to it.
    fn attention(&self, x: &Tensor, rotation: &Rotation, cache: &mut LayerCache) -> CandleResult<Tensor> {
        let (block, config) = (self.block, &self.model.config);
        let tokens = x.dim(0)?;
        let heads = (tokens, config.n_head, config.head_dim);
        let kv_heads = (tokens, config.n_head_kv, config.head_dim);

        let normed = rms_norm(x, &block.attn_norm, config.rms_eps)?;
        #[cfg(feature = "faults")]
        let normed = self
            .faults
            .attn_norm(self.layer, normed, |eps| rms_norm(x, &block.attn_norm, eps))?;
        self.record("attn_norm", &normed);

        let q = block.q.apply(&normed)?;
        self.record("q_proj", &q);
        let k = block.k.apply(&normed)?;
        self.record("k_proj", &k);
        let v = block.v.apply(&normed)?;
        self.record("v_proj", &v);

        let (q, k, v) = (q.reshape(heads)?, k.reshape(kv_heads)?, v.reshape(kv_heads)?);
        let (q_rope, k_rope) = (rotation.apply(&q)?, rotation.apply(&k)?);
        #[cfg(feature = "faults")]
        let (q_rope, k_rope) = {
            let rotate = |x: &Tensor, base| {
                self.model
                    .rope
                    .with_base(base)
                    .rotation(self.first_pos, tokens)
                    .apply(x)
            };
            let q_rope = self.faults.rope(self.layer, q_rope, |base| rotate(&q, base))?;
            (
                q_rope,
                self.faults.rope(self.layer, k_rope, |base| rotate(&k, base))?,
            )
        };
        self.record("q_rope", &q_rope);
        self.record("k_rope", &k_rope);

        cache.store(self.first_pos, &k_rope, &v)?;
        let end = self.first_pos + tokens;
        let (keys, values) = (cache.keys(end)?, cache.values(end)?);
        for (stage, cached) in [("k_cache", &keys), ("v_cache", &values)] {
            if self.pass.wants(stage, self.layer as i32) {
                let rows = cached.narrow(1, self.first_pos, tokens)?;
                self.pass.record_cached(stage, self.layer as i32, &rows);
            }
        }

        let scores = attention::scores(&q_rope, &keys)?;
        #[cfg(feature = "faults")]
        let scores = self
            .faults
            .scores(self.layer, scores, &keys, |keys| attention::scores(&q_rope, keys))?;
        self.pass.record_scores("attn_scores", self.layer as i32, &scores);
        let probs = causal_softmax(&scores, 1.0 / (config.head_dim as f32).sqrt(), self.first_pos)?;
        self.pass.record_probs("attn_probs", self.layer as i32, &probs);
        let context = attention::context(&probs, &values)?;
        #[cfg(feature = "faults")]
        let context = self.faults.context(self.layer, context, &values, |values| {
            attention::context(&probs, values)
        })?;
        self.record("attn_ctx", &context);

        let out = block.attn_output.apply(&context)?;
        self.record("attn_out", &out);
        let residual = (x + &out)?;
        #[cfg(feature = "faults")]
        let residual = self.faults.attn_residual(self.layer, residual, &out)?;
        self.record("attn_residual", &residual);
        Ok(residual)
    }

    /// `x` [T, E] plus what the feed-forward network adds to it.
    fn feed_forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let (block, eps) = (self.block, self.model.config.rms_eps);

        let normed = rms_norm(x, &block.ffn_norm, eps)?;
        #[cfg(feature = "faults")]
        let normed = self
            .faults
            .ffn_norm(self.layer, normed, |eps| rms_norm(x, &block.ffn_norm, eps))?;
        self.record("ffn_norm", &normed);

        let gate = block.ffn_gate.apply(&normed)?;
        self.record("ffn_gate", &gate);
        let up = block.ffn_up.apply(&normed)?;
        self.record("ffn_up", &up);
        let act = self.model.activation.gated(&gate, &up)?;
        self.record("ffn_act", &act);
        let down = block.ffn_down.apply(&act)?;
        self.record("ffn_down", &down);

        let out = (x + &down)?;
        self.record("layer_out", &out);
        Ok(out)
    }
}
