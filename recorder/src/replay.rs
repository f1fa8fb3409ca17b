//! Replay: an engine goes on with tensors of a stored run in place of its own.

mod error;
#[cfg(feature = "trace")]
mod player;
#[cfg(feature = "trace")]
mod source;
#[cfg(feature = "trace")]
mod write;

pub use error::{Place, ReplayError};
#[cfg(feature = "trace")]
pub(crate) use player::Player;

use bitnet_trace_schema::selection::{Selection, SelectionError};
use std::path::PathBuf;

/// A stored run whose tensors an engine goes on with in place of its own, and at which stages.
///
/// What the engine has computed is recorded before it is replaced: so a run that replays another one everywhere
/// holds, of each stage, what *this* engine makes of the *other* one's inputs. Records correspond by request,
/// position, layer, stage and visit (the n-th of this key to the n-th), never by the number of a step. The stored run
/// must be complete and of the same model, KV type and attention; token ids must be the same; and of every tensor that
/// is to be replaced, each row must be there with the same shape and element type. Where something is not so, the replay
/// stops: [`Recorder::replay_error`](crate::Recorder::replay_error) says why, and the run is `failed`.
///
/// Rows that the stored run's engine left out of its last layer, since no output was asked for them, stay as they
/// are. `k_cache` and `v_cache` are never replaced: they are copies of `k_rope` and `v_proj`, whose replay they follow.
///
/// ```
/// use bitnet_trace::{Recorder, Replay};
///
/// let replay = Replay::of("traces/run=cpp").at("stage=layer_out,layer=0-5");
/// let builder = Recorder::builder("traces").replay(replay);
/// # let _ = builder;
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub struct Replay {
    pub(crate) path: PathBuf,
    /// `None` is everything.
    pub(crate) at: Result<Option<Selection>, SelectionError>,
    pub(crate) partial: bool,
    pub(crate) other_prompt: bool,
}

impl Replay {
    /// Everything of the run at `path`, a run's directory or a database, of which the newest run is taken.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            at: Ok(None),
            partial: false,
            other_prompt: false,
        }
    }

    /// Only these records, in the language of [`RecorderBuilder::select`](crate::RecorderBuilder::select); empty or `*`
    /// is everything. [`RecorderBuilder::build`](crate::RecorderBuilder::build) refuses what is not an expression.
    #[must_use]
    pub fn at(mut self, expression: impl AsRef<str>) -> Self {
        let expression = match expression.as_ref().trim() {
            "*" => "",
            other => other,
        };
        let parsed = expression.parse::<Selection>();
        self.at = parsed.map(|s| Some(s).filter(|s| !s.is_everything()));
        self
    }

    /// Leaves a tensor that the stored run lacks, or has in another shape, as the engine computed it, and counts it.
    #[must_use]
    pub fn partial(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }

    /// The engine is given other token ids than the stored run on purpose.
    #[must_use]
    pub fn other_prompt(mut self, other_prompt: bool) -> Self {
        self.other_prompt = other_prompt;
        self
    }
}
