//! The forward pass: pre-norm blocks of grouped-query attention with RoPE and a gated feed-forward network, with
//! what the architecture adds.
//!
//! Every stage of the trace vocabulary is a value of its own; `tap!(pass, stage[layer], value)` records it and gives
//! it on. `faults` computes what it is given, but where a fault is planted.

use bitnet_trace::{LAYER_ALL, Pass, tap};
use candle_core::{Result as CandleResult, Tensor};

use crate::attention;
use crate::fault::Faults;
use crate::kv_cache::{KvCache, LayerCache};
use crate::model::{Block, Model};
use crate::ops::{causal_softmax, rms_norm};
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
        let mut x = tap!(pass, embeddings, self.token_embd.rows(ids)?);
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
        let normed = rms_norm(&x, &self.output_norm, self.config.rms_eps)?;
        let normed = tap!(pass, final_norm, normed);
        Ok(tap!(pass, logits, self.output.apply(&normed)?))
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
    /// `x` [T, E] plus what attention adds to it.
    fn attention(&self, x: &Tensor, rotation: &Rotation, cache: &mut LayerCache) -> CandleResult<Tensor> {
        let &Self {
            model,
            block,
            layer,
            first_pos,
            pass,
            faults,
        } = self;
        let config = &model.config;
        let tokens = x.dim(0)?;
        let heads = (tokens, config.n_head, config.head_dim);
        let kv_heads = (tokens, config.n_head_kv, config.head_dim);

        let normed = faults.attn_norm(layer, config.rms_eps, |eps| rms_norm(x, &block.attn_norm, eps))?;
        let normed = tap!(pass, attn_norm[layer], normed);
        let q = tap!(pass, q_proj[layer], block.q.apply(&normed)?).reshape(heads)?;
        let k = tap!(pass, k_proj[layer], block.k.apply(&normed)?).reshape(kv_heads)?;
        let v = tap!(pass, v_proj[layer], block.v.apply(&normed)?).reshape(kv_heads)?;

        let q = faults.rope(layer, rotation, |rotation| rotation.apply(&q))?;
        let q = tap!(pass, q_rope[layer], q);
        let k = faults.rope(layer, rotation, |rotation| rotation.apply(&k))?;
        let k = tap!(pass, k_rope[layer], k);

        cache.store(first_pos, &k, &v)?;
        let end = first_pos + tokens;
        let (keys, values) = (cache.keys(end)?, cache.values(end)?);
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
        let scores = faults.kv_heads(layer, &keys, 1, |keys| attention::scores(&q, keys))?;
        let scores = tap!(pass, attn_scores[layer], scores, token_axis(1), causal_axis(2));
        let probs = causal_softmax(&scores, 1.0 / (config.head_dim as f32).sqrt(), first_pos)?;
        let probs = tap!(pass, attn_probs[layer], probs, token_axis(1));
        let context = faults.kv_heads(layer, &values, 0, |values| attention::context(&probs, values))?;
        let mut context = tap!(pass, attn_ctx[layer], context);

        if let Some(weight) = &block.attn_sub_norm {
            context = tap!(
                pass,
                attn_sub_norm[layer],
                rms_norm(&context, weight, config.rms_eps)?
            );
        }
        let out = tap!(pass, attn_out[layer], block.attn_output.apply(&context)?);
        let residual = faults.attn_residual(layer, (x + &out)?, &out)?;
        Ok(tap!(pass, attn_residual[layer], residual))
    }

    /// `x` [T, E] plus what the feed-forward network adds to it.
    fn feed_forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let &Self {
            model,
            block,
            layer,
            pass,
            faults,
            ..
        } = self;
        let eps = model.config.rms_eps;

        let normed = faults.ffn_norm(layer, eps, |eps| rms_norm(x, &block.ffn_norm, eps))?;
        let normed = tap!(pass, ffn_norm[layer], normed);
        let gate = tap!(pass, ffn_gate[layer], block.ffn_gate.apply(&normed)?);
        let up = tap!(pass, ffn_up[layer], block.ffn_up.apply(&normed)?);
        let mut act = tap!(pass, ffn_act[layer], model.arch.activation.gated(&gate, &up)?);
        if let Some(weight) = &block.ffn_sub_norm {
            act = tap!(pass, ffn_sub_norm[layer], rms_norm(&act, weight, eps)?);
        }
        let down = tap!(pass, ffn_down[layer], block.ffn_down.apply(&act)?);
        Ok(tap!(pass, layer_out[layer], (x + &down)?))
    }
}
