use crate::{AsTensor, Recorder, Tap, TensorError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bit of the layers that have none of their own.
const DEEP: u32 = 63;

/// A tracepoint of one stage, made once and kept by the engine: [`Site::wants`] is a load and a test of one bit.
///
/// ```
/// # use bitnet_trace::{Recorder, Slice};
/// # let recorder = Recorder::off();
/// let q_proj = recorder.site("q_proj"); // when the engine is set up
/// # let (layer, first_seq, q) = (0, 0, [0.0f32; 6]);
/// if q_proj.wants(layer) {
///     q_proj.record(q_proj.tap(layer, first_seq).token_axis(0), &Slice::new(&q, &[2, 3]));
/// }
/// ```
///
/// A site holds its recorder as a clone of it does: the run is sealed by [`Recorder::finish`], or when the last of
/// both is dropped.
// the C header reads the first field
#[repr(C)]
#[derive(Debug)]
pub struct Site {
    /// Bit layer + 2 says whether anything of the layer may be wanted, [`DEEP`] for all that are deeper. 0 where
    /// nothing can be any more.
    mask: AtomicU64,
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    recorder: Recorder,
    stage: String,
}

/// The bit of a layer; of one that cannot be, too, so that it is refused and counted.
#[inline]
const fn bit(layer: i32) -> u32 {
    let n = layer.wrapping_sub(bitnet_trace_schema::LAYER_ALL) as u32;
    if n < DEEP { n } else { DEEP }
}

impl Site {
    pub(crate) fn new(recorder: &Recorder, stage: &str) -> Self {
        if !recorder.is_on() {
            return Self::off();
        }
        let layers =
            (0..DEEP).filter(|&n| recorder.wants_layer(stage, n as i32 + bitnet_trace_schema::LAYER_ALL));
        let mask = layers.fold(1 << DEEP, |mask, n| mask | 1 << n);
        Self {
            mask: AtomicU64::new(mask),
            inner: Some(Arc::new(Inner {
                recorder: recorder.clone(),
                stage: stage.to_owned(),
            })),
        }
    }

    /// A tracepoint that never wants anything.
    pub const fn off() -> Self {
        Self {
            mask: AtomicU64::new(0),
            inner: None,
        }
    }

    #[inline]
    fn may_want(&self, layer: i32) -> bool {
        self.mask.load(Ordering::Relaxed) >> bit(layer) & 1 != 0
    }

    /// Whether any token of this stage's tensor in `layer` may be recorded: false where the selection takes nothing
    /// of the layer, when the recorder is off, after a failure, after the end, and in a forked child.
    #[inline]
    pub fn wants(&self, layer: i32) -> bool {
        self.may_want(layer) && self.confirm(layer)
    }

    /// Asks the recorder itself, where the mask does not know or no longer holds.
    #[inline(never)]
    fn confirm(&self, layer: i32) -> bool {
        let Some(inner) = &self.inner else { return false };
        if inner.recorder.is_over() {
            self.mask.store(0, Ordering::Relaxed);
            return false;
        }
        inner.recorder.is_on() && (bit(layer) != DEEP || inner.recorder.wants_layer(&inner.stage, layer))
    }

    /// The recorder that it records with; one that is off where it was when the site was made.
    #[inline]
    pub fn recorder(&self) -> &Recorder {
        static OFF: Recorder = Recorder::off();
        self.inner.as_deref().map_or(&OFF, |inner| &inner.recorder)
    }

    /// A tap of this stage, as [`Tap::new`] makes it.
    #[inline]
    pub fn tap(&self, layer: i32, seq: i64) -> Tap<'_> {
        Tap::new(self.stage(), layer, seq)
    }

    /// The stage; empty where the recorder was off.
    #[inline]
    pub fn stage(&self) -> &str {
        self.inner.as_deref().map_or("", |inner| &inner.stage)
    }

    /// [`Recorder::record`] of a tensor of this stage, whatever stage the tap names.
    #[inline]
    pub fn record<T: AsTensor + ?Sized>(&self, tap: Tap<'_>, tensor: &T) {
        let _ = self.try_record(tap, tensor);
    }

    /// [`Recorder::try_record`] of a tensor of this stage, whatever stage the tap names.
    ///
    /// # Errors
    /// Those of [`Recorder::try_record`].
    #[inline]
    pub fn try_record<T: AsTensor + ?Sized>(&self, tap: Tap<'_>, tensor: &T) -> Result<(), TensorError> {
        if !self.may_want(tap.layer) {
            return Ok(());
        }
        match &self.inner {
            Some(inner) => (inner.recorder).try_record(
                Tap {
                    stage: &inner.stage,
                    ..tap
                },
                tensor,
            ),
            None => Ok(()),
        }
    }
}

impl Clone for Site {
    fn clone(&self) -> Self {
        Self {
            mask: AtomicU64::new(self.mask.load(Ordering::Relaxed)),
            inner: self.inner.clone(),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::off()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_has_a_bit_and_those_without_share_one() {
        assert_eq!([-2, -1, 0, 60].map(bit), [0, 1, 2, 62]);
        assert_eq!([61, 1 << 20, i32::MAX, -3, i32::MIN].map(bit), [DEEP; 5]);
    }
}
