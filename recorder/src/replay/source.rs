//! A stored run, as far as it is replayed: where each record's values are.
#![allow(unsafe_code)]

use super::{Place, Replay, ReplayError};
use bitnet_trace_schema::part::{Part, PartError};
use bitnet_trace_schema::selection::Selection;
use bitnet_trace_schema::{DType, Manifest, RunState, ValuesMode, run_dir};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A manifest has an id a token, and little else that grows.
const MAX_MANIFEST: u64 = 256 << 20;

/// Request, position, layer, stage.
type Key = (i32, i64, i32, u32);

/// A stored run. Its parts are mapped while their rows are listed, and read when a row is wanted: a file that somebody
/// truncates must not end the host.
#[derive(Debug)]
pub(super) struct Source {
    pub manifest: Manifest,
    pub path: PathBuf,
    parts: Vec<File>,
    stages: HashMap<String, u32>,
    shapes: Vec<Vec<i64>>,
    /// By key, and in order of execution.
    rows: Vec<Row>,
    positions: HashSet<(i32, i64)>,
    /// The layers and stages that any position has.
    kinds: HashSet<(i32, u32)>,
    last_layer: i32,
    selection: Option<Selection>,
}

#[derive(Debug)]
pub(super) struct Row {
    key: Key,
    /// Order of execution: pass and occurrence follow from it.
    order: i64,
    part: u32,
    offset: u64,
    elements: u64,
    shape: u32,
    pub dtype: DType,
    /// The first bytes of the hash of the original bytes.
    hash: [u8; 16],
}

/// Why a record is not there.
pub(super) enum Absent {
    /// Its engine did not compute the row, and nothing follows from it.
    Pruned,
    Missing(ReplayError),
}

impl Source {
    pub fn open(replay: &Replay) -> Result<Self, ReplayError> {
        let selection = replay
            .at
            .as_ref()
            .map_err(|e| ReplayError::Selection(e.clone()))?;
        let path = resolve(&replay.path)?;
        let manifest = manifest(&path)?;
        check(&manifest, replay.partial)?;
        let mut source = Self {
            selection: manifest.selection.as_ref().and_then(|s| s.parse().ok()),
            manifest,
            path,
            parts: Vec::new(),
            stages: HashMap::new(),
            shapes: Vec::new(),
            rows: Vec::new(),
            positions: HashSet::new(),
            kinds: HashSet::new(),
            last_layer: -1,
        };
        for entry in source.manifest.parts.clone() {
            let path = source.path.join(&entry.file);
            let unreadable = |cause: String| ReplayError::Unreadable {
                path: path.clone(),
                cause,
            };
            let file = open(&path).map_err(|e| unreadable(e.to_string()))?;
            let bytes = map(&file, entry.bytes).map_err(unreadable)?;
            let part = Part::read(bytes, &source.manifest.run).map_err(|e| unreadable(e.to_string()))?;
            if part.rows() != entry.rows {
                let (found, listed) = (part.rows(), entry.rows);
                return Err(unreadable(format!(
                    "it has {found} rows, run.json lists {listed}"
                )));
            }
            (source.list(&part, selection.as_ref())).map_err(|e| unreadable(e.to_string()))?;
            source.parts.push(file);
        }
        source.rows.sort_by_key(|row| (row.key, row.order));
        Ok(source)
    }

    pub fn run(&self) -> String {
        self.manifest.run.clone()
    }

    fn list(&mut self, part: &Part, selection: Option<&Selection>) -> Result<(), PartError> {
        let number = self.parts.len() as u32;
        let mut shapes: HashMap<Vec<i64>, u32> = HashMap::new();
        part.for_each_row(|row, meta, place| {
            let next = self.stages.len() as u32;
            let stage = match self.stages.get(meta.stage.as_str()) {
                Some(&stage) => stage,
                None => *self.stages.entry(meta.stage.to_string()).or_insert(next),
            };
            self.last_layer = self.last_layer.max(meta.layer);
            self.positions.insert((meta.request, meta.seq));
            self.kinds.insert((meta.layer, stage));
            let wanted =
                selection.is_none_or(|s| s.tokens(&meta.stage, meta.layer).wants(meta.seq, meta.request));
            let (Some((offset, elements)), true) =
                (place.values, wanted && super::player::replays(&meta.stage))
            else {
                return Ok(());
            };
            let all = &mut self.shapes;
            let shape = *shapes.entry(meta.shape).or_insert_with_key(|shape| {
                all.push(shape.clone());
                all.len() as u32 - 1
            });
            let mut hash = [0; 16];
            for (to, digits) in hash.iter_mut().zip(meta.blake3.as_bytes().chunks_exact(2)) {
                let digits = std::str::from_utf8(digits).unwrap_or_default();
                *to = u8::from_str_radix(digits, 16).map_err(|_| PartError::Row {
                    row,
                    problem: "its hash is not hexadecimal".into(),
                })?;
            }
            self.rows.push(Row {
                key: (meta.request, meta.seq, meta.layer, stage),
                order: meta.op_index,
                part: number,
                offset,
                elements,
                shape,
                dtype: meta.dtype,
                hash,
            });
            Ok(())
        })
    }

