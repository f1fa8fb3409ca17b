//! Replaces an engine's tensors by those of a stored run.

use super::source::{Absent, Source};
use super::write::{Slice, fits, slice_shape, write};
use super::{Place, Replay, ReplayError};
use crate::gather::gather;
use crate::job::{Plan, position};
use crate::select::{any, request};
use crate::{AsTensor, RunInfo, Tap, TensorView, TensorViewMut, lock};
use bitnet_trace_schema::selection::{Selection, Tokens};
use bitnet_trace_schema::{DType, Replayed};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// Whether a stage can be replayed: what is read of the cache is a copy of what was put there.
pub(super) fn replays(stage: &str) -> bool {
    !matches!(stage, "k_cache" | "v_cache")
}

/// A stored run on its way into a running engine.
#[derive(Debug)]
pub(crate) struct Player {
    replay: Replay,
    at: Option<Selection>,
    source: Option<Source>,
    error: OnceLock<ReplayError>,
    stopped: AtomicBool,
    state: Mutex<State>,
    injected: AtomicU64,
    skipped: AtomicU64,
    pruned: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// How often each key was met.
    visits: HashMap<usize, u32>,
    /// Whether the forward call is left as it is (with a partial replay).
    skip: bool,
    bytes: Vec<u8>,
}

/// The rows of a tensor that are replaced: token, its slice's shape, place, number of the stored record.
type Rows = Vec<(usize, Vec<i64>, Place, usize)>;

impl Player {
    /// Opens the stored run; where that fails, the player has stopped.
    pub fn new(replay: Replay) -> Self {
        match Source::open(&replay) {
            Ok(source) => Self::with(replay, Some(source), None),
            Err(error) => Self::with(replay, None, Some(error)),
        }
    }

    /// One that never begins.
    pub fn failed(error: ReplayError) -> Self {
        Self::with(Replay::of(""), None, Some(error))
    }

    fn with(replay: Replay, source: Option<Source>, error: Option<ReplayError>) -> Self {
        Self {
            at: replay.at.clone().ok().flatten(),
            replay,
            source,
            stopped: AtomicBool::new(error.is_some()),
            error: error.map_or_else(OnceLock::new, OnceLock::from),
            state: Mutex::default(),
            injected: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            pruned: AtomicU64::new(0),
        }
    }

    pub fn error(&self) -> Option<&ReplayError> {
        self.error.get()
    }

    /// Nothing is replaced any more. Whether this is the first reason.
    pub fn stop(&self, error: ReplayError) -> bool {
        self.stopped.store(true, Ordering::Relaxed);
        self.error.set(error).is_ok()
    }

    fn source(&self) -> Option<&Source> {
        self.source
            .as_ref()
            .filter(|_| !self.stopped.load(Ordering::Relaxed))
    }

    /// What the manifest says of it.
    pub fn replayed(&self) -> Replayed {
        let path = self
            .source
            .as_ref()
            .map_or(&self.replay.path, |source| &source.path);
        Replayed {
            run: self.source.as_ref().map_or_else(String::new, Source::run),
            path: path.to_string_lossy().into_owned(),
            created_unix_ms: self
                .source
                .as_ref()
                .map_or(0, |source| source.manifest.created_unix_ms),
            at: self.at.as_ref().map(Selection::to_string),
            partial: self.replay.partial,
            other_prompt: self.replay.other_prompt,
            injected: self.injected.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            pruned: self.pruned.load(Ordering::Relaxed),
        }
    }

