#[cfg(feature = "trace")]
use crate::AsTensor;
use crate::{Recorder, Tap};

/// One forward call over tokens of one sequence that follow each other: what [`tap!`](crate::tap) needs to know.
///
/// Made by [`Recorder::pass`]. Copies are free.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub struct Pass<'a> {
    recorder: &'a Recorder,
    request: i32,
    first_seq: i64,
}

impl Recorder {
    /// Begins a forward call over the tokens `ids` of `request` at positions `first_seq`, `first_seq + 1`, ...
    /// ([`Recorder::begin_pass`] and [`Recorder::tokens`] in one).
    #[inline]
    pub fn pass<I: Copy + Into<i64>>(&self, request: i32, first_seq: i64, ids: &[I]) -> Pass<'_> {
        self.begin_pass();
        self.tokens(request, first_seq, ids);
        Pass {
            recorder: self,
            request,
            first_seq,
        }
    }
}

impl<'a> Pass<'a> {
    /// The tap of a tensor [tokens, ..] of `stage` in `layer` (a `usize` or an `i32`); another
    /// [`Tap::token_axis`] can be set on it.
    #[inline]
    pub fn tap<'s>(&self, stage: &'s str, layer: impl LayerNumber) -> Tap<'s> {
        Tap::new(stage, layer.number(), self.first_seq)
            .request(self.request)
            .token_axis(0)
    }

    /// Whether anything of `stage` in `layer` is recorded in this call: for what would be computed for the trace alone.
    #[inline]
    pub fn wants(&self, stage: &str, layer: impl LayerNumber) -> bool {
        cfg!(feature = "trace") && self.recorder.wants(&self.tap(stage, layer))
    }

    /// [`Recorder::through`].
    #[cfg(feature = "trace")]
    #[inline]
    pub fn through<T: AsTensor>(&self, tap: Tap<'_>, tensor: T) -> T {
        self.recorder.through(tap, tensor)
    }

    /// The tensor.
    #[cfg(not(feature = "trace"))]
    #[inline(always)]
    pub fn through<T>(&self, _tap: Tap<'_>, tensor: T) -> T {
        tensor
    }

    /// [`Recorder::record`].
    #[cfg(feature = "trace")]
    #[inline]
    pub fn record<T: AsTensor + ?Sized>(&self, tap: Tap<'_>, tensor: &T) {
        self.recorder.record(tap, tensor);
    }

    /// Nothing.
    #[cfg(not(feature = "trace"))]
    #[inline(always)]
    pub fn record<T: ?Sized>(&self, _tap: Tap<'_>, _tensor: &T) {}
}

/// What counts layers: an `i32` as in a [`Tap`], or the `usize` of a loop.
pub trait LayerNumber {
    /// The number as in a tap.
    fn number(self) -> i32;
}

impl LayerNumber for i32 {
    #[inline]
    fn number(self) -> i32 {
        self
    }
}

impl LayerNumber for usize {
    #[inline]
    fn number(self) -> i32 {
        i32::try_from(self).unwrap_or(i32::MAX)
    }
}

/// Computes a stage, records it, and gives on what the engine goes on with: `tap!(pass, stage[layer], tensor)`.
///
/// `pass` is a [`Pass`], `tensor` any expression whose value can be recorded ([`AsTensor`](crate::AsTensor)); the macro's
/// value is that value, moved, or in a [replay](crate::Replay) the stored run's in its place ([`Recorder::through`]). Without `[layer]` the stage belongs to no layer (-1: embeddings, final norm, logits).
/// The first axis counts tokens; what follows the tensor is called on the [`Tap`], to say otherwise or more.
/// Without feature `trace` the macro is its expression.
///
/// ```
/// use bitnet_trace::{Recorder, tap};
///
/// # let recorder = Recorder::off();
/// # let matmul = |_: &[f32]| vec![0.0f32; 2];
/// # let (layer, x) = (0usize, [0.0f32; 2]);
/// let pass = recorder.pass(0, 6, &[504u32, 3575]); // two tokens of request 0, at positions 6 and 7
/// let q = tap!(pass, q_proj[layer], matmul(&x));
/// let probs = tap!(pass, attn_probs[layer], matmul(&q), token_axis(0), op("SOFT_MAX"));
/// let logits = tap!(pass, logits, matmul(&probs));
/// # let _ = logits;
/// ```
#[macro_export]
macro_rules! tap {
    ($pass:expr, $stage:ident[$layer:expr], $tensor:expr $(, $more:ident($($value:expr),*))* $(,)?) => {{
        let tensor = $tensor;
        let pass: &$crate::Pass<'_> = &$pass;
        pass.through(pass.tap(stringify!($stage), $layer) $(.$more($($value),*))*, tensor)
    }};
    ($pass:expr, $stage:ident, $tensor:expr $(, $more:ident($($value:expr),*))* $(,)?) => {
        $crate::tap!($pass, $stage[$crate::LAYER_MODEL], $tensor $(, $more($($value),*))*)
    };
}
