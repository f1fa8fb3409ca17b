//! A tensor on its way to the writer: checked, copied, and cut along its token axis.

use crate::{DType, Tap, TensorError, TensorView, gather::gather, select::request};
use bitnet_trace_schema::selection::Tokens;

/// Most bytes of a tensor, and of the stored elements of one slice: a Parquet page's size is an i32, and
/// its levels need some of it.
const MAX_BYTES: u128 = (1 << 31) - (64 << 10);
/// Most tokens of one tensor.
const MAX_TOKENS: usize = 1 << 20;

/// How a tensor divides into slices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'s> {
    tokens: usize,
    /// The tokens that are wanted; `None` is all of them.
    selected: Option<Tokens<'s>>,
    /// How many they are.
    wanted: usize,
    /// Axis of the tensor.
    token_axis: Option<usize>,
    /// Axis of a slice.
    causal_axis: Option<usize>,
    /// Bytes of the slices that are wanted.
    pub bytes: usize,
}

/// A tensor's slices, back to back, and what is known of them. Reused from tensor to tensor.
#[derive(Debug)]
pub(crate) struct Job {
    pub stage: String,
    pub name: String,
    pub op: String,
    pub layer: i32,
    pub dtype: DType,
    pub op_index: i64,
    pub pass: i32,
    /// Position and request of each slice.
    pub tokens: Vec<(i64, i32)>,
    /// Shape of a slice, before the causal cut.
    shape: Vec<usize>,
    causal_axis: Option<usize>,
    pub data: Vec<u8>,
    /// Bytes that the queue holds reserved for it.
    pub reserved: usize,
    dims: Vec<(usize, isize)>,
    slice_dims: Vec<(usize, isize)>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            stage: String::new(),
            name: String::new(),
            op: String::new(),
            layer: 0,
            dtype: DType::F32,
            op_index: 0,
            pass: 0,
            tokens: Vec::new(),
            shape: Vec::new(),
            causal_axis: None,
            data: Vec::new(),
            reserved: 0,
            dims: Vec::new(),
            slice_dims: Vec::new(),
        }
    }
}

impl<'s> Plan<'s> {
    /// Checks a tensor and its tap against each other. Nothing is read or allocated.
    pub fn new(
        tap: &Tap<'_>,
        view: &TensorView<'_>,
        selected: Option<Tokens<'s>>,
    ) -> Result<Self, TensorError> {
        if tap.stage.is_empty() || tap.layer < bitnet_trace_schema::LAYER_ALL {
            return Err(TensorError::Key {
                stage: tap.stage.to_owned(),
                layer: tap.layer,
            });
        }
        view.check()?;
        let shape = view.shape();
        let tokens = match tap.token_axis {
            None => 1,
            Some(axis) => *shape.get(axis).ok_or(TensorError::TokenAxis {
                axis,
                dims: shape.len(),
            })?,
        };
        if let Some(axis) = tap.causal_axis
            && (axis >= shape.len() || tap.token_axis == Some(axis))
        {
            return Err(TensorError::CausalAxis {
                axis,
                dims: shape.len(),
                token_axis: tap.token_axis,
            });
        }
        check_packed(tap, view)?;
        if tokens > MAX_TOKENS {
            return Err(TensorError::TooManyTokens(tokens));
        }
        check_tokens(tap, tokens)?;
        let mut plan = Self {
            tokens,
            selected,
            wanted: 0,
            token_axis: tap.token_axis,
            causal_axis: tap.causal_axis.map(|axis| match tap.token_axis {
                Some(token_axis) if token_axis < axis => axis - 1,
                _ => axis,
            }),
            bytes: 0,
        };
        plan.wanted = match selected {
            None => tokens,
            Some(_) => plan.wanted_tokens(tap).count(),
        };
        plan.bytes = plan.size(tap, view)?;
        Ok(plan)
    }

    /// Whether the tensor has tokens, and none of them is wanted.
    pub fn is_unwanted(&self) -> bool {
        self.wanted == 0 && self.tokens > 0
    }