    /// Which tokens of a tensor are to be replaced (inside: `None` is all), or `None` if none can be.
    fn selected(&self, tap: &Tap<'_>) -> Option<Option<Tokens<'_>>> {
        if !replays(tap.stage) {
            return None;
        }
        let Some(at) = &self.at else { return Some(None) };
        let tokens = at.tokens(tap.stage, tap.layer);
        any(&tokens, tap).then_some(Some(tokens))
    }

    /// Whether any token of a tensor may be replaced.
    pub fn wants(&self, tap: &Tap<'_>) -> bool {
        self.source().is_some() && self.selected(tap).is_some()
    }

    /// Whether anything of `stage` in `layer` may be replaced.
    pub fn wants_layer(&self, stage: &str, layer: i32) -> bool {
        let wanted = |at: &Selection| !at.tokens(stage, layer).is_empty();
        self.source().is_some() && replays(stage) && self.at.as_ref().is_none_or(wanted)
    }

    /// A forward call begins.
    pub fn begin_pass(&self) {
        lock(&self.state).skip = false;
    }

    /// Compares the token ids of a forward call; those below 0 are not known.
    pub fn tokens(
        &self,
        request: i32,
        first: i64,
        ids: &mut dyn Iterator<Item = i64>,
    ) -> Result<(), ReplayError> {
        let Some(source) = self.source() else {
            return Ok(());
        };
        for (seq, id) in (first..).zip(ids) {
            let wrong = match source.id(request, seq) {
                Ok(Some(known)) if id >= 0 && i64::from(known) != id && !self.replay.other_prompt => {
                    ReplayError::Token {
                        run: source.run(),
                        request,
                        seq,
                        expected: known,
                        found: id,
                    }
                }
                Err(position) => position,
                Ok(_) => continue,
            };
            if !self.replay.partial {
                return Err(wrong);
            }
            lock(&self.state).skip = true;
        }
        Ok(())
    }

    /// Where tokens of one sequence begin, as far as their ids tell, when the engine tells it after they are used: where
    /// they go on, or from the beginning.
    pub fn first_seq(&self, next: i64, ids: &[i64]) -> Option<i64> {
        let source = self.source()?;
        let fits = |first| self.replay.other_prompt || source.may_hold(0, first, ids);
        if fits(next) {
            return Some(next);
        }
        (source.begins_again(&lock(&self.state).visits) && fits(0)).then_some(0)
    }

    /// Compares what is known of both runs.
    pub fn check(&self, info: &RunInfo) -> Result<(), ReplayError> {
        let Some(source) = self.source() else {
            return Ok(());
        };
        let differ = |what, expected: Option<String>, found: Option<String>| match (expected, found) {
            (Some(expected), Some(found)) if expected != found => Err(ReplayError::Setting {
                what,
                run: source.run(),
                expected,
                found,
            }),
            _ => Ok(()),
        };
        let (stored, here) = (source.manifest.model.as_ref(), info.model.as_ref());
        let told =
            |f: fn(&bitnet_trace_schema::Model) -> Option<String>| (stored.and_then(f), here.and_then(f));
        let (a, b) = told(|m| Some(format!("{} ({})", m.blake3.as_ref()?, m.path)));
        if told(|m| m.blake3.clone()).0 != told(|m| m.blake3.clone()).1 {
            differ("the model's BLAKE3", a, b)?;
        }
        let size = |m: &bitnet_trace_schema::Model| {
            let found = || std::fs::metadata(&m.path).ok().map(|file| file.len());
            m.bytes.or_else(found)
        };
        let of_stored = stored.and_then(|m| m.bytes).map(|n| format!("{n} bytes"));
        let of_here = here.and_then(size).map(|n| format!("{n} bytes"));
        differ("the size of the model", of_stored, of_here)?;
        let (a, b) = (&source.manifest.settings, &info.settings);
        differ("the type of the KV cache", a.kv_type.clone(), b.kv_type.clone())?;
        let on = |x: Option<bool>| x.map(|x| if x { "on" } else { "off" }.to_owned());
        differ("flash attention", on(a.flash_attention), on(b.flash_attention))
    }

    /// The run ends.
    pub fn finish(&self) -> Result<(), ReplayError> {
        let Some(source) = self.source() else {
            return Ok(());
        };
        if self.injected.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let skipped = self.skipped.load(Ordering::Relaxed);
        let why = match &self.at {
            _ if skipped > 0 => format!(
                "{skipped} records are not in the run {} as they were needed",
                source.run()
            ),
            Some(at) => format!(
                "\"{at}\" is none of the tensors that it can have replaced (k_cache and v_cache are copies)"
            ),
            None => "it shows the recorder none that it goes on with".to_owned(),
        };
        Err(ReplayError::Nothing { why })
    }

    /// The rows of a tensor to replace; all of those that are wanted, or none.
    fn rows(&self, tap: &Tap<'_>, view: &TensorView<'_>) -> Result<Rows, ReplayError> {
        let (Some(source), Some(selected)) = (self.source(), self.selected(tap)) else {
            return Ok(Rows::new());
        };
        let plan = Plan::new(tap, view, selected).map_err(|cause| target(tap, cause))?;
        let mut state = lock(&self.state);
        let (mut rows, mut pruned) = (Rows::new(), 0);
        let mut wrong = None;
        for token in plan.wanted_tokens(tap) {
            let place = Place {
                request: request(tap, token),
                seq: position(tap, token),
                layer: tap.layer,
                stage: tap.stage.to_owned(),
            };
            let own = slice_shape(view.shape(), tap.token_axis, tap.causal_axis, place.seq);
            let found = source.find(&place, &mut state.visits);
            let found = match found {
                Err(Absent::Pruned) => {
                    pruned += 1;
                    continue;
                }
                Err(Absent::Missing(error)) => Err(error),
                Ok(number) => match source.row(number) {
                    Some((row, _)) if row.dtype != view.dtype() => Err(ReplayError::DType {
                        run: source.run(),
                        place: place.clone(),
                        expected: row.dtype,
                        found: view.dtype(),
                    }),
                    Some((_, stored)) if !fits(tap.stage, stored, &own) => Err(ReplayError::Shape {
                        run: source.run(),
                        place: place.clone(),
                        expected: stored.to_vec(),
                        found: own.clone(),
                    }),
                    _ if !matches!(view.dtype(), DType::F32 | DType::F16 | DType::BF16) => {
                        Err(ReplayError::Unsupported {
                            place: place.clone(),
                            dtype: view.dtype(),
                        })
                    }
                    _ => Ok(number),
                },
            };
            match found {
                Ok(number) => rows.push((token, own, place, number)),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        let skip = state.skip;
        match wrong {
            Some(error) if !self.replay.partial => Err(error),
            None if !skip => {
                self.pruned.fetch_add(pruned, Ordering::Relaxed);
                Ok(rows)
            }
            _ => {
                let wanted = plan.wanted_tokens(tap).count() as u64;
                self.skipped.fetch_add(wanted, Ordering::Relaxed);
                Ok(Rows::new())
            }
        }
    }

    fn write(&self, tap: &Tap<'_>, rows: &Rows, to: &mut TensorViewMut<'_>) -> Result<(), ReplayError> {
        let Some(source) = self.source() else {
            return Ok(());
        };
        let mut bytes = std::mem::take(&mut lock(&self.state).bytes);
        for (token, own, place, number) in rows {
            let Some((row, shape)) = source.row(*number) else {
                continue;
            };
            source.read(row, place, &mut bytes)?;
            let slice = Slice {
                place,
                run: &source.manifest.run,
                bytes: &bytes,
                shape,
            };
            write(&slice, to, (tap.token_axis, *token), own)?;
        }
        self.injected.fetch_add(rows.len() as u64, Ordering::Relaxed);
        lock(&self.state).bytes = bytes;
        Ok(())
    }

    /// Replaces rows of a tensor in its memory; whether there were any.
    pub fn replace_in(&self, tap: &Tap<'_>, to: &mut TensorViewMut<'_>) -> Result<bool, ReplayError> {
        let rows = self.rows(tap, &to.view())?;
        if rows.is_empty() {
            return Ok(false);
        }
        if to.view().overlaps() {
            return Err(target(tap, "elements share memory"));
        }
        self.write(tap, &rows, to)?;
        Ok(true)
    }

    /// A tensor with rows replaced, where there are any to be.
    pub fn replaced<T: AsTensor>(&self, tap: &Tap<'_>, tensor: &T) -> Result<Option<T>, ReplayError> {
        let mut copy = Ok(None);
        let shown = tensor.with_view(&mut |view| {
            copy = self.rows(tap, &view).and_then(|rows| {
                if rows.is_empty() {
                    return Ok(None);
                }
                let mut bytes = Vec::new();
                let size = view.check().map_err(|cause| target(tap, cause))?;
                bytes
                    .try_reserve_exact(size)
                    .map_err(|_| target(tap, "no memory for a copy"))?;
                let mut dims = Vec::new();
                let offset = view.dims(&mut dims);
                gather(view.data(), view.dtype().size(), &mut dims, offset, &mut bytes);
                let mut to = TensorViewMut::new(view.dtype(), view.shape(), &mut bytes);
                self.write(tap, &rows, &mut to)?;
                Ok(Some(bytes))
            });
        });
        shown.map_err(|cause| target(tap, cause))?;
        let Some(bytes) = copy? else { return Ok(None) };
        tensor
            .replaced(&bytes)
            .map(Some)
            .map_err(|cause| target(tap, cause))
    }
}

fn target(tap: &Tap<'_>, cause: impl ToString) -> ReplayError {
    ReplayError::Target {
        stage: tap.stage.to_owned(),
        layer: tap.layer,
        cause: cause.to_string(),
    }
}
