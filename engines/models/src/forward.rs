//! The forward pass: pre-norm blocks of grouped-query attention with RoPE and a gated feed-forward network, with
//! what the architecture adds.
//!
//! Every stage of the trace vocabulary is a value of its own; `tap!(pass, stage[layer], value)` records it and gives
//! it on. `faults.at(stage, layer, op)` computes an operation, but where a fault is planted.

use bitnet_trace::{LAYER_ALL, Pass, tap};
use candle_core::{Result as CandleResult, Tensor};

use crate::fault::Faults;
use crate::kv_cache::{KvCache, LayerCache};
use crate::model::{Block, Model};
use crate::op::Op;
use crate::rope::Rotation;

impl Model {
    /// Computes the tokens `ids` at the positions that follow `cache`, and stores their keys and values in it.
    ///
    /// Returns logits [T, V], or [1, V] of the last token when `last_only`. The ids must lie in the vocabulary.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        last_only: bool,
        pass: Pass<'_>,
        faults: Faults<'_>,
    ) -> CandleResult<Tensor> {
        let first_pos = cache.len();
        let rotation = self.rope.rotation(first_pos, ids.len());
        let table = &self.token_embd;
        let x = faults.at("embeddings", None, Op::Embed { table, ids })?;
        let mut x = tap!(pass, embeddings, x);
        for (layer, block) in self.blocks.iter().enumerate() {
            let step = BlockPass {
                model: self,
                block,
                layer,
                first_pos,
                pass,
                faults,
            };
            let residual = step.attention(&x, &rotation, cache.layer(layer))?;
            x = step.feed_forward(&residual)?;
        }
        cache.advance(ids.len());
        let mut x = tap!(pass, all_layers_out[LAYER_ALL], x);
        if last_only {
            x = x.narrow(0, ids.len() - 1, 1)?.contiguous()?;
        }
        let norm = Op::Norm {
            x: &x,
            weight: &self.output_norm,
            eps: self.config.rms_eps,
        };
        let normed = tap!(pass, final_norm, faults.at("final_norm", None, norm)?);
        let head = Op::Head {
            matrix: &self.output,
            x: &normed,
        };
        Ok(tap!(pass, logits, faults.at("logits", None, head)?))
    }
}

/// One block at work on one batch.
struct BlockPass<'a> {
    model: &'a Model,
    block: &'a Block,
    layer: usize,
    first_pos: usize,
    pass: Pass<'a>,
    faults: Faults<'a>,
}

impl BlockPass<'_> {
    fn compute(&self, stage: &str, op: Op<'_>) -> CandleResult<Tensor> {
        self.faults.at(stage, Some(self.layer), op)
    }

    /// `x` [T, E] plus what attention adds to it.
    fn attention(&self, x: &Tensor, rotation: &Rotation, cache: &mut LayerCache) -> CandleResult<Tensor> {
        let &Self {
            model,
            block,
            layer,
            first_pos,
            pass,
            ..
        } = self;
        let config = &model.config;
        let eps = config.rms_eps;
        let tokens = x.dim(0)?;
        let heads = (tokens, config.n_head, config.head_dim);
        let kv_heads = (tokens, config.n_head_kv, config.head_dim);

        let weight = &block.attn_norm;
        let normed = self.compute("attn_norm", Op::Norm { x, weight, eps })?;
        let normed = tap!(pass, attn_norm[layer], normed);
        let project = |stage, linear| self.compute(stage, Op::Project { linear, x: &normed });
        let q = tap!(pass, q_proj[layer], project("q_proj", &block.q)?).reshape(heads)?;
        let k = tap!(pass, k_proj[layer], project("k_proj", &block.k)?).reshape(kv_heads)?;
        let v = tap!(pass, v_proj[layer], project("v_proj", &block.v)?).reshape(kv_heads)?;

        let q = tap!(
            pass,
            q_rope[layer],
            self.compute("q_rope", Op::Rotate { rotation, x: &q })?
        );
        let k = tap!(
            pass,
            k_rope[layer],
            self.compute("k_rope", Op::Rotate { rotation, x: &k })?
        );

        let k = self.compute("k_cache", Op::Cache { rows: &k })?;
        let v = self.compute("v_cache", Op::Cache { rows: &v })?;
        cache.store(first_pos, &k, &v)?;
        let end = first_pos + tokens;
        let (keys, values) = (&cache.keys(end)?, &cache.values(end)?);
        // The batch's own rows as attention reads them, [kv_heads, T, head_dim].
        if pass.wants("k_cache", layer) {
            tap!(
                pass,
                k_cache[layer],
                keys.narrow(1, first_pos, tokens)?,
                token_axis(1)
            );
        }
        if pass.wants("v_cache", layer) {
            tap!(
                pass,
                v_cache[layer],
                values.narrow(1, first_pos, tokens)?,
                token_axis(1)
            );
        }

        // [heads, T, keys]: of the scores a token's record holds the keys up to itself; of the probabilities every
        // key that the batch saw, for mass on a future key is a finding.
        let scores = self.compute("attn_scores", Op::Scores { q: &q, keys })?;
        let scores = tap!(pass, attn_scores[layer], scores, token_axis(1), causal_axis(2));
        let softmax = Op::Softmax {
            scores: &scores,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            first_pos,
        };
        let probs = self.compute("attn_probs", softmax)?;
        let probs = &tap!(pass, attn_probs[layer], probs, token_axis(1));
        let context = self.compute("attn_ctx", Op::Context { probs, values })?;
        let mut context = tap!(pass, attn_ctx[layer], context);

        if let Some(weight) = &block.attn_sub_norm {
            let x = &context;
            let normed = self.compute("attn_sub_norm", Op::Norm { x, weight, eps })?;
            context = tap!(pass, attn_sub_norm[layer], normed);
        }
        let project = Op::Project {
            linear: &block.attn_output,
            x: &context,
        };
        let out = &tap!(pass, attn_out[layer], self.compute("attn_out", project)?);
        let residual = self.compute("attn_residual", Op::Residual { x, out })?;
        Ok(tap!(pass, attn_residual[layer], residual))
    }

    /// `x` [T, E] plus what the feed-forward network adds to it.
    fn feed_forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let &Self {
            model,
            block,
            layer,
            pass,
            ..
        } = self;
        let eps = model.config.rms_eps;

        let weight = &block.ffn_norm;
        let normed = self.compute("ffn_norm", Op::Norm { x, weight, eps })?;
        let normed = tap!(pass, ffn_norm[layer], normed);
        let project = |stage, linear| self.compute(stage, Op::Project { linear, x: &normed });
        let gate = tap!(pass, ffn_gate[layer], project("ffn_gate", &block.ffn_gate)?);
        let up = tap!(pass, ffn_up[layer], project("ffn_up", &block.ffn_up)?);
        let activate = Op::Gate {
            activation: model.arch.activation,
            gate: &gate,
            up: &up,
        };
        let mut act = tap!(pass, ffn_act[layer], self.compute("ffn_act", activate)?);
        if let Some(weight) = &block.ffn_sub_norm {
            let x = &act;
            let normed = self.compute("ffn_sub_norm", Op::Norm { x, weight, eps })?;
            act = tap!(pass, ffn_sub_norm[layer], normed);
        }
        let project = Op::Project {
            linear: &block.ffn_down,
            x: &act,
        };
        let out = &tap!(pass, ffn_down[layer], self.compute("ffn_down", project)?);
        let residual = self.compute("layer_out", Op::Residual { x, out })?;
        Ok(tap!(pass, layer_out[layer], residual))
    }
}