    /// The tokens that are wanted, in order.
    pub fn wanted_tokens<'a>(&'a self, tap: &'a Tap<'_>) -> impl Iterator<Item = usize> + 'a {
        (0..self.tokens).filter(move |&i| match &self.selected {
            None => true,
            Some(selected) => selected.wants(position(tap, i), request(tap, i)),
        })
    }

    /// Bytes that the job takes beside its tensor.
    pub fn beside(&self, tap: &Tap<'_>) -> usize {
        let text = tap.stage.len() + tap.name.len() + tap.op.len();
        (self.wanted * size_of::<(i64, i32)>()).saturating_add(text)
    }

    /// Bytes of the slices that are wanted, each of which a page can hold.
    fn size(&self, tap: &Tap<'_>, view: &TensorView<'_>) -> Result<usize, TensorError> {
        // elements of a slice, but for the causal axis; below 2^64 as the view was checked
        let (mut fixed, mut keys) = (1u128, 1);
        let mut slice_axis = 0;
        for (axis, &extent) in view.shape().iter().enumerate() {
            if Some(axis) == self.token_axis {
                continue;
            }
            if Some(slice_axis) == self.causal_axis {
                keys = extent;
            } else {
                fixed = fixed.saturating_mul(extent as u128);
            }
            slice_axis += 1;
        }
        let dtype = view.dtype();
        // packed elements become f32 for their statistics
        let stored = match dtype.fits_f32() || dtype.is_packed() {
            true => 4,
            false => dtype.size(),
        };
        let (mut total, mut largest) = (0u128, 0u128);
        for i in self.wanted_tokens(tap) {
            let keys = match self.causal_axis {
                Some(_) => visible(position(tap, i), keys),
                None => keys,
            };
            let elements = fixed.saturating_mul(keys as u128);
            let bytes = (elements / dtype.block() as u128).saturating_mul(dtype.size() as u128);
            let tail = if elements > 0 { dtype.tail() } else { 0 };
            total = total.saturating_add(bytes).saturating_add(tail as u128);
            largest = largest.max(elements.saturating_mul(stored as u128));
        }
        if total.max(largest) >= MAX_BYTES {
            return Err(TensorError::TooLarge(total.max(largest)));
        }
        Ok(total as usize)
    }
}

/// Tokens and keys don't divide the blocks of a packed dtype, nor share its one scale.
fn check_packed(tap: &Tap<'_>, view: &TensorView<'_>) -> Result<(), TensorError> {
    let dtype = view.dtype();
    let refused = |problem| Err(TensorError::Packed { dtype, problem });
    let row = view.shape().len().checked_sub(1);
    match [tap.token_axis, tap.causal_axis] {
        [None, None] => Ok(()),
        _ if dtype.tail() > 0 => refused("it has one scale for all of its tokens"),
        axes if dtype.is_packed() && axes.contains(&row) => refused("its tokens or keys stand inside blocks"),
        _ => Ok(()),
    }
}

/// Positions and requests: as many as there are tokens, and none below 0.
fn check_tokens(tap: &Tap<'_>, tokens: usize) -> Result<(), TensorError> {
    let per_token = |what, found| {
        (found == tokens)
            .then_some(())
            .ok_or(TensorError::PerToken { what, found, tokens })
    };
    if let Some(requests) = tap.requests {
        per_token("requests", requests.len())?;
    }
    match tap.positions {
        Some(positions) => {
            per_token("positions", positions.len())?;
            match positions.iter().find(|&&p| p < 0) {
                Some(&p) => Err(TensorError::Position(p)),
                None => Ok(()),
            }
        }
        None if tap.seq < 0 || tap.seq.checked_add(tokens as i64).is_none() => {
            Err(TensorError::Position(tap.seq))
        }
        None => Ok(()),
    }
}

pub(crate) fn position(tap: &Tap<'_>, token: usize) -> i64 {
    match tap.positions {
        Some(positions) => positions[token],
        None => tap.seq + token as i64,
    }
}

/// How many of `keys` keys the token at position `seq` can see.
fn visible(seq: i64, keys: usize) -> usize {
    keys.min((seq as usize).saturating_add(1))
}

impl Job {
    /// Bytes that its buffers hold, used or not.
    pub fn capacity(&self) -> usize {
        self.data.capacity() + self.tokens.capacity() * size_of::<(i64, i32)>()
    }

