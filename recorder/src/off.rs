//! The recorder without feature `trace`: the same calls, which compile to nothing.

use crate::{
    Engine, Error, Model, Observation, RecorderBuilder, ReplayError, RunInfo, Settings, Summary, Tap,
    TensorError, TensorViewMut,
};
use std::path::{Path, PathBuf};

/// Records an engine's tensors. Built without feature `trace`, it is always off.
#[derive(Debug, Clone, Default)]
pub struct Recorder(());

impl Recorder {
    pub(crate) fn start(_: RecorderBuilder) -> Result<Self, Error> {
        Ok(Self(()))
    }

    /// A recorder that is off.
    #[inline]
    pub const fn off() -> Self {
        Self(())
    }

    /// A recorder that is off, whatever the environment says.
    #[inline]
    pub fn from_env(_engine: Engine) -> Self {
        Self(())
    }

    /// A recorder that is off, whatever the environment says.
    #[inline]
    pub fn global(_engine: Engine) -> &'static Self {
        static OFF: Recorder = Recorder(());
        &OFF
    }

    /// Sets up a recorder, which will be off.
    #[inline]
    pub fn builder(dir: impl Into<PathBuf>) -> RecorderBuilder {
        RecorderBuilder::new(dir.into())
    }

    /// False.
    #[inline]
    pub const fn is_on(&self) -> bool {
        false
    }

    /// False.
    #[inline]
    pub const fn wants(&self, _tap: &Tap<'_>) -> bool {
        false
    }

    /// A tracepoint that never wants anything.
    #[inline]
    pub const fn site(&self, _stage: &str) -> Site {
        Site(())
    }

    /// None.
    #[inline]
    pub const fn run(&self) -> Option<&str> {
        None
    }

    /// None.
    #[inline]
    pub const fn run_dir(&self) -> Option<&Path> {
        None
    }

    /// Nothing.
    #[inline]
    pub fn set_model(&self, _model: Model) {}

    /// Nothing.
    #[inline]
    pub fn set_settings(&self, _settings: Settings) {}

    /// Nothing; `edit` is not called.
    #[inline]
    pub fn describe(&self, _edit: impl FnOnce(&mut RunInfo)) {}

    /// Nothing.
    #[inline]
    pub fn set_prompt(&self, _text: &str, _tokens: usize) {}

    /// Nothing.
    #[inline]
    pub fn set_observation(&self, _observation: Observation) {}

    /// Nothing.
    #[inline]
    pub fn begin_pass(&self) {}

    /// Nothing.
    #[inline]
    pub fn tokens<I: Copy + Into<i64>>(&self, _request: i32, _first_seq: i64, _ids: &[I]) {}

    /// Nothing.
    #[inline(always)]
    pub fn record<T: ?Sized>(&self, _tap: Tap<'_>, _tensor: &T) {}

    /// Nothing.
    ///
    /// # Errors
    /// Never.
    #[inline(always)]
    pub fn try_record<T: ?Sized>(&self, _tap: Tap<'_>, _tensor: &T) -> Result<(), TensorError> {
        Ok(())
    }

    /// The tensor.
    #[inline(always)]
    pub fn through<T>(&self, _tap: Tap<'_>, tensor: T) -> T {
        tensor
    }

    /// False; nothing is replaced.
    #[inline(always)]
    pub fn replay(&self, _tap: Tap<'_>, _tensor: &mut TensorViewMut<'_>) -> bool {
        false
    }

    /// False; nothing is replaced.
    #[inline(always)]
    pub fn replay_recorded(&self, _tap: Tap<'_>, _tensor: &mut TensorViewMut<'_>) -> bool {
        false
    }

    /// False.
    #[inline]
    pub const fn is_replaying(&self) -> bool {
        false
    }

    /// None.
    #[inline]
    pub const fn replay_error(&self) -> Option<&ReplayError> {
        None
    }

    /// None.
    #[inline]
    pub const fn first_replayed(&self, _next: i64, _ids: &[i64]) -> Option<i64> {
        None
    }

    /// Nothing.
    #[inline]
    pub fn stop_replay(&self, _error: ReplayError) {}

    /// Nothing.
    #[inline]
    pub fn drop_tensor(&self, _tap: Tap<'_>, _reason: &str) {}

    /// Nothing.
    #[inline]
    pub fn fail(&self, _cause: &str) {}

    /// An empty summary.
    ///
    /// # Errors
    /// Never.
    #[inline]
    pub fn finish(&self) -> Result<Summary, Error> {
        Ok(Summary::default())
    }
}

/// A tracepoint of one stage. Built without feature `trace`, it never wants anything.
#[derive(Debug, Clone, Default)]
pub struct Site(());

impl Site {
    /// A tracepoint that never wants anything.
    #[inline]
    pub const fn off() -> Self {
        Self(())
    }

    /// False.
    #[inline(always)]
    pub const fn wants(&self, _layer: i32) -> bool {
        false
    }

    /// One that is off.
    #[inline(always)]
    pub fn recorder(&self) -> &Recorder {
        static OFF: Recorder = Recorder::off();
        &OFF
    }

    /// A tap that nobody takes.
    #[inline(always)]
    pub const fn tap(&self, layer: i32, seq: i64) -> Tap<'_> {
        Tap::new("", layer, seq)
    }

    /// Empty.
    #[inline]
    pub const fn stage(&self) -> &str {
        ""
    }

    /// Nothing.
    #[inline(always)]
    pub fn record<T: ?Sized>(&self, _tap: Tap<'_>, _tensor: &T) {}

    /// Nothing.
    ///
    /// # Errors
    /// Never.
    #[inline(always)]
    pub fn try_record<T: ?Sized>(&self, _tap: Tap<'_>, _tensor: &T) -> Result<(), TensorError> {
        Ok(())
    }
}

/// Nothing.
///
/// # Errors
/// Never.
#[inline(always)]
pub fn dump_trace<'a, T: ?Sized>(
    _name: &'a str,
    _tensor: &T,
    _seq: impl Into<Option<usize>>,
    _layer: impl Into<Option<isize>>,
    _stage: impl Into<Option<&'a str>>,
) -> Result<(), TensorError> {
    Ok(())
}
