//! Records the `llama-gguf` engine without a change to it.
//!
//! The engine computes with whatever implements its trait `Backend`. [`Observed`] is such a backend around another one:
//! it calls that, and records what went in and what came out. The weights carry their GGUF names, from which layer and
//! stage follow; the driver says which tokens a forward call is about. Any engine with a trait like this, a
//! vtable of operations or a hook can be recorded in the same way.
//!
//! ```no_run
//! use bitnet_trace::{Engine, Recorder};
//! use llama_gguf::backend::cpu::CpuBackend;
//! use llama_gguf::model::{InferenceContext, Model, ModelLoader};
//! use llama_gguf_recorder::Observed;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let recorder = Recorder::from_env(Engine::new("llama-gguf", "0.14.0"));
//! let backend = Arc::new(Observed::new(CpuBackend::new(), recorder.clone()));
//! let model = ModelLoader::load("model.gguf")?.build_model()?;
//! let mut context = InferenceContext::new(model.config(), backend.clone());
//! let ids = [504, 3575, 282];
//! backend.begin(context.position, &ids);
//! let _logits = model.forward(&ids, &mut context)?;
//! recorder.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! What it cannot see is what the engine computes outside of its backend: biases, scores and probabilities (attention is
//! one operation), and the last layer's output but at the last token, whose residual sum nothing takes in but the
//! final norm.

mod stages;

