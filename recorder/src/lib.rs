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
//! # let dir = std::env::temp_dir().join(format!("bitnet-trace-lib-{}", std::process::id()));
//! # fn main() -> Result<(), bitnet_trace::Error> {
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
#![forbid(unsafe_code)]

mod builder;
mod error;
mod impls;
mod off;
mod summary;
mod tap;
mod tensor;

pub use bitnet_trace_schema::{DType, Engine, Model, Observation, Settings, ValuesMode as Values};
pub use builder::{DEFAULT_QUEUE_BYTES, Layout, RecorderBuilder};
pub use error::{Error, TensorError};
pub use impls::slice::{Element, Slice, bytes_of};
pub use off::Recorder;
pub use summary::Summary;
pub use tap::Tap;
pub use tensor::{AsTensor, TensorView};
