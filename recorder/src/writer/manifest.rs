//! Writes `run.json`.

use crate::{run::sync_dir, shared::Shared, signals};
use bitnet_trace_schema::{RunState, run_dir};
use std::fs::File;
use std::io::{self, Write};

/// Replaces the run's manifest: under another name, forced to disk, renamed, so that a reader finds the
/// old one or the new one and never half of one. An engine's thread writes it too, first and last.
pub(crate) fn write(shared: &Shared, state: RunState) -> io::Result<()> {
    signals::blocked(|| replace(shared, state))
}

fn replace(shared: &Shared, state: RunState) -> io::Result<()> {
    let (dir, manifest) = (&shared.dir, shared.manifest(state));
    let path = dir.join(run_dir::MANIFEST);
    let temporary = dir.join(format!("{}.new", run_dir::MANIFEST));
    let written = (File::create(&temporary))
        .and_then(|mut file| {
            file.write_all(manifest.to_json().as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}
