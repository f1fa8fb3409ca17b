//! `.trace` files: records without their elements, of the older tracing crate or of others.

use crate::{StoreError, scan};
use bitnet_trace_schema::trace_file::TraceFiles;
use bitnet_trace_schema::{
    Dropped, Engine, FORMAT_VERSION, Imported, Manifest, Observation, Owner, Preset, RecordMeta, RunState,
    Settings, StageGraph, ValuesMode, Writer, run_dir,
};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest file that is read: a million records or so.
const MAX_FILE: u64 = 512 << 20;

/// The records of some `.trace` files, which together are one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// The files, in the order in which they were read.
    pub files: Vec<PathBuf>,
    /// The records, in order of execution.
    pub records: Vec<RecordMeta>,
}

impl Traces {
    /// Whether a path given in place of a run is that of `.trace` files: one named `*.trace` or `*.jsonl`, or a
    /// folder with such files that is neither a run nor a database.
    pub fn are_at(path: &Path) -> bool {
        if !path.is_dir() {
            return path.is_file() && is_trace_name(path);
        }
        let is_ours =
            path.join(run_dir::MANIFEST).exists() || scan::run_names(path).is_ok_and(|n| !n.is_empty());
        !is_ours && in_folder(path).is_ok_and(|files| !files.is_empty())
    }

    /// Reads files, and the files `*.trace` and `*.jsonl` of folders, as one run.
    ///
    /// # Errors
    /// [`StoreError`] that names file and line where one is malformed, or if a folder holds none.
    pub fn read<P: AsRef<Path>>(paths: &[P], graph: StageGraph) -> Result<Self, StoreError> {
        let mut files = Vec::new();
        for path in paths {
            let path = path.as_ref();
            if !path.is_dir() {
                files.push(path.to_owned());
                continue;
            }
            let found = in_folder(path)?;
            if found.is_empty() {
                return Err(StoreError::NoTraceFiles {
                    path: path.into(),
                    found: scan::describe(path),
                });
            }
            files.extend(found);
        }
        let mut all = TraceFiles::new(graph);
        for path in &files {
            all.add(&read(path)?).map_err(|source| StoreError::TraceFile {
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self {
            records: all.records(),
            files,
        })
    }

    /// The manifest of a run that is made of them: complete, without parts.
    pub fn manifest(&self, run: &str) -> Manifest {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Manifest {
            format_version: FORMAT_VERSION,
            required_features: Vec::new(),
            run: run.to_owned(),
            state: RunState::Complete,
            failure: None,
            created_unix_ms: now,
            finished_unix_ms: Some(now),
            owner: Owner {
                pid: std::process::id(),
                start_ticks: 0,
                boot_id: String::new(),
                host: String::new(),
            },
            writer: Writer {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            engine: Engine::new("", ""),
            command_line: Vec::new(),
            model: None,
            settings: Settings::default(),
            prompt: None,
            prompt_tokens: None,
            sequences: Vec::new(),
            values: ValuesMode::Stats,
            preset: Preset::default(),
            queue_bytes: None,
            selection: None,
            imported: Some(Imported {
                format: Imported::TRACE.into(),
                files: self.files.iter().map(|f| f.display().to_string()).collect(),
            }),
            replay: None,
            observation: Observation::default(),
            records: self.records.len() as u64,
            dropped: Dropped::default(),
            parts: Vec::new(),
            recovery: None,
        }
    }
}

fn is_trace_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "trace" || e == "jsonl")
}

/// The `.trace` files of a folder, sorted by name. A folder of such a name is none.
fn in_folder(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let error = |e| StoreError::io("list", dir, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if is_trace_name(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let not = |problem: String| StoreError::NotATraceFile {
        path: path.into(),
        problem,
    };
    let error = |e| StoreError::io("read", path, e);
    let metadata = path.metadata().map_err(error)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for ever.
        return Err(not("is not a file".into()));
    }
    if metadata.len() > MAX_FILE {
        return Err(not(format!(
            "has {} bytes, more than {MAX_FILE}; split it",
            metadata.len()
        )));
    }
    std::fs::read(path).map_err(error)
}