    /// Copies a tensor that `plan` was made for.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`]: an allocation that fails otherwise ends the host.
    pub fn fill(&mut self, tap: &Tap<'_>, view: &TensorView<'_>, plan: &Plan<'_>) -> Result<(), TensorError> {
        self.data.clear();
        self.tokens.clear();
        (self.data.try_reserve(plan.bytes))
            .and_then(|()| self.tokens.try_reserve(plan.wanted))
            .map_err(|_| TensorError::OutOfMemory(plan.bytes))?;
        replace(&mut self.stage, tap.stage);
        replace(&mut self.name, tap.name);
        replace(&mut self.op, tap.op);
        self.layer = tap.layer;
        self.dtype = view.dtype();
        self.causal_axis = plan.causal_axis;
        let wanted = plan.wanted_tokens(tap);
        self.tokens
            .extend(wanted.map(|i| (position(tap, i), request(tap, i))));
        let offset = view.dims(&mut self.dims);
        let token_dim = plan.token_axis.map(|axis| self.dims.remove(axis));
        self.shape.clear();
        let extents = view.shape().iter().enumerate();
        let of_slice = extents.filter(|&(axis, _)| Some(axis) != plan.token_axis);
        self.shape.extend(of_slice.map(|(_, &extent)| extent));
        if plan.bytes > 0 {
            self.copy(tap, view, plan, token_dim, offset);
        }
        Ok(())
    }

    /// Copies the slices one behind the other: all at once, or each by itself where their sizes differ or
    /// not all are wanted.
    fn copy(
        &mut self,
        tap: &Tap<'_>,
        view: &TensorView<'_>,
        plan: &Plan<'_>,
        token_dim: Option<(usize, isize)>,
        offset: usize,
    ) {
        let size = view.dtype().size();
        if self.causal_axis.is_none() && plan.wanted == plan.tokens {
            if let Some(dim) = token_dim {
                self.dims.insert(0, dim);
            }
            gather(view.data(), size, &mut self.dims, offset, &mut self.data);
            if let (blocks, tail @ 1..) = (self.data.len(), view.dtype().tail()) {
                self.data.extend_from_slice(&view.data()[blocks..blocks + tail]);
            }
            return;
        }
        let step = token_dim.map_or(0, |(_, stride)| stride);
        for (i, &(seq, _)) in plan.wanted_tokens(tap).zip(&self.tokens) {
            self.slice_dims.clear();
            self.slice_dims.extend_from_slice(&self.dims);
            if let Some(axis) = self.causal_axis {
                self.slice_dims[axis].0 = visible(seq, self.shape[axis]);
            }
            let first = (offset as isize).wrapping_add(step.wrapping_mul(i as isize)) as usize;
            gather(view.data(), size, &mut self.slice_dims, first, &mut self.data);
        }
    }

    /// Puts the shape of slice `token` into `shape` and returns its number of elements.
    pub fn slice_shape(&self, token: usize, shape: &mut Vec<i64>) -> usize {
        shape.clear();
        shape.extend(self.shape.iter().map(|&extent| extent as i64));
        if let (Some(axis), Some(&(seq, _))) = (self.causal_axis, self.tokens.get(token)) {
            shape[axis] = visible(seq, self.shape[axis]) as i64;
        }
        // no overflow: a shape of more elements is refused, unless an extent is 0
        if shape.contains(&0) {
            0
        } else {
            shape.iter().product::<i64>() as usize
        }
    }
}