    /// The id at a position, where the run knows one that never changed; or that it did not compute the position.
    pub fn id(&self, request: i32, seq: i64) -> Result<Option<i32>, ReplayError> {
        if !self.positions.contains(&(request, seq)) {
            let run = self.run();
            return Err(ReplayError::Position { run, request, seq });
        }
        let sequence = self.manifest.sequences.iter().find(|s| s.request == request);
        Ok(sequence.filter(|s| s.rewrites == 0).and_then(|s| {
            let at = usize::try_from(seq).ok()?;
            *s.ids.get(at)?
        }))
    }

    /// Whether ids of `request` from position `first` on may be these.
    pub fn may_hold(&self, request: i32, first: i64, ids: &[i64]) -> bool {
        (first..).zip(ids).all(|(seq, &id)| match self.id(request, seq) {
            Ok(Some(known)) => i64::from(known) == id,
            Ok(None) => true,
            Err(_) => false,
        })
    }

    /// Whether the first position of the first request was computed again after those visits.
    pub fn begins_again(&self, visits: &HashMap<usize, u32>) -> bool {
        let first = self.rows.partition_point(|row| (row.key.0, row.key.1) < (0, 0));
        let Some(row) = self
            .rows
            .get(first)
            .filter(|row| (row.key.0, row.key.1) == (0, 0))
        else {
            return true; // nothing tells
        };
        let next = first + visits.get(&first).map_or(0, |&n| n as usize);
        self.rows.get(next).is_some_and(|found| found.key == row.key)
    }

    /// The number of the `visit`-th record of a key.
    pub fn find(&self, place: &Place, visits: &mut HashMap<usize, u32>) -> Result<usize, Absent> {
        let missing = || {
            if let Err(beyond) = self.id(place.request, place.seq) {
                return Absent::Missing(beyond);
            }
            let why = self.why_missing(place);
            let run = self.run();
            Absent::Missing(ReplayError::Missing {
                run,
                place: place.clone(),
                why,
            })
        };
        let Some(&stage) = self.stages.get(&place.stage) else {
            return Err(missing());
        };
        let key = (place.request, place.seq, place.layer, stage);
        let first = self.rows.partition_point(|row| row.key < key);
        let is_of_key = |at: usize| self.rows.get(at).is_some_and(|row| row.key == key);
        if !is_of_key(first) && self.is_pruned(place, stage) {
            return Err(Absent::Pruned);
        }
        let visit = if is_of_key(first) {
            visits.entry(first).or_default()
        } else {
            &mut 0
        };
        let found = first + *visit as usize;
        if !is_of_key(found) {
            return Err(missing());
        }
        *visit += 1;
        Ok(found)
    }

    /// An engine may leave out what no output follows from: of the last layer and what comes after it, the rows without an
    /// output. Then others have the stage, and this one has earlier ones.
    fn is_pruned(&self, place: &Place, stage: u32) -> bool {
        let behind = if place.layer < 0 {
            place.stage != "embeddings"
        } else {
            place.layer == self.last_layer
        };
        behind
            && self.manifest.state == RunState::Complete
            && self.manifest.dropped.total == 0
            && self.positions.contains(&(place.request, place.seq))
            && self.kinds.contains(&(place.layer, stage))
            && self.was_selected(place)
    }

    fn was_selected(&self, place: &Place) -> bool {
        let wanted = |s: &Selection| {
            s.tokens(&place.stage, place.layer)
                .wants(place.seq, place.request)
        };
        self.selection.as_ref().is_none_or(wanted)
    }

