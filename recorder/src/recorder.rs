use crate::model::{Hashing, PATIENCE};
use crate::replay::Player;
use crate::writer::manifest;
use crate::{
    AsTensor, Engine, Error, Model, Observation, RecorderBuilder, ReplayError, RunInfo, Settings, Site,
    Summary, Tap, TensorError, TensorView, TensorViewMut, env, exit, fork::Home, job::Plan, lock, model, run,
    select, shared::Shared, writer,
};
use bitnet_trace_schema::RunState;
use bitnet_trace_schema::selection::Tokens;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Records an engine's tensors into a run, from any thread. Cheap to clone.
///
/// A run is sealed by [`Recorder::finish`], or when the last clone is dropped (by a panic: as `failed`).
/// Without feature `trace` every function of it is empty.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Handle>>);

/// Seals the run when it is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// The process that started the writer thread; a forked child has none.
    home: Home,
    /// Whether a forked child was told that it does not record.
    told: AtomicBool,
    end: Mutex<End>,
}

#[derive(Debug, Default)]
struct End {
    writer: Option<JoinHandle<()>>,
    hashing: Vec<Hashing>,
    result: Option<Result<Summary, Error>>,
}

impl Recorder {
    pub(crate) fn start(mut builder: RecorderBuilder) -> Result<Self, Error> {
        if let Err(error) = &builder.selection {
            return Err(Error::Selection(error.clone()));
        }
        let player = player(&mut builder)?;
        let (name, dir) = run::claim(&mut builder)?;
        let layout = builder.layout;
        let shared = Arc::new(Shared::new(name, dir, builder, player));
        if let Some(error) = shared.player.as_ref().and_then(Player::error) {
            shared.cut_short(format!("the replay stopped: {error}"));
        }
        let writer = writer::spawn(Arc::clone(&shared), layout)?;
        Ok(Self(Some(Arc::new(Handle {
            shared,
            home: Home::here(),
            told: AtomicBool::new(false),
            end: Mutex::new(End {
                writer: Some(writer),
                ..End::default()
            }),
        }))))
    }

    /// A recorder that is off: every call returns at once.
    #[inline]
    pub const fn off() -> Self {
        Self(None)
    }

    /// The recorder that the environment asks for.
    ///
    /// `BITNET_TRACE_DIR` is the database's directory, created when missing; unset or empty means off.
    /// `BITNET_TRACE_RUN` names the run, `BITNET_TRACE_VALUES` is `full` or `stats`, `BITNET_TRACE_DEQUANTIZE` is `1`
    /// where packed dtypes are [kept as f32 too](RecorderBuilder::dequantize), `BITNET_TRACE_SELECT` says
    /// [which records](RecorderBuilder::select) are kept, `BITNET_TRACE_PRESET` is `default`, `lossy` or `durable`
    /// ([`Preset`](crate::Preset)), `BITNET_TRACE_QUEUE_BYTES` the [limit of the
    /// queue](RecorderBuilder::queue_bytes). Never fails: where the directory can't be used or the
    /// selection is wrong, one warning on stderr says why, and the recorder is off.
    pub fn from_env(engine: Engine) -> Self {
        env::recorder(engine, &|name| std::env::var_os(name), &mut |warning| {
            crate::tell!("{warning}")
        })
    }

