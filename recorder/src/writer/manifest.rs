//! Writes `run.json`.

use bitnet_trace_schema::{Manifest, run_dir};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::run::sync_dir;

/// Replaces the manifest of the run in `dir`: under another name, forced to disk, renamed, so that a
/// reader finds the old one or the new one and never half of one.
pub(crate) fn write(dir: &Path, manifest: &Manifest) -> io::Result<()> {
    let path = dir.join(run_dir::MANIFEST);
    let temporary = dir.join(format!("{}.new", run_dir::MANIFEST));
    let mut file = File::create(&temporary)?;
    file.write_all(manifest.to_json().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    sync_dir(dir)
}
