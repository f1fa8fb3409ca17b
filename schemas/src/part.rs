//! Makes and reads the bytes of a part (feature `part`): see `FORMAT.md`, "A part, byte by byte".
//!
//! A [`PartEncoder`] is given rows and hands pages, scalar columns and the footer to a [`Sink`], which is
//! any [`std::io::Write`], or something that wants to know where each page ended. Creating, sealing and naming
//! the file is for the caller. A [`Part`] is the way back: it finds every row's scalars and where its values lie in
//! the bytes that it is given; reading or mapping the file is for the caller, too.
//!
//! ```
//! use bitnet_trace_schema::{DType, Layout, RecordMeta, Stats, part::{EncodeError, PartEncoder, Row}};
//!
//! # fn main() -> Result<(), EncodeError> {
//! let values = [3.0f32, -4.0];
//! let meta = RecordMeta {
//!     seq: 0, layer: -1, stage: "logits".into(), name: "".into(), op: "".into(), op_index: 0,
//!     request: 0, pass: 0, occurrence: 0, shape: vec![2], dtype: DType::F32, num_elements: 2,
//!     blake3: "0".repeat(64), stats: Stats::of_f32(&values),
//! };
//! let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
//! let mut file = Vec::new();
//! let mut part = PartEncoder::new("demo", "example", Layout::default())?;
//! part.push(&Row { meta: &meta, values: Some(&bytes), raw: None }, &mut file)?;
//! part.finish(&mut file)?;
//! assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
//! # Ok(())
//! # }
//! ```

mod decode;
mod encoder;
mod footer;
mod page;
mod scalars;
mod sink;

pub use decode::{Part, PartError, Place};
pub use encoder::{PartEncoder, Row};
pub use sink::{EncodeError, PageBytes, Sink};

#[cfg(test)]
mod tests;
