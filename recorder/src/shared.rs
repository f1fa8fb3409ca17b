//! What engine threads and the writer thread share: the queue, what is known of the run, what was lost.

use crate::sequences::{Sequences, Take};
use crate::{
    Engine, Preset, ReplayError, RunInfo, TensorError, Values, builder::Fixed, life::Life, lock, process,
    queue::Queue, queue::WhenFull, replay::Player,
};
use bitnet_trace_schema::selection::Selection;
use bitnet_trace_schema::{Dropped, FORMAT_VERSION, Manifest, Owner, PartEntry, RunState, Writer};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Reasons beyond this many are counted together.
const MAX_REASONS: usize = 64;

#[derive(Debug)]
pub(crate) struct Shared {
    pub run: String,
    pub dir: PathBuf,
    pub queue: Queue,
    pub values: Values,
    /// Whether packed elements are kept as f32 too.
    pub dequantize: bool,
    preset: Preset,
    queue_bytes: usize,
    /// What is wanted; `None` is everything.
    pub selection: Option<Selection>,
    pub writer: Writer,
    /// Whether tensors are taken. Every call looks here first.
    pub on: AtomicBool,
    /// Whether the engine ended the run.
    pub ended: AtomicBool,
    pub info: Mutex<RunInfo>,
    sequences: Mutex<Sequences>,
    /// Whether the manifest on disk is not up to date.
    pub changed: AtomicBool,
    /// The parts sealed so far.
    pub parts: Mutex<Vec<PartEntry>>,
    dropped: Mutex<Dropped>,
    failure: OnceLock<String>,
    engine: Engine,
    owner: Owner,
    command_line: Vec<String>,
    created_unix_ms: u64,
    fixed: bool,
    /// Held, not read.
    _life: Option<Life>,
    /// The stored run that the engine goes on with, if there is one.
    pub player: Option<Player>,
}

impl Shared {
    pub fn new(run: String, dir: PathBuf, builder: crate::RecorderBuilder, player: Option<Player>) -> Self {
        let (created_unix_ms, owner, command_line) = match builder.fixed {
            Some(Fixed { unix_ms }) => (unix_ms, process::fixed_owner(), Vec::new()),
            None => (process::unix_ms(), process::owner(), process::command_line()),
        };
        let version = match builder.fixed {
            Some(_) => "0",
            None => env!("CARGO_PKG_VERSION"),
        };
        let when_full = match builder.preset {
            Preset::Lossy => WhenFull::Refuse,
            Preset::Default | Preset::Durable => WhenFull::Wait,
        };
        let life = Life::show(&dir);
        Self {
            run,
            dir,
            writer: Writer {
                name: env!("CARGO_PKG_NAME").into(),
                version: version.into(),
            },
            queue: Queue::new(builder.queue_bytes, when_full),
            values: builder.values,
            dequantize: builder.dequantize,
            preset: builder.preset,
            queue_bytes: builder.queue_bytes,
            selection: builder.selection.ok().flatten(),
            on: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            info: Mutex::default(),
            sequences: Mutex::default(),
            changed: AtomicBool::new(false),
            parts: Mutex::default(),
            dropped: Mutex::default(),
            failure: OnceLock::new(),
            engine: builder.engine,
            owner,
            command_line,
            created_unix_ms,
            fixed: builder.fixed.is_some(),
            _life: life,
            player,
        }
    }

    /// Counts a tensor that was not recorded; tells of the first one, unless that the run failed says it.
    pub fn count(&self, stage: &str, layer: i32, error: &TensorError) {
        let told = *error == TensorError::Closed && self.failure().is_some();
        if self.count_reason(&error.reason(), 1) == 1 && !told {
            crate::tell!(
                "a tensor of stage {stage:?}, layer {layer}, was not recorded: {error}. \
                 More like it are only counted, in {}",
                self.dir.join(bitnet_trace_schema::run_dir::MANIFEST).display()
            );
        }
    }

