//! Divides nodes among tokens and hands them to the recorder.

use crate::{Host, Node, Observer, Raw, cells, pass::Rows, read, stages::Layout};
use bitnet_trace::{AsTensor, DType, ReplayError, Tap, TensorError, TensorView, TensorViewMut};
use std::ops::Range;

/// More than this is not held back for positions and sequences that may never come.
const HELD: usize = 256 << 20;

/// What a tensor is to the stage that it is recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A node.
    Stage(Layout),
    /// What the fused operator leaves: `[head_dim, heads, tokens of a stream, streams]`, one row of heads a token.
    Fused,
    /// The cache as attention reads it: `[head_dim, keys, heads, streams]` (`keys` 1), or transposed,
    /// `[keys, head_dim, heads, streams]` (`keys` 0).
    Cache { keys: usize, first_stream: i64 },
}

/// A tensor to record, without its bytes.
#[derive(Debug, Clone)]
pub struct Shot {
    pub stage: String,
    pub layer: Option<i32>,
    name: String,
    op: String,
    form: Form,
    dtype: Option<DType>,
    ne: [i64; 4],
    nb: [usize; 4],
    /// The group whose cells its keys are.
    pub group: Option<usize>,
    /// Whether a token's slice ends at its own key.
    pub causal: bool,
    /// Whether it is another tensor's data.
    is_view: bool,
}

/// A tensor that is recorded later: its memory is used again by then.
#[derive(Debug)]
pub struct Held {
    pub shot: Shot,
    pub bytes: Vec<u8>,
}

impl Shot {
    pub fn of(node: &Node, stage: &str, layer: Option<i32>, form: Form) -> Self {
        Self {
            stage: stage.to_owned(),
            layer,
            name: node.name().to_owned(),
            op: node.op().to_owned(),
            form,
            dtype: read::dtype(node.dtype()),
            ne: node.ne,
            nb: node.nb,
            group: None,
            causal: false,
            is_view: node.is_view(),
        }
    }

    /// How many tokens it is of; of the cache, none can be counted.
    pub fn tokens(&self) -> i64 {
        match self.form {
            Form::Stage(Layout::Rows) => self.ne[1],
            Form::Stage(Layout::Heads) => self.ne[2],
            Form::Stage(Layout::Keys) => self.ne[1].saturating_mul(self.ne[3]),
            Form::Fused => self.ne[2].saturating_mul(self.ne[3]),
            Form::Cache { .. } => 0,
        }
    }
}

/// A part of a tensor, row-major: strides and offset in bytes.
struct Part<'a> {
    dtype: DType,
    shape: &'a [usize],
    strides: &'a [usize],
    offset: usize,
}

/// A part's strides and offset in elements.
struct Steps {
    strides: [isize; 4],
    offset: usize,
}

impl Part<'_> {
    fn steps(&self) -> Result<Steps, TensorError> {
        let (size, block) = (self.dtype.size(), self.dtype.block());
        let elements = |bytes: usize| {
            let whole = bytes.is_multiple_of(size) && bytes / size <= isize::MAX as usize / block;
            whole
                .then(|| bytes / size * block)
                .ok_or(TensorError::ByteStride {
                    stride: bytes as i64,
                    size,
                })
        };
        let mut strides = [0isize; 4];
        for (to, &bytes) in strides.iter_mut().zip(self.strides) {
            *to = elements(bytes)? as isize;
        }
        // the elements of a row of blocks follow each other
        let own = &mut strides[..self.strides.len()];
        if let Some(inner) = own.last_mut().filter(|s| **s == block as isize) {
            *inner = 1;
        }
        let offset = elements(self.offset)?;
        Ok(Steps { strides, offset })
    }
}

/// A part with its bytes.
struct Filled<'a>(&'a Part<'a>, &'a [u8]);

impl AsTensor for Filled<'_> {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        let Self(part, bytes) = self;
        let steps = part.steps()?;
        f(TensorView::new(part.dtype, part.shape, bytes)
            .strides(&steps.strides[..part.strides.len()])
            .offset(steps.offset));
        Ok(())
    }
}

/// The bytes of a tensor.
enum Bytes<'a> {
    /// To be recorded.
    Read(&'a [u8]),
    /// Recorded, and to be replaced where the replay wants it.
    Write { data: &'a mut [u8], replaced: bool },
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Write { data, .. } => data,
        }
    }
}