    fn why_missing(&self, place: &Place) -> String {
        let fused = self.manifest.settings.flash_attention == Some(true);
        if let Some(selection) = self
            .manifest
            .selection
            .as_ref()
            .filter(|_| !self.was_selected(place))
        {
            return format!(": it was recorded with the selection \"{selection}\"");
        }
        if matches!(place.stage.as_str(), "attn_scores" | "attn_probs") && fused {
            return ": its attention was fused (flash attention), which has no scores and probabilities"
                .into();
        }
        match self.stages.get(&place.stage) {
            None => ": its engine does not record this stage; leave it out of what is replayed".into(),
            Some(_) => String::new(),
        }
    }

    pub fn row(&self, number: usize) -> Option<(&Row, &[i64])> {
        let row = self.rows.get(number)?;
        Some((row, self.shapes.get(row.shape as usize)?))
    }

    /// Puts the bytes of a record, as its engine had them, into `bytes`.
    pub fn read(&self, row: &Row, place: &Place, bytes: &mut Vec<u8>) -> Result<(), ReplayError> {
        let damaged = |cause: String| ReplayError::Damaged {
            run: self.run(),
            place: place.clone(),
            cause,
        };
        let file = self
            .parts
            .get(row.part as usize)
            .ok_or_else(|| damaged("it has no part".into()))?;
        // The part's levels were checked against its size: this is less than the file.
        let size = row.elements as usize * 4;
        bytes.clear();
        bytes
            .try_reserve_exact(size)
            .map_err(|_| damaged(format!("no memory for {size} bytes")))?;
        bytes.resize(size, 0);
        file.read_exact_at(bytes, row.offset)
            .map_err(|e| damaged(e.to_string()))?;
        super::write::narrow(row.dtype, bytes);
        if blake3::hash(bytes).as_bytes()[..16] != row.hash {
            return Err(damaged(
                "its values do not have the hash that was recorded".into(),
            ));
        }
        Ok(())
    }
}

/// The run at a path: itself, or the newest of a database.
fn resolve(path: &Path) -> Result<PathBuf, ReplayError> {
    if path.join(run_dir::MANIFEST).is_file() {
        return Ok(path.to_owned());
    }
    let unreadable = |cause: String| ReplayError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let entries = std::fs::read_dir(path).map_err(|e| unreadable(e.to_string()))?;
    let runs = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        run_dir::run_of_dir(name.to_str()?)?;
        let run = manifest(&entry.path()).ok()?;
        (run.state != RunState::Recording).then(|| (run.created_unix_ms, run.run, entry.path()))
    });
    let newest = runs.max().map(|(_, _, path)| path);
    newest.ok_or_else(|| unreadable("it is neither a run nor a database that holds one".into()))
}

fn manifest(run: &Path) -> Result<Manifest, ReplayError> {
    let path = run.join(run_dir::MANIFEST);
    let unreadable = |cause: String| ReplayError::Unreadable {
        path: path.clone(),
        cause,
    };
    let mut bytes = Vec::new();
    let file = open(&path).map_err(|e| unreadable(e.to_string()))?;
    let read = file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes);
    read.map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(unreadable("it is larger than a manifest can be".into()));
    }
    Manifest::from_json(&bytes).map_err(|e| unreadable(e.to_string()))
}

fn check(manifest: &Manifest, partial: bool) -> Result<(), ReplayError> {
    let run = manifest.run.clone();
    if manifest.values == ValuesMode::Stats || manifest.imported.is_some() {
        return Err(ReplayError::NoValues { run });
    }
    let why = match manifest.state {
        RunState::Recording => Some("it is being recorded".to_owned()),
        RunState::Complete if manifest.dropped.total == 0 => None,
        _ if partial => None,
        RunState::Complete => Some(format!("{} tensors were not recorded", manifest.dropped.total)),
        state => Some(format!("it is {}", state.name())),
    };
    why.map_or(Ok(()), |why| Err(ReplayError::Incomplete { run, why }))
}

/// Opens a regular file; to open a pipe would wait for its other end.
fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

fn map(file: &File, listed: u64) -> Result<Bytes, String> {
    let found = file.metadata().map_err(|e| e.to_string())?.len();
    if found != listed || found == 0 {
        return Err(format!("it has {found} bytes, run.json lists {listed}"));
    }
    // SAFETY: a sealed part is never written again: that is the format's contract. The map lives while rows are listed,
    // and what is read from it is checked; values are read from the file.
    let map = unsafe { memmap2::Mmap::map(file) }.map_err(|e| e.to_string())?;
    Ok(Bytes::from_owner(map))
}
