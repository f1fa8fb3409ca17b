//! Records every tensor of an inference engine to Parquet.
//!
//! A [`Recorder`] belongs to one run of one engine. The engine tells it what it knows of the run (model,
//! settings, token ids), then hands it each tensor with a [`Tap`] that says where the tensor stands:
//! stage, layer, position, and which axis counts tokens. Anything that shows its memory as a
//! [`TensorView`] can be recorded ([`AsTensor`]): slices, `ndarray` arrays, candle tensors, your own type.
//! [`Recorder::record`] copies the tensor into a bounded queue; a writer thread divides it into one
//! record a token, hashes, computes statistics, and writes Parquet parts that DuckDB, pandas and
//! `bitnet-diff` read.
//!
//! Recording never fails towards the engine: what cannot be recorded is counted in the run's manifest.
//! With the environment variable `BITNET_TRACE_DIR` unset the recorder is off; without the feature
//! `trace` every call is empty.
//!
//! ```
//! use bitnet_trace::{Engine, Recorder, Slice, Tap};
//!
//! # fn main() -> Result<(), bitnet_trace::Error> {
//! # let dir = std::env::temp_dir().join(format!("bitnet-trace-lib-{}", std::process::id()));
//! let recorder = Recorder::builder(&dir).engine(Engine::new("my-engine", "1.0")).run("demo").build()?;
//! recorder.begin_pass();
//! recorder.tokens(0, 0, &[504, 3575]); // two tokens of request 0, from position 0
//! let embeddings = [0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6];
//! recorder.record(Tap::new("embeddings", -1, 0).token_axis(0), &Slice::new(&embeddings, &[2, 3]));
//! let summary = recorder.finish()?;
//! # #[cfg(feature = "trace")]
//! assert_eq!((summary.run.as_str(), summary.records), ("demo", 2));
//! # let _ = std::fs::remove_dir_all(&dir);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("the recorder writes tensors as they lie in memory, and the format is little-endian");

/// A line on stderr.
#[cfg(feature = "trace")]
macro_rules! tell {
    ($($text:tt)*) => { $crate::line(format_args!($($text)*)) };
}
#[cfg(feature = "trace")]
use tell;

mod builder;
mod error;
mod impls;
mod info;
mod summary;
mod tap;
mod tensor;

#[cfg(feature = "trace")]
mod dump;
#[cfg(feature = "trace")]
mod env;
#[cfg(feature = "trace")]
mod exit;
#[cfg(feature = "trace")]
mod fork;
#[cfg(feature = "trace")]
mod gather;
#[cfg(feature = "trace")]
mod job;
#[cfg(feature = "trace")]
mod life;
#[cfg(feature = "trace")]
mod model;
#[cfg(not(feature = "trace"))]
mod off;
mod pass;
#[cfg(feature = "trace")]
mod process;
#[cfg(feature = "trace")]
mod queue;
#[cfg(feature = "trace")]
mod recorder;
mod replay;
#[cfg(feature = "trace")]
mod run;
#[cfg(feature = "trace")]
mod select;
#[cfg(feature = "trace")]
mod sequences;
#[cfg(feature = "trace")]
mod shared;
#[cfg(feature = "trace")]
mod signals;
#[cfg(feature = "trace")]
mod site;
#[cfg(feature = "trace")]
mod stream;
#[cfg(feature = "trace")]
mod writer;

pub use bitnet_trace_schema::{
    DType, Engine, LAYER_ALL, LAYER_MODEL, Layout, Model, Observation, Preset, Settings, ValuesMode as Values,
};
pub use builder::{DEFAULT_QUEUE_BYTES, RecorderBuilder};
#[cfg(feature = "trace")]
pub use dump::dump_trace;
pub use error::{Error, TensorError};
pub use impls::slice::{Element, Slice, bytes_of};
pub use info::RunInfo;
#[cfg(not(feature = "trace"))]
pub use off::{Recorder, Site, dump_trace};
pub use pass::{LayerNumber, Pass};
#[cfg(feature = "trace")]
pub use recorder::Recorder;
pub use replay::{Place, Replay, ReplayError};
#[cfg(feature = "trace")]
pub use site::Site;
pub use summary::Summary;
pub use tap::Tap;
pub use tensor::{AsTensor, TensorView, TensorViewMut};

/// The README's examples, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// A line on stderr. Unlike `eprintln!` it neither panics nor ends the process where stderr is closed.
#[cfg(feature = "trace")]
fn line(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    signals::blocked(|| {
        let _ = writeln!(std::io::stderr(), "bitnet-trace: {text}");
    });
}

/// A lock that a panicked thread left behind is taken all the same: recording never panics.
#[cfg(feature = "trace")]
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