    /// The process-wide recorder from the environment, made at the first call (whose `engine` counts) and
    /// sealed when the process exits.
    pub fn global(engine: Engine) -> &'static Self {
        exit::global(|| Self::from_env(engine))
    }

    /// Sets up a recorder in code.
    pub fn builder(dir: impl Into<PathBuf>) -> RecorderBuilder {
        RecorderBuilder::new(dir.into())
    }

    /// Whether tensors are taken: false when off, after a failure, after the end, and in a forked child of
    /// the process that started the recorder.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.active().is_some()
    }

    /// Whether any token of a tensor with this tap would be recorded or [replaced](crate::Replay), as far as the tap tells: for engines
    /// that would have to compute or move it first.
    ///
    /// A tap with a token axis and neither positions nor requests may have any number of tokens from `seq` on.
    /// A `seq` below 0 is not known yet: the answer is then the one for stage, layer and request.
    #[inline]
    pub fn wants(&self, tap: &Tap<'_>) -> bool {
        let Some(handle) = &self.0 else { return false };
        let player = handle.shared.player.as_ref();
        let wanted = || handle.selected(tap).is_some() || player.is_some_and(|player| player.wants(tap));
        handle.shared.on.load(Ordering::Relaxed) && wanted() && handle.is_owner()
    }

    /// A tracepoint of `stage`, to be kept by the engine: it knows which layers are wanted.
    pub fn site(&self, stage: &str) -> Site {
        Site::new(self, stage)
    }

    /// Whether anything of `stage` in `layer` may be wanted.
    pub(crate) fn wants_layer(&self, stage: &str, layer: i32) -> bool {
        let replaced = |handle: &Handle| {
            let player = handle.shared.player.as_ref();
            player.is_some_and(|player| player.wants_layer(stage, layer))
        };
        (self.0.as_deref()).is_some_and(|handle| match &handle.shared.selection {
            None => true,
            Some(selection) => !selection.tokens(stage, layer).is_empty() || replaced(handle),
        })
    }

    /// Whether nothing will ever be taken or counted again: after the end, and in a forked child.
    pub(crate) fn is_over(&self) -> bool {
        (self.0.as_deref()).is_none_or(|h| h.shared.ended.load(Ordering::Relaxed) || !h.is_owner())
    }

    #[inline]
    fn active(&self) -> Option<&Handle> {
        (self.0.as_deref()).filter(|h| h.shared.on.load(Ordering::Relaxed) && h.is_owner())
    }

    /// The run's name, which may have a number appended to the one asked for; `None` when off.
    pub fn run(&self) -> Option<&str> {
        self.0.as_ref().map(|h| h.shared.run.as_str())
    }

    /// The run's directory; `None` when off.
    pub fn run_dir(&self) -> Option<&Path> {
        self.0.as_ref().map(|h| h.shared.dir.as_path())
    }

    /// Changes what the manifest says of the run. `edit` is not called when the recorder is off.
    pub fn describe(&self, edit: impl FnOnce(&mut RunInfo)) {
        let Some(handle) = self.active() else { return };
        handle.describe(edit);
        handle.shared.check_replay();
    }

    /// The model. Size and BLAKE3 of the file at its `path` are computed in the background where they are
    /// absent.
    pub fn set_model(&self, model: Model) {
        self.describe(|info| info.model = Some(model));
    }

    /// How the engine is set up.
    pub fn set_settings(&self, settings: Settings) {
        self.describe(|info| info.settings = settings);
    }

    /// The prompt of request 0: its text and its number of tokens.
    pub fn set_prompt(&self, text: &str, tokens: usize) {
        self.describe(|info| {
            info.prompt = Some(text.to_owned());
            info.prompt_tokens = Some(tokens as u64);
        });
    }

    /// How recording may touch the engine's numbers.
    pub fn set_observation(&self, observation: Observation) {
        self.describe(|info| info.observation = observation);
    }

    /// A forward call begins: what is recorded from now on belongs to it. Passes count from 0; what is
    /// recorded before the first call belongs to pass 0 as well.
    pub fn begin_pass(&self) {
        if let Some(handle) = self.active() {
            handle.shared.queue.begin_pass();
            if let Some(player) = &handle.shared.player {
                player.begin_pass();
            }
        }
    }

    /// Token ids of `request` at positions `first_seq`, `first_seq + 1`, ... An id below 0 is not known.
    pub fn tokens<I: Copy + Into<i64>>(&self, request: i32, first_seq: i64, ids: &[I]) {
        if let Some(handle) = self.active() {
            let mut of_run = ids.iter().map(|&id| id.into());
            handle.shared.tokens(request, first_seq, &mut of_run);
            if let Some(player) = &handle.shared.player {
                let checked = player.tokens(request, first_seq, &mut ids.iter().map(|&id| id.into()));
                handle.replay(checked);
            }
        }
    }

    /// Records a tensor. Copies it and returns; waits while the queue is full. Tokens that are not
    /// [selected](RecorderBuilder::select) are not copied, and where none is, the tensor is not looked at.
    ///
    /// Never fails: a tensor that can't be recorded is counted in the manifest by its
    /// [reason](TensorError::reason), and the first such is told on stderr.
    #[inline]
    pub fn record<T: AsTensor + ?Sized>(&self, tap: Tap<'_>, tensor: &T) {
        let _ = self.try_record(tap, tensor);
    }

    /// [`Recorder::record`] for those who want to know whether the tensor was taken.
    ///
    /// # Errors
    /// Why it was not; it is counted nevertheless. A recorder that is off or does not want it returns `Ok`.
    #[inline]
    pub fn try_record<T: AsTensor + ?Sized>(&self, tap: Tap<'_>, tensor: &T) -> Result<(), TensorError> {
        let Some(handle) = &self.0 else { return Ok(()) };
        handle.record(&tap, &mut |f| tensor.with_view(f))
    }

    /// [Records](Recorder::record) a tensor, and gives back what the engine goes on with: the tensor, or in a
    /// [replay](crate::Replay) the stored run's, where [`AsTensor::replaced`] makes one of its type.
    #[inline]
    pub fn through<T: AsTensor>(&self, tap: Tap<'_>, tensor: T) -> T {
        let Some(handle) = &self.0 else { return tensor };
        let _ = handle.record(&tap, &mut |f| tensor.with_view(f));
        match &handle.shared.player {
            None => tensor,
            Some(player) => handle.through(player, &tap, tensor),
        }
    }

    /// [Records](Recorder::record) a tensor, and in a [replay](crate::Replay) overwrites it. Whether it was.
    ///
    /// A tensor that could not be recorded is counted as ever.
    pub fn replay(&self, tap: Tap<'_>, tensor: &mut TensorViewMut<'_>) -> bool {
        let Some(handle) = &self.0 else { return false };
        let _ = self.try_record(tap, &tensor.view());
        self.overwrite(handle, &tap, tensor)
    }

    /// [`Recorder::replay`] of a tensor that was recorded already.
    pub fn replay_recorded(&self, tap: Tap<'_>, tensor: &mut TensorViewMut<'_>) -> bool {
        (self.0.as_deref()).is_some_and(|handle| self.overwrite(handle, &tap, tensor))
    }

    fn overwrite(&self, handle: &Handle, tap: &Tap<'_>, tensor: &mut TensorViewMut<'_>) -> bool {
        let Some(player) = &handle.shared.player else {
            return false;
        };
        handle.is_taking() && handle.replay(player.replace_in(tap, tensor)).unwrap_or(false)
    }

    /// Whether a stored run is replayed, or was until [it stopped](Recorder::replay_error).
    pub fn is_replaying(&self) -> bool {
        (self.0.as_deref()).is_some_and(|handle| handle.shared.player.is_some())
    }

    /// Why the replay stopped, if it did: what the engine computed since is its own, and the run is `failed`. An engine
    /// that exists to be compared stops too.
    pub fn replay_error(&self) -> Option<&ReplayError> {
        self.0.as_deref()?.shared.player.as_ref()?.error()
    }

    /// For engines that learn the positions of tokens after they have used them: where, in the run that is replayed, tokens
    /// with these ids begin, if it is where they go on (`next`) or the beginning. None without a replay.
    pub fn first_replayed(&self, next: i64, ids: &[i64]) -> Option<i64> {
        self.0.as_deref()?.shared.player.as_ref()?.first_seq(next, ids)
    }

    /// The replay goes no further, for a reason that only the engine knows.
    pub fn stop_replay(&self, error: ReplayError) {
        if let Some(handle) = self.active() {
            handle.shared.stop_replay(error);
        }
    }

    /// Counts a tensor that the engine could not hand over, under a reason in a few words; but not one that
    /// is not [wanted](Recorder::wants). One of an empty stage, which is not known, always counts.
    pub fn drop_tensor(&self, tap: Tap<'_>, reason: &str) {
        let Some(handle) = &self.0 else { return };
        if (tap.stage.is_empty() || handle.selected(&tap).is_some()) && handle.is_owner() {
            let error = TensorError::Refused(reason.to_owned());
            handle.shared.count(tap.stage, tap.layer, &error);
        }
    }

    /// The engine cannot go on, because of `cause`: what it recorded is sealed as ever, but the run says
    /// `failed` and why, and is not taken for a complete one. The first cause stands.
    ///
    /// A recorder that is dropped by a panic says so by itself.
    pub fn fail(&self, cause: &str) {
        if let Some(handle) = self.active() {
            handle.shared.cut_short(cause.to_owned());
        }
    }

    /// Writes what is queued and seals the run. Further calls return the same.
    ///
    /// # Errors
    /// [`Error::Failed`] where the recorder gave up before, or the engine did ([`Recorder::fail`]). A recorder
    /// that is off has an empty summary.
    pub fn finish(&self) -> Result<Summary, Error> {
        match &self.0 {
            Some(handle) => handle.finish(),
            None => Ok(Summary::default()),
        }
    }
}

