//! What each fuzz target checks, and how it changes its inputs.
//!
//! A check takes any bytes and panics if the reader does not do what it should with them. The tests of the
//! crates that own the readers give the same checks the seeds ([`replay`]), so that they know nothing of fuzzing.

pub mod archive;
pub mod floor;
pub mod gguf;
pub mod journal;
pub mod manifest;
pub mod mapping;
pub mod mutate;
pub mod part;
pub mod read;
pub mod replay;
pub mod rows;
pub mod run;
pub mod selection;
pub mod stages;
pub mod tolerance;
pub mod trace_file;
