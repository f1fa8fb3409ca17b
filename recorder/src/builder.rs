use crate::{Engine, Error, Layout, Preset, Recorder, Replay, ReplayError, Values};
use bitnet_trace_schema::selection::{Selection, SelectionError};
use std::path::PathBuf;

/// Most bytes that wait in the queue, unless the builder says otherwise: 256 MiB.
pub const DEFAULT_QUEUE_BYTES: usize = 256 << 20;

/// Sets up a [`Recorder`] in code rather than from the environment.
///
/// ```
/// use bitnet_trace::{Engine, Recorder, Values};
///
/// # fn main() -> Result<(), bitnet_trace::Error> {
/// # let dir = std::env::temp_dir().join(format!("bitnet-trace-doc-{}", std::process::id()));
/// let recorder = Recorder::builder(&dir)
///     .engine(Engine::new("my-engine", "1.0"))
///     .run("baseline")
///     .values(Values::Full)
///     .build()?;
/// recorder.finish()?;
/// # let _ = std::fs::remove_dir_all(&dir);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub struct RecorderBuilder {
    pub(crate) dir: PathBuf,
    pub(crate) run: Option<String>,
    pub(crate) engine: Engine,
    pub(crate) values: Values,
    pub(crate) dequantize: bool,
    /// `None` is everything.
    pub(crate) selection: Result<Option<Selection>, SelectionError>,
    /// What is replayed, or why the environment does not tell.
    pub(crate) replay: Option<Result<Replay, ReplayError>>,
    /// Whether a run that cannot be replayed is recorded all the same, as `failed`.
    pub(crate) record_anyhow: bool,
    pub(crate) preset: Preset,
    pub(crate) queue_bytes: usize,
    pub(crate) layout: Layout,
    pub(crate) fixed: Option<Fixed>,
}

/// What differs from run to run and from release to release, held still.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub(crate) struct Fixed {
    pub unix_ms: u64,
}

impl RecorderBuilder {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            run: None,
            engine: Engine::new("unknown", ""),
            values: Values::Full,
            dequantize: false,
            selection: Ok(None),
            replay: None,
            record_anyhow: false,
            preset: Preset::Default,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            layout: Layout::default(),
            fixed: None,
        }
    }

    /// The engine whose tensors are recorded.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// The run's name: 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with a dot. Where a run of that name
    /// exists, `-2`, `-3`, ... is appended. Without a name, engine, time and process id make one.
    pub fn run(mut self, name: impl Into<String>) -> Self {
        self.run = Some(name.into());
        self
    }

    /// Whether elements are kept, or only their hash and statistics.
    pub fn values(mut self, values: Values) -> Self {
        self.values = values;
        self
    }

    /// Whether records of packed dtypes keep their dequantised elements in `values`, beside their original bytes.
    /// Without it a reader dequantises them when it needs to.
    pub fn dequantize(mut self, dequantize: bool) -> Self {
        self.dequantize = dequantize;
        self
    }

    /// Which records are kept, such as `seq=0-2,layer=6,stage=attn_*;layer=-1`: alternatives with `;`, terms
    /// that must all hold with `,`, values with `|`, `!=` to exclude. The keys are seq, layer, stage and
    /// request. Empty, as without this call: everything. What is not selected is not touched, and counts neither
    /// as dropped nor as missing. [`RecorderBuilder::build`] refuses what is not an expression.
    pub fn select(mut self, expression: impl AsRef<str>) -> Self {
        let parsed = expression.as_ref().parse::<Selection>();
        self.selection = parsed.map(|s| Some(s).filter(|s| !s.is_everything()));
        self
    }

    /// A stored run whose tensors the engine goes on with in place of its own, where it hands over what it
    /// [goes on](Recorder::through) with. [`RecorderBuilder::build`] refuses one that cannot be replayed.
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = Some(Ok(replay));
        self
    }

    /// Whether the engine waits when the queue is full ([`Preset::Default`], [`Preset::Durable`]) or tensors are
    /// dropped and counted ([`Preset::Lossy`]), and whether what is written survives a power loss
    /// ([`Preset::Durable`]).
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// Most bytes of tensors that wait for the writer ([`DEFAULT_QUEUE_BYTES`]): what the recorder's copies take
    /// in memory, and the most that a crash loses. When they are reached, [`Recorder::record`] does what the
    /// [preset](RecorderBuilder::preset) says. A tensor larger than this is taken when the queue is empty.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Sizes of pages, row groups and parts. The default is measured; tests make them small. Pages and row groups
    /// stay within 1 GiB whatever is asked for.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Writes time, process, command line and the recorder's version as constants: golden traces.
    #[doc(hidden)]
    pub fn fixed(mut self, unix_ms: u64) -> Self {
        self.fixed = Some(Fixed { unix_ms });
        self
    }

    /// Creates the run's directory and starts the recorder.
    ///
    /// # Errors
    /// [`Error::RunName`], [`Error::Selection`], [`Error::Replay`], [`Error::Directory`], [`Error::TooManyRuns`] or
    /// [`Error::Thread`]. Never without feature `trace`: the recorder is off then.
    pub fn build(self) -> Result<Recorder, Error> {
        Recorder::start(self)
    }
}
