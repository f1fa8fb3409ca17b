//! Identity of the model file.

use crate::{lock, shared::Shared};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Adds size and BLAKE3 of the model file to what is known of the run. Read, not mapped: a file that
/// somebody truncates must not end the host.
pub(crate) fn hash_in_background(shared: Arc<Shared>, path: String) -> Option<JoinHandle<()>> {
    let work = move || {
        if let Ok((blake3, bytes)) = hash(&path)
            && let Some(model) = lock(&shared.info).model.as_mut().filter(|m| m.path == path)
        {
            model.blake3 = Some(blake3);
            model.bytes = Some(bytes);
        }
    };
    std::thread::Builder::new()
        .name("bitnet-trace-model".into())
        .spawn(work)
        .ok()
}

fn hash(path: &str) -> io::Result<(String, u64)> {
    let file = std::fs::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}