/// Shows a tensor's view to the function it is given.
type Show<'a> = dyn FnMut(&mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> + 'a;

/// The stored run to replay.
fn player(builder: &mut RecorderBuilder) -> Result<Option<Player>, Error> {
    let Some(replay) = builder.replay.take() else {
        return Ok(None);
    };
    let player = match replay {
        Ok(replay) => Player::new(replay),
        Err(error) => Player::failed(error),
    };
    match player.error() {
        Some(error) if !builder.record_anyhow => Err(error.clone().into()),
        _ => Ok(Some(player)),
    }
}

impl Handle {
    fn describe(&self, edit: impl FnOnce(&mut RunInfo)) {
        let mut info = lock(&self.shared.info);
        let before = info.model.clone();
        edit(&mut info);
        self.shared.changed.store(true, Ordering::Relaxed);
        let Some(now) = &mut info.model else { return };
        if now.blake3.is_some() || now.path.is_empty() {
            return;
        }
        match before.filter(|before| before.path == now.path) {
            Some(before) => (now.blake3, now.bytes) = (before.blake3, now.bytes.or(before.bytes)),
            None => {
                let hashing = model::hash_in_background(Arc::clone(&self.shared), now.path.clone());
                drop(info);
                lock(&self.end).hashing.extend(hashing);
            }
        }
    }