/// The tokens of a call: all of them, and those that the last layer kept.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    all: &'a Rows,
    kept: Option<&'a Rows>,
}

impl<'a> Tokens<'a> {
    /// The tokens that `count` rows belong to.
    fn of(self, count: i64) -> Result<&'a Rows, Refusal> {
        let count = usize::try_from(count).unwrap_or(0);
        [self.kept, Some(self.all)]
            .into_iter()
            .flatten()
            .find(|r| r.positions.len() == count && count > 0)
            .ok_or(ROWS)
    }
}

/// Why a tensor is not recorded.
type Refusal = &'static str;
const ROWS: Refusal = "rows match neither the tokens nor the kept rows";
const SHAPE: Refusal = "unexpected shape";
const KEYS: Refusal = "the cells of earlier keys are not known";
const CELLS: Refusal = "cells of the cache are not in view";
const MASS: Refusal = "keys that are not known have weight";
/// Not a loss: attention had no such products.
const LEFT: Refusal =
    "left out where keys have left the sliding window and its cache: there is no product with them";
/// Place along the key axis of a key that has left the cache.
const GONE: usize = usize::MAX;

impl<H: Host> Observer<H> {
    pub(crate) fn refuse(&self, shot: &Shot, reason: &str) {
        self.recorder
            .drop_tensor(Tap::new(&shot.stage, shot.layer.unwrap_or(-1), -1), reason);
    }