    /// Adds to the count of a reason, and returns how many tensors were not recorded in all.
    pub fn count_reason(&self, reason: &str, n: u64) -> u64 {
        let mut dropped = lock(&self.dropped);
        let room = dropped.reasons.len() < MAX_REASONS || dropped.reasons.contains_key(reason);
        let reason = if room { reason } else { "other reasons" };
        *dropped.reasons.entry(reason.to_owned()).or_default() += n;
        dropped.total += n;
        self.changed.store(true, Ordering::Relaxed);
        dropped.total
    }

    pub fn dropped(&self) -> u64 {
        lock(&self.dropped).total
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The writer gives up: says so once, lets the engine go on, and loses what is queued and the
    /// `unsealed` tensors that it was given.
    pub fn fail(&self, cause: String, unsealed: u64) {
        self.on.store(false, Ordering::Relaxed);
        // Set before any tensor is refused for it, which would be told of beside it.
        let is_first = self.failure.set(cause).is_ok();
        let waiting = self.queue.fail();
        if waiting + unsealed > 0 {
            self.count_reason(&TensorError::Closed.reason(), waiting + unsealed);
        }
        if is_first {
            crate::tell!(
                "recording of the run {} stops: {}. The engine goes on; parts that were sealed \
                 before stay readable",
                self.run,
                self.failure().unwrap_or_default()
            );
        }
    }

    /// The engine gives up: what it recorded is written, and the run is not complete.
    pub fn cut_short(&self, cause: String) {
        if self.failure.set(cause).is_ok() {
            crate::tell!(
                "the run {} is not complete: {}",
                self.run,
                self.failure().unwrap_or_default()
            );
        }
    }

    /// The replay goes no further, and the run is not what was asked for.
    pub fn stop_replay(&self, error: ReplayError) {
        if let Some(player) = &self.player {
            let cause = format!("the replay stopped: {error}");
            if player.stop(error) {
                self.cut_short(cause);
            }
        }
    }

    /// Compares what is known of this run with the one that is replayed.
    pub fn check_replay(&self) {
        if let Some(player) = &self.player {
            let checked = player.check(&lock(&self.info));
            if let Err(error) = checked {
                self.stop_replay(error);
            }
        }
    }

    /// Notes token ids; ids below 0 and positions out of range are not known.
    pub fn tokens(&self, request: i32, first_seq: i64, ids: &mut dyn Iterator<Item = i64>) {
        lock(&self.sequences).note(request, first_seq, ids);
    }

    /// Whether token ids came since they were [taken](Self::take_tokens).
    pub fn has_tokens(&self) -> bool {
        lock(&self.sequences).has_news()
    }

    /// Hands out the token ids that came since the last call; see [`Sequences::take_news`].
    pub fn take_tokens(&self, take: &mut Take<'_>) {
        lock(&self.sequences).take_news(take);
    }

    /// Whether what is written must survive a power loss.
    pub fn is_durable(&self) -> bool {
        self.preset == Preset::Durable
    }

    /// The manifest as it stands now.
    pub fn manifest(&self, state: RunState) -> Manifest {
        let parts = lock(&self.parts).clone();
        let info = lock(&self.info).clone();
        let finished = match (state, self.fixed) {
            (RunState::Recording, _) => None,
            (_, true) => Some(self.created_unix_ms),
            _ => Some(process::unix_ms()),
        };
        Manifest {
            format_version: FORMAT_VERSION,
            required_features: Vec::new(),
            run: self.run.clone(),
            state,
            failure: self.failure().map(str::to_owned),
            created_unix_ms: self.created_unix_ms,
            finished_unix_ms: finished,
            owner: self.owner.clone(),
            writer: self.writer.clone(),
            engine: self.engine.clone(),
            command_line: self.command_line.clone(),
            model: info.model,
            settings: info.settings,
            prompt: info.prompt,
            prompt_tokens: info.prompt_tokens,
            sequences: lock(&self.sequences).list(),
            values: self.values,
            preset: self.preset,
            queue_bytes: Some(self.queue_bytes as u64),
            selection: self.selection.as_ref().map(Selection::to_string),
            imported: None,
            replay: self.player.as_ref().map(Player::replayed),
            observation: info.observation,
            records: parts.iter().map(|p| p.rows).sum(),
            dropped: lock(&self.dropped).clone(),
            parts,
            recovery: None,
        }
    }
}
