//! What lies on disk: the runs of a folder, and the files of a run, without reading any part.

use crate::{Reason, StoreError, completeness, recover};
use bitnet_trace_schema::{Manifest, RunState, run_dir};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Largest manifest that is read. Token ids make them large: this is some millions of tokens.
const MAX_MANIFEST: u64 = 64 << 20;
/// Most of a part's end that is hashed to tell whether it is the part that was indexed.
const MAX_FOOTER: u64 = 16 << 20;

/// The files of a run, as they were when it was scanned.
#[derive(Debug)]
pub(crate) struct RunFiles {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    /// `run.json` as it is.
    pub(crate) manifest_text: String,
    /// The parts to read, by number.
    pub(crate) parts: BTreeMap<u32, PartStat>,
    /// Why the run is incomplete, as far as files and manifest tell.
    pub(crate) reasons: Vec<Reason>,
}

/// A part's file, and what tells whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartStat {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) mtime_ns: i64,
    /// BLAKE3 of the footer, as hex.
    pub(crate) footer: String,
    /// Rows that the manifest lists, if it lists the part.
    pub(crate) listed_rows: Option<u64>,
}

/// Names of the runs in a folder, sorted.
pub(crate) fn run_names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names: Vec<String> = entries(dir)?
        .iter()
        .filter_map(|file| run_dir::run_of_dir(file).map(str::to_owned))
        .filter(|name| dir.join(run_dir::dir_name(name)).is_dir())
        .collect();
    names.sort();
    Ok(names)
}

/// What a folder without runs holds, in words.
pub(crate) fn describe(dir: &Path) -> String {
    match entries(dir) {
        Ok(mut files) if !files.is_empty() => {
            files.sort();
            let more = files.len().saturating_sub(3);
            files.truncate(3);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("{}{more}", files.join(", "))
        }
        _ => "nothing".into(),
    }
}

/// File names in a directory, those that are not Unicode left out: none of ours is such.
fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let error = |e| StoreError::io("list", dir, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        files.extend(entry.map_err(error)?.file_name().into_string());
    }
    Ok(files)
}

/// Reads `run.json`.
pub(crate) fn manifest(dir: &Path) -> Result<(Manifest, String), StoreError> {
    let path = dir.join(run_dir::MANIFEST);
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::NoManifest { path: dir.into() }),
        other => other.map_err(|e| StoreError::io("open", &path, e))?,
    };
    let bytes = file
        .metadata()
        .map_err(|e| StoreError::io("read", &path, e))?
        .len();
    if bytes > MAX_MANIFEST {
        return Err(StoreError::ManifestSize {
            path,
            bytes,
            limit: MAX_MANIFEST,
        });
    }
    let mut text = Vec::with_capacity(bytes as usize + 1);
    let read = file.take(MAX_MANIFEST).read_to_end(&mut text);
    read.map_err(|e| StoreError::io("read", &path, e))?;
    let manifest = Manifest::from_json(&text).map_err(|source| StoreError::Manifest { path, source })?;
    Ok((manifest, String::from_utf8_lossy(&text).into_owned()))
}

/// When a run began; the directory's time where its manifest cannot be read.
pub(crate) fn created_unix_ms(dir: &Path) -> u64 {
    match manifest(dir) {
        Ok((manifest, _)) => manifest.created_unix_ms,
        Err(_) => {
            let modified = dir.metadata().and_then(|m| m.modified()).ok();
            let since = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
        }
    }
}

/// Lists a run's files and compares them with its manifest.
pub(crate) fn run(dir: &Path, name: &str) -> Result<RunFiles, StoreError> {
    let read = || manifest(dir);
    let (mut manifest, mut manifest_text) = read()?;
    let mut blocked = None;
    if manifest.state == RunState::Recording {
        blocked = recover::quietly(dir);
        (manifest, manifest_text) = read()?;
    }
    let mut reasons = completeness::of_manifest(&manifest);
    reasons.extend(blocked.map(|cause| Reason::NotRecovered { cause }));
    let listed = listed_parts(dir, &manifest)?;
    let mut files = entries(dir)?;
    files.sort();
    let mut parts = BTreeMap::new();
    for file in files {
        if let Some(number) = part_number(&file) {
            let entry = listed.get(&number);
            if entry.is_none() && matches!(manifest.state, RunState::Complete | RunState::Recovered) {
                reasons.push(Reason::UnlistedPart { file });
            } else {
                let rows = entry.map(|(rows, _)| *rows);
                parts.insert(number, stat(dir, file, rows, entry.map(|(_, bytes)| *bytes))?);
            }
        } else if file
            .strip_suffix(run_dir::OPEN_SUFFIX)
            .and_then(part_number)
            .is_some()
        {
            reasons.push(Reason::OpenPart { file });
        }
    }
    for (number, _) in listed.iter().filter(|(n, _)| !parts.contains_key(n)) {
        let file = run_dir::part_name(*number);
        reasons.push(Reason::MissingPart { file });
    }
    Ok(RunFiles {
        name: name.into(),
        path: dir.into(),
        manifest,
        manifest_text,
        parts,
        reasons,
    })
}

/// Number of a sealed part, by the one name that the recorder gives it.
fn part_number(file: &str) -> Option<u32> {
    run_dir::part_index(file).filter(|&n| run_dir::part_name(n) == file)
}

/// Rows and bytes of the parts in the manifest, by number.
fn listed_parts(dir: &Path, manifest: &Manifest) -> Result<BTreeMap<u32, (u64, u64)>, StoreError> {
    let mut listed = BTreeMap::new();
    for part in &manifest.parts {
        let error = |problem| StoreError::PartName {
            path: dir.join(run_dir::MANIFEST),
            file: part.file.clone(),
            problem,
        };
        let number = part_number(&part.file).ok_or_else(|| error("which is not the name of a part"))?;
        if listed.insert(number, (part.rows, part.bytes)).is_some() {
            return Err(error("twice"));
        }
    }
    Ok(listed)
}

/// Looks at a part of which the manifest lists `rows` and `bytes`.
pub(crate) fn stat(
    dir: &Path,
    file: String,
    rows: Option<u64>,
    bytes: Option<u64>,
) -> Result<PartStat, StoreError> {
    let path = dir.join(&file);
    let error = |e| StoreError::io("read", &path, e);
    let metadata = path.metadata().map_err(error)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for ever.
        return Err(StoreError::NotParquet { path });
    }
    let found = metadata.len();
    if let Some(listed) = bytes.filter(|&b| b != found) {
        return Err(StoreError::PartSize { path, listed, found });
    }
    let modified = metadata.modified().map_err(error)?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(PartStat {
        bytes: found,
        mtime_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        footer: hash_footer(&path, found).map_err(error)?,
        file,
        listed_rows: rows,
    })
}

/// BLAKE3 of the file's footer: of whatever stands where its length field points.
fn hash_footer(path: &Path, size: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut tail = [0; 8];
    let mut length = size.min(8);
    if size >= 8 {
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut tail)?;
        let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        length = (u64::from(footer) + 8).min(size).min(MAX_FOOTER);
    }
    file.seek(SeekFrom::Start(size - length))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(length))?;
    Ok(hasher.finalize().to_hex().to_string())
}