    /// The bytes of a tensor that is wanted, or none, which is counted.
    fn bytes_for<'a>(&self, shot: &Shot, tensor: Raw, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if shot.dtype.is_none() {
            self.refuse(shot, "element type");
            return None;
        }
        if (self.starving)() {
            self.refuse(shot, &TensorError::OutOfMemory(0).reason());
            return None;
        }
        let bytes = read::bytes(&self.host, tensor, scratch);
        if bytes.is_empty() {
            self.refuse(shot, "no data");
            return None;
        }
        Some(bytes)
    }

    /// Records a tensor, now or when its tokens are known, and replaces it in a replay.
    pub(crate) fn shoot(&mut self, shot: Shot, tensor: Raw) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(bytes) = self.bytes_for(&shot, tensor, &mut scratch) {
            let again = self.recorder.is_replaying().then(|| shot.clone());
            if self.call.all.is_some() {
                self.record_now(&shot, bytes);
            } else {
                self.hold(shot, bytes);
            }
            if let Some(shot) = again {
                self.replace(&shot, tensor, bytes);
            }
        }
        self.scratch = scratch;
    }

    /// Overwrites a tensor in the host with what is replayed in its place.
    fn replace(&mut self, shot: &Shot, tensor: Raw, bytes: &[u8]) {
        if shot.is_view || matches!(shot.form, Form::Cache { .. }) {
            return;
        }
        let foretold = match self.call.all {
            Some(_) => None,
            None => self.foretell(shot.tokens()),
        };
        let (Some(all), kept) = (
            self.call.all.as_ref().or(foretold.as_ref()),
            self.call.kept.as_ref(),
        ) else {
            return;
        };
        let target = |cause: &str| ReplayError::Target {
            stage: shot.stage.clone(),
            layer: shot.layer.unwrap_or(-1),
            cause: cause.to_owned(),
        };
        let mut copy = Vec::new();
        if copy.try_reserve_exact(bytes.len()).is_err() {
            return self.recorder.stop_replay(target("no memory for a copy"));
        }
        copy.extend_from_slice(bytes);
        let mut to = Bytes::Write {
            data: &mut copy,
            replaced: false,
        };
        match self.place(shot, Tokens { all, kept }, &mut to) {
            Ok(()) if matches!(to, Bytes::Write { replaced: true, .. }) => self.host.write(tensor, &copy),
            Ok(()) => {}
            Err(reason) => self.recorder.stop_replay(target(reason)),
        }
    }

    fn hold(&mut self, shot: Shot, bytes: &[u8]) {
        let mut copy = Vec::new();
        if self.call.held_bytes.saturating_add(bytes.len()) > HELD
            || copy.try_reserve_exact(bytes.len()).is_err()
        {
            return self.refuse(&shot, "too large to be held until its tokens are known");
        }
        copy.extend_from_slice(bytes);
        self.call.held_bytes += copy.len();
        self.call.held.push(Held { shot, bytes: copy });
    }

    pub(crate) fn keep_last(&mut self, shot: Shot, tensor: Raw) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.call.last_layer = self.bytes_for(&shot, tensor, &mut scratch).and_then(|bytes| {
            let mut copy = Vec::new();
            copy.try_reserve_exact(bytes.len()).ok()?;
            copy.extend_from_slice(bytes);
            Some(Held { shot, bytes: copy })
        });
        self.scratch = scratch;
    }

    /// The rows of this call's tokens as attention reads them.
    pub(crate) fn shoot_cache(&mut self, stage: &str, tensor: Raw, kind: char, keys: usize) {
        let Some(cache) = read::cache(&self.host, tensor, kind) else {
            return;
        }; // attention without a cache
        let layer = self.call.layer.or(Some(cache.layer));
        if !self.wants(stage, layer) {
            return;
        }
        let first_stream = read::first_stream(&self.host, tensor, &cache);
        let node = self.host.node(tensor);
        let mut shot = Shot::of(&node, stage, layer, Form::Cache { keys, first_stream });
        shot.group = self.group_of(tensor);
        self.shoot(shot, tensor);
    }

    /// Records a tensor whose tokens are known.
    pub(crate) fn record_now(&self, shot: &Shot, bytes: &[u8]) {
        let placed = match &self.call.all {
            None => Err(ROWS),
            Some(all) => {
                let kept = self.call.kept.as_ref();
                self.place(shot, Tokens { all, kept }, &mut Bytes::Read(bytes))
            }
        };
        match placed {
            Err(LEFT) => self.tell_left(&shot.stage),
            Err(reason) => self.refuse(shot, reason),
            Ok(()) => {}
        }
    }

    /// Divides a tensor among its tokens.
    fn place(&self, shot: &Shot, tokens: Tokens<'_>, bytes: &mut Bytes<'_>) -> Result<(), Refusal> {
        match shot.form {
            Form::Stage(Layout::Keys) => self.place_keys(shot, tokens.all, bytes),
            Form::Cache { keys, first_stream } => {
                self.place_cache(shot, tokens.all, bytes, keys, first_stream)
            }
            form => self.place_rows(shot, tokens, bytes, form),
        }
    }

    fn place_rows(
        &self,
        shot: &Shot,
        tokens: Tokens<'_>,
        bytes: &mut Bytes<'_>,
        form: Form,
    ) -> Result<(), Refusal> {
        let [ne, nb] = [extents(shot.ne)?, shot.nb];
        let dtype = shot.dtype.ok_or("element type")?;
        let rows = tokens.of(shot.tokens())?;
        let tokens = rows.positions.len();
        let mut part = |shape: &[usize], strides: &[usize]| {
            self.send(
                shot,
                rows,
                0..tokens,
                0,
                None,
                &Part {
                    dtype,
                    shape,
                    strides,
                    offset: 0,
                },
                bytes,
            );
        };
        match form {
            Form::Stage(Layout::Heads) if ne[3] == 1 => part(&[tokens, ne[1], ne[0]], &[nb[2], nb[1], nb[0]]),
            Form::Stage(Layout::Rows) if ne[2] == 1 && ne[3] == 1 => part(&[tokens, ne[0]], &[nb[1], nb[0]]),
            Form::Fused if is_contiguous(shot) => {
                part(&[tokens, ne[0].saturating_mul(ne[1])], &[nb[2], nb[0]])
            }
            _ => return Err(SHAPE),
        }
        Ok(())
    }

    fn tell_left(&self, stage: &str) {
        if !self.left_told.replace(true) {
            self.note(stage, LEFT);
        }
    }

    /// Scores and probabilities: each token's are of the keys of its own sequence, in the order of their positions. The
    /// cache is padded; what the batch saw of the sequence ends at its last position. A key that has left the cache of a
    /// sliding window has the probability zero; scores that lack it are left out.
    fn place_keys(&self, shot: &Shot, rows: &Rows, bytes: &mut Bytes<'_>) -> Result<(), Refusal> {
        let [ne, nb] = [extents(shot.ne)?, shot.nb];
        let dtype = shot.dtype.ok_or("element type")?;
        if rows.positions.len() as i64 != shot.tokens() {
            return Err(ROWS);
        }
        let requests = &rows.requests;
        let mut first = 0;
        while first < requests.len() {
            let stream = first / ne[1];
            let of_stream = (stream + 1) * ne[1];
            let end = (first + 1..of_stream)
                .find(|&i| requests[i] != requests[first])
                .unwrap_or(of_stream);
            let keys = self.keys(shot, rows, first)?;
            let seen = keys.len();
            if keys.iter().any(|&k| k >= ne[0] && k != GONE) {
                return Err(CELLS);
            }
            if keys.contains(&GONE) && shot.causal {
                return Err(LEFT);
            }
            let offset = stream * nb[3] + (first - stream * ne[1]) * nb[1];
            let causal = shot.causal.then_some(2);
            let (tokens, heads) = (end - first, ne[2]);
            if !keys.contains(&GONE) && keys.windows(2).all(|two| two[1] == two[0] + 1) {
                let part = Part {
                    dtype,
                    shape: &[heads, tokens, seen],
                    strides: &[nb[2], nb[1], nb[0]],
                    offset: offset + keys.first().map_or(0, |k| k * nb[0]),
                };
                self.send(shot, rows, first..end, 1, causal, &part, bytes);
            } else {
                let size = dtype.size();
                let all = heads
                    .checked_mul(tokens)
                    .and_then(|n| n.checked_mul(seen)?.checked_mul(size));
                let mut gathered = Vec::new();
                (all.and_then(|all| gathered.try_reserve_exact(all).ok())).ok_or("out of memory")?;
                let row = |i: usize| offset + i / tokens * nb[2] + i % tokens * nb[1];
                // None for a key that has left.
                let places = || {
                    let keys = &keys;
                    let place = move |i: usize, key: usize| (key != GONE).then(|| row(i) + key * nb[0]);
                    (0..heads * tokens).flat_map(move |i| keys.iter().map(move |&key| place(i, key)))
                };
                let value = |at: usize| bytes.get().get(at..at + size).ok_or(SHAPE);
                for at in places() {
                    match at {
                        Some(at) => gathered.extend_from_slice(value(at)?),
                        None => gathered.resize(gathered.len() + size, 0),
                    }
                }
                // Where keys have left, what else is in the cache must have no weight.
                for other in keys
                    .contains(&GONE)
                    .then(|| others(&keys, ne[0]))
                    .into_iter()
                    .flatten()
                {
                    for i in 0..heads * tokens {
                        if value(row(i) + other * nb[0])?.iter().any(|&byte| byte != 0) {
                            return Err(MASS);
                        }
                    }
                }
                let part = Part {
                    dtype,
                    shape: &[heads, tokens, seen],
                    strides: &[tokens * seen * size, seen * size, size],
                    offset: 0,
                };
                match bytes {
                    Bytes::Read(_) => {
                        self.send(
                            shot,
                            rows,
                            first..end,
                            1,
                            causal,
                            &part,
                            &mut Bytes::Read(&gathered),
                        );
                    }
                    Bytes::Write { data, replaced } => {
                        let mut to = Bytes::Write {
                            data: &mut gathered,
                            replaced: false,
                        };
                        self.send(shot, rows, first..end, 1, causal, &part, &mut to);
                        if matches!(to, Bytes::Write { replaced: true, .. }) {
                            *replaced = true;
                            let elements = places().zip(gathered.chunks_exact(size));
                            for (at, element) in elements.filter_map(|(at, element)| Some((at?, element))) {
                                data[at..at + size].copy_from_slice(element);
                            }
                        }
                    }
                }
            }
            first = end;
        }
        Ok(())
    }

    /// Where the keys of a token's sequence stand along the key axis, from position 0 to the last of the batch.
    fn keys(&self, shot: &Shot, rows: &Rows, token: usize) -> Result<Vec<usize>, Refusal> {
        let request = rows.requests[token];
        let own = (0..rows.requests.len()).filter(|&i| rows.requests[i] == request);
        let Some(group) = shot.group.and_then(|g| self.groups.get(g)) else {
            // Without a cache, the keys are the tokens of the batch.
            let mut own: Vec<_> = own.map(|i| (rows.positions[i], i)).collect();
            own.sort_unstable();
            let in_order = own
                .iter()
                .enumerate()
                .all(|(i, &(position, _))| i as i64 == position);
            return in_order
                .then(|| own.iter().map(|&(_, i)| i).collect())
                .ok_or(KEYS);
        };
        let last = own.map(|i| rows.positions[i]).max().unwrap_or(-1);
        let cell = *group.now.get(token).ok_or(KEYS)?;
        let stream = cell.checked_div(group.per_stream).unwrap_or(0) * group.per_stream;
        let cells = group.cells.of(request, last).ok_or(KEYS)?;
        let local = |&cell: &u32| match cell {
            cells::GONE => Ok(GONE),
            cell => usize::try_from(i64::from(cell) - stream).map_err(|_| CELLS),
        };
        cells.iter().map(local).collect()
    }

    fn place_cache(
        &self,
        shot: &Shot,
        rows: &Rows,
        bytes: &mut Bytes<'_>,
        axis: usize,
        first_stream: i64,
    ) -> Result<(), Refusal> {
        let [ne, nb] = [extents(shot.ne)?, shot.nb];
        let dtype = shot.dtype.ok_or("element type")?;
        let group = shot.group.and_then(|g| self.groups.get(g)).ok_or(KEYS)?;
        if group.now.len() != rows.positions.len() {
            return Err(KEYS);
        }
        // The cells of each token, along the key axis and along the streams.
        let place = |&cell: &i64| {
            let stream = cell.checked_div(group.per_stream).unwrap_or(0);
            let key = usize::try_from(cell - stream * group.per_stream)
                .ok()
                .filter(|&k| k < ne[axis]);
            let stream = usize::try_from(stream - first_stream).ok().filter(|&s| s < ne[3]);
            key.zip(stream)
        };
        let places: Option<Vec<_>> = group.now.iter().map(place).collect();
        let places = places.ok_or(CELLS)?;
        let dim = 1 - axis;
        // Following cells are one tensor with a token axis; scattered ones are sent one by one.
        let mut first = 0;
        for end in 1..=places.len() {
            if end < places.len() && places[end] == (places[end - 1].0 + 1, places[end - 1].1) {
                continue;
            }
            let (key, stream) = places[first];
            let part = Part {
                dtype,
                shape: &[end - first, ne[2], ne[dim]],
                strides: &[nb[axis], nb[2], nb[dim]],
                offset: key * nb[axis] + stream * nb[3],
            };
            self.send(shot, rows, first..end, 0, None, &part, bytes);
            first = end;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn send(
        &self,
        shot: &Shot,
        rows: &Rows,
        tokens: Range<usize>,
        axis: usize,
        causal: Option<usize>,
        part: &Part<'_>,
        bytes: &mut Bytes<'_>,
    ) {
        let (positions, requests) = (&rows.positions[tokens.clone()], &rows.requests[tokens]);
        let seq = positions.first().copied().unwrap_or(0);
        let mut tap = Tap::new(&shot.stage, shot.layer.unwrap_or(-1), seq)
            .name(&shot.name)
            .op(&shot.op)
            .positions(positions)
            .requests(requests)
            .token_axis(axis);
        if let Some(axis) = causal {
            tap = tap.causal_axis(axis);
        }
        match bytes {
            Bytes::Read(bytes) => self.recorder.record(tap, &Filled(part, bytes)),
            Bytes::Write { data, replaced } => {
                let Ok(steps) = part.steps() else { return }; // counted when it was recorded
                let mut to = TensorViewMut::new(part.dtype, part.shape, data)
                    .strides(&steps.strides[..part.strides.len()])
                    .offset(steps.offset);
                *replaced |= self.recorder.replay_recorded(tap, &mut to);
            }
        }
    }
}

/// The places of `0..n` that no key stands at.
fn others(keys: &[usize], n: usize) -> Vec<usize> {
    let mut free = vec![true; n];
    keys.iter()
        .filter(|&&key| key < n)
        .for_each(|&key| free[key] = false);
    (0..n).filter(|&place| free[place]).collect()
}

fn extents(ne: [i64; 4]) -> Result<[usize; 4], Refusal> {
    let mut out = [0; 4];
    for (to, extent) in out.iter_mut().zip(ne) {
        *to = usize::try_from(extent).ok().filter(|&e| e > 0).ok_or(SHAPE)?;
    }
    Ok(out)
}

fn is_contiguous(shot: &Shot) -> bool {
    let node = Node {
        ne: shot.ne,
        nb: shot.nb,
        ..Node::default()
    };
    shot.dtype.is_some_and(|d| node.is_contiguous(d.size()))
}