use bitnet_trace::{Recorder, Slice, Tap, TensorView};
use llama_gguf::backend::{Backend, BackendResult};
use llama_gguf::model::kv_turboquant::TurboQuantKVCache;
use llama_gguf::tensor::{DType, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A backend that records what another one computes.
pub struct Observed<B> {
    inner: B,
    recorder: Recorder,
    place: Mutex<Place>,
}

/// Where the engine is: it takes each layer for one token after the other.
#[derive(Debug, Default)]
struct Place {
    /// Position of the call's first token, and how many there are.
    first_seq: i64,
    tokens: i64,
    layer: i32,
    /// Which of the call's tokens `layer` is computed for.
    token: i64,
}

impl Place {
    fn seq(&self) -> i64 {
        self.first_seq + self.token
    }
}

impl<B: Backend> Observed<B> {
    /// Records what `inner` computes with `recorder`.
    pub fn new(inner: B, recorder: Recorder) -> Self {
        Self {
            inner,
            recorder,
            place: Mutex::default(),
        }
    }

    /// A forward call begins, over the tokens `ids` at positions `first_seq`, `first_seq + 1`, ...
    pub fn begin(&self, first_seq: usize, ids: &[u32]) {
        let first_seq = first_seq as i64;
        self.recorder.begin_pass();
        self.recorder.tokens(0, first_seq, ids);
        *self.place() = Place {
            first_seq,
            tokens: ids.len() as i64,
            layer: -1,
            token: 0,
        };
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what went into an operation with `weight` and what came out.
    fn beside(&self, weight: &Tensor, op: &str, input: &Tensor, output: &Tensor) {
        let name = weight.name().unwrap_or("");
        let Some((layer, (before, after))) = stages::of_weight(name) else {
            return;
        };
        let mut place = self.place();
        if before == Some("layer_out") {
            place.token = if place.layer == layer { place.token + 1 } else { 0 };
        } else if layer < 0 {
            place.token = place.tokens - 1; // of the last token alone
        }
        place.layer = layer;
        let (before, at) = match before {
            Some("layer_out") if layer == 0 => (Some("embeddings"), -1),
            Some("layer_out") => (before, layer - 1),
            Some("all_layers_out") => (before, bitnet_trace::LAYER_ALL),
            _ => (before, layer),
        };
        if let Some(stage) = before {
            self.record(Tap::new(stage, at, place.seq()).name(name), input);
        }
        if let Some(stage) = after {
            self.record(Tap::new(stage, layer, place.seq()).name(name).op(op), output);
        }
    }

    /// Records one token's tensor, whose dimensions of one element are left out.
    fn record(&self, tap: Tap<'_>, tensor: &Tensor) {
        if !self.recorder.wants(&tap) {
            return;
        }
        let shape: Vec<usize> = tensor.shape().iter().copied().filter(|&n| n != 1).collect();
        match tensor.as_f32() {
            Ok(values) => self.recorder.record(tap, &Slice::new(values, &shape)),
            Err(error) => self.recorder.drop_tensor(tap, &error.to_string()),
        }
    }

    /// Records a position's row of a cache [heads, positions, n].
    fn cached(&self, stage: &str, place: &Place, cache: &Tensor) {
        let tap = Tap::new(stage, place.layer, place.seq());
        let (&[heads, positions, n], Ok(row)) = (cache.shape(), usize::try_from(place.seq())) else {
            return self.recorder.drop_tensor(tap, "a cache of another shape");
        };
        match cache.as_f32() {
            Ok(values) => {
                let shape = [heads, n];
                let strides = [(positions * n) as isize, 1];
                let view = TensorView::new(bitnet_trace::DType::F32, &shape, bitnet_trace::bytes_of(values));
                self.recorder.record(tap, &view.strides(&strides).offset(row * n));
            }
            Err(error) => self.recorder.drop_tensor(tap, &error.to_string()),
        }
    }
}

impl<B: Backend> Backend for Observed<B> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn is_available(&self) -> bool {
        self.inner.is_available()
    }

    fn alloc(&self, shape: &[usize], dtype: DType) -> BackendResult<Tensor> {
        self.inner.alloc(shape, dtype)
    }

    fn copy_to(&self, tensor: &Tensor) -> BackendResult<Tensor> {
        self.inner.copy_to(tensor)
    }

    fn add(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.add(a, b, out)
    }

    fn mul(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.mul(a, b, out)
    }

    fn scale(&self, a: &Tensor, scalar: f32, out: &mut Tensor) -> BackendResult<()> {
        self.inner.scale(a, scalar, out)
    }

    fn silu(&self, x: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.silu(x, out)
    }

    fn gelu(&self, x: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.gelu(x, out)
    }

    fn softmax(&self, x: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.softmax(x, out)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32, out: &mut Tensor) -> BackendResult<()> {
        self.inner.rms_norm(x, weight, eps, out)?;
        self.beside(weight, "rms_norm", x, out);
        Ok(())
    }

    fn matmul(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.matmul(a, b, out)
    }

    fn matvec(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.matvec(a, b, out)
    }

    fn vec_mat(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.vec_mat(a, b, out)?;
        self.beside(b, "vec_mat", a, out);
        Ok(())
    }

    fn dequantize(&self, src: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.dequantize(src, out)
    }

    fn matvec_q(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.matvec_q(a, b, out)
    }

    fn vec_mat_q(&self, a: &Tensor, b: &Tensor, out: &mut Tensor) -> BackendResult<()> {
        self.inner.vec_mat_q(a, b, out)?;
        self.beside(b, "vec_mat_q", a, out);
        Ok(())
    }

    fn rope(
        &self,
        q: &mut Tensor,
        k: &mut Tensor,
        pos: usize,
        freq_base: f32,
        freq_scale: f32,
        use_neox: bool,
    ) -> BackendResult<()> {
        self.inner.rope(q, k, pos, freq_base, freq_scale, use_neox)?;
        let layer = self.place().layer;
        self.record(Tap::new("q_rope", layer, pos as i64).op("rope"), q);
        self.record(Tap::new("k_rope", layer, pos as i64).op("rope"), k);
        Ok(())
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &mut Tensor,
        scale: f32,
    ) -> BackendResult<()> {
        self.inner.attention(q, k, v, out, scale)
    }

    fn flash_attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &mut Tensor,
        scale: f32,
        causal: bool,
    ) -> BackendResult<()> {
        self.inner.flash_attention(q, k, v, out, scale, causal)
    }

    fn attention_cached(
        &self,
        q: &Tensor,
        k_cache: &Tensor,
        v_cache: &Tensor,
        out: &mut Tensor,
        scale: f32,
        kv_len: usize,
    ) -> BackendResult<()> {
        let place = self.place();
        self.cached("k_cache", &place, k_cache);
        self.cached("v_cache", &place, v_cache);
        drop(place);
        self.inner
            .attention_cached(q, k_cache, v_cache, out, scale, kv_len)
    }

    fn attention_turboquant(
        &self,
        queries: &[f32],
        tq_cache: &TurboQuantKVCache,
        layer_idx: usize,
        num_heads: usize,
        scale: f32,
    ) -> BackendResult<Vec<f32>> {
        self.inner
            .attention_turboquant(queries, tq_cache, layer_idx, num_heads, scale)
    }
}
