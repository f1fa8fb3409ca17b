//! `.trace` files: records without their elements, as the older tracing crate writes them.
//!
//! A file holds JSON objects, one a line or each over several lines; `FORMAT.md` lists their keys. Such
//! records can be compared by hash and rms only.
//!
//! ```
//! use bitnet_trace_schema::{StageGraph, trace_file::TraceFiles};
//!
//! let mut files = TraceFiles::new(StageGraph::builtin());
//! let hash = "0".repeat(64);
//! files.add(format!(r#"{{"name": "t3/blk6/attn_out", "shape": [1, 576], "blake3": "{hash}", "rms": 1.5}}"#).as_bytes())?;
//! let records = files.records();
//! assert_eq!((records[0].seq, records[0].layer, records[0].stage.as_str()), (3, 6, "attn_out"));
//! # Ok::<(), bitnet_trace_schema::trace_file::TraceFileError>(())
//! ```

mod error;
mod record;
#[cfg(test)]
mod tests;

pub use error::{Shown, TraceFileError, TraceProblem};
pub use record::TraceRecord;

use crate::{Place, RecordMeta, StageGraph, Text};
use std::collections::HashMap;

/// Reads the objects of a file one after the other, each with the line that it begins in (from 1). After an
/// error there is nothing more.
#[derive(Debug, Clone)]
pub struct TraceReader<'a> {
    rest: &'a [u8],
    line: u64,
}

impl<'a> TraceReader<'a> {
    /// A reader of a file's bytes.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text, line: 1 }
    }

    fn skip(&mut self, bytes: usize) {
        let (over, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += over.iter().filter(|&&b| b == b'\n').count() as u64;
        self.rest = rest;
    }
}

impl Iterator for TraceReader<'_> {
    type Item = Result<(u64, TraceRecord), TraceFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let blanks = self.rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.skip(blanks);
        let line = self.line;
        let rest = std::mem::take(&mut self.rest);
        let failed = |line, problem| Some(Err(TraceFileError { line, problem }));
        // serde would also take an array for a struct.
        if *rest.first()? != b'{' {
            return failed(line, TraceProblem::NoObject);
        }
        let mut objects = serde_json::Deserializer::from_slice(rest).into_iter::<TraceRecord>();
        match objects.next()? {
            Ok(record) => {
                self.rest = rest;
                self.skip(objects.byte_offset());
                Some(Ok((line, record)))
            }
            Err(error) => failed(
                line + (error.line() as u64).saturating_sub(1),
                TraceProblem::json(&error),
            ),
        }
    }
}

/// The records of some files, which together are one run.
#[derive(Debug, Clone)]
pub struct TraceFiles {
    graph: StageGraph,
    files: usize,
    found: Vec<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    meta: RecordMeta,
    op_index: Option<i64>,
    /// Place in the vocabulary; for a stage that it lacks, that of the record before in the same file, or the
    /// end of its layer.
    place: Option<Place>,
}

impl TraceFiles {
    /// No file yet. `graph` tells the names that the older crate gives a stage (its aliases `trace`), and the
    /// order of execution of records that stand in several files.
    pub fn new(graph: StageGraph) -> Self {
        Self {
            graph,
            files: 0,
            found: Vec::new(),
        }
    }

    /// Reads a file, and returns how many records it holds: at least one.
    ///
    /// # Errors
    /// [`TraceFileError`]: the line, and what is wrong there. The records before it are kept.
    pub fn add(&mut self, text: &[u8]) -> Result<usize, TraceFileError> {
        let before = self.found.len();
        let mut place = None;
        for object in TraceReader::new(text) {
            let (line, record) = object?;
            let op_index = record.op_index;
            let meta = record
                .into_meta(&self.graph)
                .map_err(|problem| TraceFileError { line, problem })?;
            place = self.graph.place(&meta.stage, meta.layer).or(place);
            let place = place.or_else(|| (meta.layer >= 0).then(|| Place::end_of_layer(meta.layer)));
            self.found.push(Found {
                meta,
                op_index,
                place,
            });
        }
        if self.found.len() == before {
            return Err(TraceFileError {
                line: 1,
                problem: TraceProblem::Empty,
            });
        }
        self.files += 1;
        Ok(self.found.len() - before)
    }

    /// The records in order of execution, which `op_index` tells; a key's records are told apart by
    /// `occurrence`.
    ///
    /// The order is that of the files' `op_index` where every record has one; else that of the lines, in a
    /// single file; else that of the vocabulary at each position, for the time at which the files were
    /// written is lost as soon as they are copied.
    pub fn records(self) -> Vec<RecordMeta> {
        let mut found = self.found;
        let given = found.iter().all(|f| f.op_index.is_some());
        if given {
            found.sort_by_key(|f| f.op_index);
        } else if self.files > 1 {
            found.sort_by_key(|f| {
                let m = &f.meta;
                (m.pass, m.request, m.seq, f.place.is_none(), f.place)
            });
        }
        let mut seen: HashMap<(i32, i32, i64, i32, Text), i32> = HashMap::new();
        let mut records = Vec::with_capacity(found.len());
        for (i, f) in found.into_iter().enumerate() {
            let mut meta = f.meta;
            meta.op_index = f.op_index.filter(|_| given).unwrap_or(i as i64);
            let key = (meta.pass, meta.request, meta.seq, meta.layer, meta.stage.clone());
            let count = seen.entry(key).or_default();
            meta.occurrence = *count;
            *count = count.saturating_add(1);
            records.push(meta);
        }
        records
    }
}
