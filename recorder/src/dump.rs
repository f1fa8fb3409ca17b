use crate::{AsTensor, Engine, Recorder, Tap, TensorError, exit};

/// Records a tensor with the process-wide recorder ([`Recorder::global`], set up by the environment): the call of
/// an older tracing crate, for engines that have it at their tracepoints.
///
/// The tensor belongs to the token at position `seq` (0 without one) as a whole. Without a `layer` it belongs to none
/// (-1), without a `stage` the stage is its `name`.
///
/// ```
/// use bitnet_trace::dump_trace;
///
/// # fn main() -> Result<(), bitnet_trace::TensorError> {
/// let hidden = vec![0.0f32; 64];
/// dump_trace("t0/blk0/attn_norm", &hidden, Some(0), Some(0), Some("attn_norm"))?;
/// dump_trace("blk1.attn_norm", &hidden, 3, 1, "attn_norm")?;
/// dump_trace("logits", &hidden, 3, None, None)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`Recorder::try_record`]: why the tensor was not taken, which the manifest counts as well.
#[inline]
pub fn dump_trace<'a, T: AsTensor + ?Sized>(
    name: &'a str,
    tensor: &T,
    seq: impl Into<Option<usize>>,
    layer: impl Into<Option<isize>>,
    stage: impl Into<Option<&'a str>>,
) -> Result<(), TensorError> {
    let recorder = exit::global(|| Recorder::from_env(Engine::new("unknown", "")));
    if !recorder.is_on() {
        return Ok(());
    }
    // what does not fit is no key: it is refused and counted as such
    let seq = i64::try_from(seq.into().unwrap_or(0)).unwrap_or(i64::MIN);
    let layer = i32::try_from(layer.into().unwrap_or(-1)).unwrap_or(i32::MIN);
    let stage = stage.into().unwrap_or(name);
    recorder.try_record(Tap::new(stage, layer, seq).name(name), tensor)
}