    /// Whether tensors are taken.
    fn is_taking(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed) && self.is_owner()
    }

    /// What a step of the replay came to; where it failed, the replay stops.
    fn replay<T>(&self, step: Result<T, ReplayError>) -> Option<T> {
        step.map_err(|error| self.shared.stop_replay(error)).ok()
    }

    fn through<T: AsTensor>(&self, player: &Player, tap: &Tap<'_>, tensor: T) -> T {
        if !self.is_taking() {
            return tensor;
        }
        let replaced = self.replay(player.replaced(tap, &tensor)).flatten();
        replaced.unwrap_or(tensor)
    }

    /// Which tokens of the tap's tensor are wanted (inside: `None` is all of them), or `None` if none can be.
    #[inline]
    fn selected(&self, tap: &Tap<'_>) -> Option<Option<Tokens<'_>>> {
        let Some(selection) = &self.shared.selection else {
            return Some(None);
        };
        let tokens = selection.tokens(tap.stage, tap.layer);
        select::any(&tokens, tap).then_some(Some(tokens))
    }

    fn record(&self, tap: &Tap<'_>, show: &mut Show<'_>) -> Result<(), TensorError> {
        let Some(selected) = self.selected(tap) else {
            return Ok(());
        };
        if self.shared.ended.load(Ordering::Relaxed) || !self.is_owner() {
            return Err(TensorError::Closed); // too late to be counted in the manifest
        }
        let mut taken = None;
        let shown = show(&mut |view| taken = Some(self.take(tap, &view, selected)));
        let nothing = || Err(TensorError::Unreadable("it shows no memory".into()));
        (shown.and_then(|()| taken.unwrap_or_else(nothing))).inspect_err(|error| {
            self.shared.count(tap.stage, tap.layer, error);
        })
    }

    /// Checks the tensor, copies it and queues the copy.
    fn take(
        &self,
        tap: &Tap<'_>,
        view: &TensorView<'_>,
        selected: Option<Tokens<'_>>,
    ) -> Result<(), TensorError> {
        let plan = Plan::new(tap, view, selected)?;
        if plan.is_unwanted() {
            return Ok(());
        }
        let queue = &self.shared.queue;
        let mut slot = queue.reserve(plan.bytes, plan.beside(tap))?;
        slot.job().fill(tap, view, &plan)?;
        slot.push()
    }

    /// Whether this is the process that started the recorder. A forked child has no writer thread, and a
    /// lock that another thread held when it forked stays locked: so nothing else is touched there.
    #[inline]
    fn is_owner(&self) -> bool {
        let owner = self.home.is_here();
        if !owner {
            self.tell_child();
        }
        owner
    }

    #[cold]
    fn tell_child(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            crate::tell!(
                "process {} is a fork of process {}, to which the run {} belongs: nothing is recorded here",
                std::process::id(),
                self.home.pid(),
                self.shared.run
            );
        }
    }

    fn finish(&self) -> Result<Summary, Error> {
        let failed = |cause: &str| Error::Failed {
            run: self.shared.run.clone(),
            cause: cause.to_owned(),
        };
        if !self.home.is_here() {
            return Err(failed("this is a forked process; the run belongs to its parent"));
        }
        let mut end = lock(&self.end);
        if let Some(result) = &end.result {
            return result.clone();
        }
        self.shared.on.store(false, Ordering::Relaxed);
        self.shared.ended.store(true, Ordering::Relaxed);
        for hashing in std::mem::take(&mut end.hashing) {
            hashing.wait(PATIENCE); // a model that can't be hashed has no hash in the manifest
        }
        self.shared.check_replay(); // the model's hash is known by now
        if let Some(player) = &self.shared.player {
            self.replay(player.finish());
        }
        self.shared.queue.close();
        if let Some(writer) = end.writer.take() {
            let _ = writer.join(); // if it panicked, it failed, and said so
        }
        let parts = lock(&self.shared.parts);
        let summary = Summary {
            run: self.shared.run.clone(),
            dir: self.shared.dir.clone(),
            records: parts.iter().map(|p| p.rows).sum(),
            parts: parts.len() as u64,
            dropped: self.shared.dropped(),
        };
        drop(parts);
        let result = match self.shared.failure() {
            None => Ok(summary),
            Some(cause) => {
                // with what was dropped since; it may well fail for the same reason
                let _ = manifest::write(&self.shared, RunState::Failed);
                Err(failed(cause))
            }
        };
        if let Ok(summary) = &result
            && summary.dropped > 0
        {
            crate::tell!(
                "tensors missing from the run {}: {}; run.json counts why (dropped)",
                summary.run,
                summary.dropped
            );
        }
        if let Some(selection) = &self.shared.selection
            && let Ok(Summary {
                records: 0,
                dropped: 0,
                ..
            }) = &result
        {
            crate::tell!("{}", select::matched_nothing(selection, &self.shared.run));
        }
        end.result = Some(result.clone());
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.home.is_here() {
            if std::thread::panicking() && !self.shared.ended.load(Ordering::Relaxed) {
                self.shared.cut_short("the engine panicked".into());
            }
            let _ = self.finish(); // a failure was told on stderr when it happened
        } else {
            // these threads don't exist in a forked child, where their ids may be those of others by now
            let end = self.end.get_mut();
            std::mem::forget(std::mem::take(
                end.unwrap_or_else(std::sync::PoisonError::into_inner),
            ));
        }
    }
}
