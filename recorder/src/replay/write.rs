//! Puts a record's bytes where the engine has its own.

use super::{Place, ReplayError};
use crate::{TensorViewMut, gather::scatter};
use bitnet_trace_schema::DType;
use half::{bf16, f16};

/// A record that is going to be written.
pub(super) struct Slice<'a> {
    pub place: &'a Place,
    pub run: &'a str,
    /// Its elements, row-major.
    pub bytes: &'a [u8],
    pub shape: &'a [i64],
}

/// Turns f32 values into the type that they were kept of, which has each of them exactly.
pub(super) fn narrow(dtype: DType, bytes: &mut Vec<u8>) {
    let narrow: fn(f32) -> [u8; 2] = match dtype {
        DType::F16 => |x| f16::from_f32(x).to_le_bytes(),
        DType::BF16 => |x| bf16::from_f32(x).to_le_bytes(),
        _ => return,
    };
    let count = bytes.len() / 4;
    for i in 0..count {
        let wide = [bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]];
        bytes[2 * i..2 * i + 2].copy_from_slice(&narrow(f32::from_le_bytes(wide)));
    }
    bytes.truncate(2 * count);
}

/// The shape of a token's slice of a tensor: without its token axis, and up to the token's own key.
pub(super) fn slice_shape(
    shape: &[usize],
    token_axis: Option<usize>,
    causal: Option<usize>,
    seq: i64,
) -> Vec<i64> {
    let mut out: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    if let Some(axis) = causal.and_then(|axis| out.get_mut(axis)) {
        *axis = (*axis).min(seq.saturating_add(1));
    }
    if let Some(axis) = token_axis {
        out.remove(axis);
    }
    out
}

/// Whether a record of shape `stored` can be written where `own` is. Probabilities have as many keys as their batch saw:
/// the rest of a row is zero.
pub(super) fn fits(stage: &str, stored: &[i64], own: &[i64]) -> bool {
    let keys = |shape: &[i64]| shape.split_last().map(|(_, rest)| rest.to_vec());
    stored == own || stage == "attn_probs" && stored.len() == own.len() && keys(stored) == keys(own)
}

/// Writes a record over the slice of token `token`, whose own shape is `own`.
pub(super) fn write(
    slice: &Slice<'_>,
    to: &mut TensorViewMut<'_>,
    (token_axis, token): (Option<usize>, usize),
    own: &[i64],
) -> Result<(), ReplayError> {
    let size = to.view().dtype().size();
    let mut padded = Vec::new();
    let bytes = match slice.shape == own {
        true => slice.bytes,
        false => {
            pad(slice, own, size, &mut padded)?;
            &padded
        }
    };
    let mut dims = Vec::new();
    let mut offset = to.view().dims(&mut dims) as isize;
    if let Some(axis) = token_axis.filter(|&axis| axis < dims.len()) {
        let (_, step) = dims.remove(axis);
        offset += step * token as isize;
    }
    for (dim, &extent) in dims.iter_mut().zip(own) {
        dim.0 = dim.0.min(extent as usize);
    }
    scatter(bytes, size, &dims, offset as usize, to.data());
    Ok(())
}

/// Rows of keys with as many zeros as the engine's own have more of them, or fewer where those are zeros.
fn pad(slice: &Slice<'_>, own: &[i64], size: usize, out: &mut Vec<u8>) -> Result<(), ReplayError> {
    let row = |shape: &[i64]| shape.last().map_or(0, |&keys| keys as usize * size);
    let (stored, wanted) = (row(slice.shape), row(own));
    let rows = slice.bytes.len().checked_div(stored).unwrap_or(0);
    let damaged = |cause: &str| ReplayError::Damaged {
        run: slice.run.to_owned(),
        place: slice.place.clone(),
        cause: cause.to_owned(),
    };
    out.try_reserve_exact(rows * wanted)
        .map_err(|_| damaged("no memory for a copy"))?;
    for row in slice.bytes.chunks_exact(stored.max(1)) {
        let (kept, rest) = row.split_at(stored.min(wanted));
        if rest.iter().any(|&b| b != 0) {
            return Err(damaged("it has mass on keys that the engine does not have"));
        }
        out.extend_from_slice(kept);
        out.resize(out.len() + wanted - kept.len(), 0);
    }
    Ok(())
}