fn replace(text: &mut String, with: &str) {
    text.clear();
    text.push_str(with);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes_of;
    use bitnet_trace_schema::selection::Selection;

    /// Position, request, shape and values.
    type Found = (i64, i32, Vec<i64>, Vec<f32>);

    fn slices(tap: Tap<'_>, shape: &[usize], data: &[f32]) -> Result<Vec<Found>, TensorError> {
        selected("", tap, shape, data)
    }

    fn selected(
        selection: &str,
        tap: Tap<'_>,
        shape: &[usize],
        data: &[f32],
    ) -> Result<Vec<Found>, TensorError> {
        let view = TensorView::new(DType::F32, shape, bytes_of(data));
        let selection: Selection = selection.parse().expect("a selection");
        let tokens = selection.tokens(tap.stage, tap.layer);
        let plan = Plan::new(&tap, &view, (!selection.is_everything()).then_some(tokens))?;
        let mut job = Job::default();
        job.fill(&tap, &view, &plan)?;
        assert_eq!(job.data.len(), plan.bytes);
        let values: Vec<f32> = job
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let (mut shape, mut at) = (vec![], 0);
        Ok((0..job.tokens.len())
            .map(|i| {
                let n = job.slice_shape(i, &mut shape);
                at += n;
                (
                    job.tokens[i].0,
                    job.tokens[i].1,
                    shape.clone(),
                    values[at - n..at].to_vec(),
                )
            })
            .collect())
    }

    #[test]
    fn a_tensor_is_cut_along_its_token_axis() {
        let data: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let tap = Tap::new("q_rope", 0, 4);
        let row = |seq, values: &[f32]| (seq, 0, vec![values.len() as i64], values.to_vec());
        assert_eq!(
            slices(tap.token_axis(0), &[2, 3], &data),
            Ok(vec![row(4, &[0.0, 1.0, 2.0]), row(5, &[3.0, 4.0, 5.0])])
        );
        assert_eq!(
            slices(tap.token_axis(1), &[2, 3], &data),
            Ok(vec![
                row(4, &[0.0, 3.0]),
                row(5, &[1.0, 4.0]),
                row(6, &[2.0, 5.0])
            ])
        );
        assert_eq!(
            slices(
                tap.token_axis(1).positions(&[9, 0, 9]).requests(&[0, 1, 2]),
                &[2, 3],
                &data
            )
            .map(|s| s.iter().map(|s| (s.0, s.1)).collect()),
            Ok(vec![(9, 0), (0, 1), (9, 2)])
        );
        assert_eq!(
            slices(tap, &[2, 3], &data),
            Ok(vec![(4, 0, vec![2, 3], data.clone())])
        );
        assert_eq!(slices(tap.token_axis(0), &[0, 3], &[]), Ok(vec![]));
        assert_eq!(slices(tap, &[], &[7.0]), Ok(vec![(4, 0, vec![], vec![7.0])]));
    }

    #[test]
    fn the_causal_axis_keeps_the_keys_up_to_the_position() {
        // [heads 2, tokens 2, keys 4]
        let data: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let tap = Tap::new("attn_scores", 0, 1).token_axis(1).causal_axis(2);
        assert_eq!(
            slices(tap, &[2, 2, 4], &data),
            Ok(vec![
                (1, 0, vec![2, 2], vec![0.0, 1.0, 8.0, 9.0]),
                (2, 0, vec![2, 3], vec![4.0, 5.0, 6.0, 12.0, 13.0, 14.0]),
            ])
        );
        let far = Tap::new("attn_scores", 0, i64::MAX - 2)
            .token_axis(1)
            .causal_axis(2);
        assert_eq!(
            slices(far, &[2, 2, 4], &data).map(|s| s[1].2.clone()),
            Ok(vec![2, 4])
        );
    }

    #[test]
    fn only_the_slices_of_wanted_tokens_are_copied() {
        let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let tap = Tap::new("x", 0, 3);
        let taps: [(Tap<'_>, &[usize]); 4] = [
            (tap.token_axis(0), &[4, 2, 3]),
            (tap.token_axis(2), &[3, 2, 4]),
            (
                tap.token_axis(1).positions(&[5, 3, 9, 3]).requests(&[0, 1, 0, 0]),
                &[2, 4, 3],
            ),
            (tap.token_axis(1).causal_axis(2), &[1, 4, 6]),
        ];
        for (tap, shape) in taps {
            let all = slices(tap, shape, &data).expect("fits");
            for selection in ["seq=3", "seq=4|6", "seq!=4", "request=1", "seq=5-,request=0"] {
                let tokens: Selection = selection.parse().expect("a selection");
                let wanted = |s: &&Found| tokens.tokens("x", 0).wants(s.0, s.1);
                let expected: Vec<Found> = all.iter().filter(wanted).cloned().collect();
                assert_eq!(
                    selected(selection, tap, shape, &data),
                    Ok(expected),
                    "{selection}"
                );
            }
        }
        let view = TensorView::new(DType::F32, &[4, 6], bytes_of(&data));
        let nothing: Selection = "seq=9".parse().expect("a selection");
        let plan = |tokens| Plan::new(&tap.token_axis(0), &view, tokens).expect("fits");
        assert!(plan(Some(nothing.tokens("x", 0))).is_unwanted() && !plan(None).is_unwanted());
    }

    /// The slices' bytes, one behind the other.
    fn packed(dtype: DType, tap: Tap<'_>, view: TensorView<'_>) -> Result<Vec<u8>, TensorError> {
        assert_eq!(view.dtype(), dtype);
        let plan = Plan::new(&tap, &view, None)?;
        let mut job = Job::default();
        job.fill(&tap, &view, &plan)?;
        assert_eq!(job.data.len(), plan.bytes);
        let (mut shape, mut bytes) = (vec![], 0);
        for token in 0..job.tokens.len() {
            bytes += dtype
                .bytes(job.slice_shape(token, &mut shape) as u64)
                .expect("whole blocks");
        }
        assert_eq!(bytes, job.data.len() as u64);
        Ok(job.data)
    }

    #[test]
    fn packed_tensors_are_cut_between_blocks() {
        // [tokens 3, heads 2, 64 elements]: 12 blocks, each full of its number
        let data: Vec<u8> = (0..12).flat_map(|block| [block; 34]).collect();
        let blocks = |bytes: Vec<u8>| bytes.chunks(34).map(|b| b[0]).collect::<Vec<u8>>();
        let view = TensorView::new(DType::Q8_0, &[3, 2, 64], &data);
        let tap = Tap::new("k_cache", 0, 0);
        let of = |tap, view| packed(DType::Q8_0, tap, view).map(blocks);
        assert_eq!(of(tap.token_axis(0), view), Ok((0..12).collect()));
        assert_eq!(
            of(tap.token_axis(1), view),
            Ok(vec![0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11])
        );
        let turned = TensorView::new(DType::Q8_0, &[2, 3, 64], &data).strides(&[64, 128, 1]);
        assert_eq!(of(tap, turned), Ok(vec![0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]));
        let single = TensorView::new(DType::Q8_0, &[3, 32], &data)
            .strides(&[-128, 1])
            .offset(288);
        assert_eq!(of(tap, single), Ok(vec![9, 5, 1]), "rows of one block");
        let causal = TensorView::new(DType::Q8_0, &[2, 4, 32], &data);
        assert_eq!(
            of(tap.token_axis(0).causal_axis(1), causal),
            Ok(vec![0, 4, 5]),
            "of four keys, token p sees those up to p"
        );
        for tap in [tap.token_axis(2), tap.token_axis(0).causal_axis(2)] {
            assert!(matches!(of(tap, view), Err(TensorError::Packed { .. })));
        }
        let scaled: Vec<u8> = (0..68).chain([9; 28]).collect();
        let view = TensorView::new(DType::I2_S, &[2, 128], &scaled);
        assert_eq!(
            packed(DType::I2_S, tap, view),
            Ok((0..68).collect()),
            "and no padding"
        );
        assert!(matches!(
            packed(DType::I2_S, tap.token_axis(0), view),
            Err(TensorError::Packed { .. })
        ));
    }

    #[test]
    fn a_tap_that_does_not_fit_its_tensor_is_refused() {
        let refused = |tap: Tap<'_>| slices(tap, &[2, 3], &[0.0; 6]).expect_err("refused");
        let tap = Tap::new("x", 0, 0);
        assert!(matches!(refused(Tap::new("", 0, 0)), TensorError::Key { .. }));
        assert!(matches!(refused(Tap::new("x", -3, 0)), TensorError::Key { .. }));
        assert!(matches!(refused(Tap::new("x", 0, -1)), TensorError::Position(-1)));
        assert!(matches!(
            refused(Tap::new("x", 0, i64::MAX)),
            TensorError::Position(_)
        ));
        assert!(matches!(refused(tap.positions(&[-7])), TensorError::Position(-7)));
        assert!(matches!(
            refused(tap.token_axis(2)),
            TensorError::TokenAxis { .. }
        ));
        assert!(matches!(
            refused(tap.causal_axis(2)),
            TensorError::CausalAxis { .. }
        ));
        assert!(matches!(
            refused(tap.token_axis(1).causal_axis(1)),
            TensorError::CausalAxis { .. }
        ));
        assert!(matches!(
            refused(tap.positions(&[1, 2])),
            TensorError::PerToken { .. }
        ));
        assert!(matches!(
            refused(tap.token_axis(0).requests(&[1])),
            TensorError::PerToken { .. }
        ));
    }

    #[test]
    fn a_tensor_that_a_page_cannot_hold_is_refused_before_it_is_read() {
        let byte = [0u8];
        let refused = |dtype, shape: &[usize], tap: Tap<'_>| {
            let zeros = vec![0isize; shape.len()];
            Plan::new(&tap, &TensorView::new(dtype, shape, &byte).strides(&zeros), None).expect_err("refused")
        };
        let tap = Tap::new("x", 0, 0);
        assert!(matches!(
            refused(DType::U8, &[1 << 31], tap),
            TensorError::TooLarge(_)
        ));
        assert!(
            matches!(refused(DType::U8, &[1 << 29], tap), TensorError::TooLarge(n) if n == 1 << 31),
            "as f32"
        );
        assert!(matches!(
            refused(DType::U8, &[1 << 21, 0], tap.token_axis(0)),
            TensorError::TooManyTokens(_)
        ));
    }
}
