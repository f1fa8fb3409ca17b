//! Identity of the model file.

use crate::{lock, shared::Shared, signals};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the end of a run waits for the hash of its model.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A thread that computes a model's hash.
#[derive(Debug)]
pub(crate) struct Hashing {
    path: String,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

/// Adds size and BLAKE3 of the model file to what is known of the run. Read, not mapped: a file that
/// somebody truncates must not end the host.
pub(crate) fn hash_in_background(shared: Arc<Shared>, path: String) -> Option<Hashing> {
    let state = Arc::new(State::default());
    let hashing = Hashing {
        path: path.clone(),
        state: Arc::clone(&state),
    };
    let work = move || {
        if let Ok((blake3, bytes)) = hash(&path, &state.stop)
            && let Some(model) = lock(&shared.info).model.as_mut().filter(|m| m.path == path)
        {
            model.blake3 = Some(blake3);
            model.bytes = Some(bytes);
            shared.changed.store(true, Ordering::Relaxed);
        }
        shared.check_replay();
        drop(shared);
        *lock(&state.ended) = true;
        state.end.notify_all();
    };
    let thread = std::thread::Builder::new().name("bitnet-trace-model".into());
    signals::blocked(|| thread.spawn(work)).ok().map(|_| hashing)
}

impl Hashing {
    /// Waits for the thread's end, but not longer than `patience`, so that a large file on a slow disk does
    /// not hold up the host. Whether it ended in time.
    pub fn wait(self, patience: Duration) -> bool {
        if self.state.wait(patience) {
            return true;
        }
        self.state.stop.store(true, Ordering::Relaxed);
        self.state.wait(Duration::from_secs(1)); // at most a read is under way
        crate::tell!(
            "the manifest has no hash of the model {}, which takes longer than {} s after the end of the run",
            self.path,
            patience.as_secs()
        );
        false
    }
}

impl State {
    fn wait(&self, patience: Duration) -> bool {
        let ended = lock(&self.ended);
        let waited = self.end.wait_timeout_while(ended, patience, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn hash(path: &str, stop: &AtomicBool) -> io::Result<(String, u64)> {
    // opening a pipe would wait for its other end
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    while !stop.load(Ordering::Relaxed) {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize().to_hex().to_string(), hasher.count())),
            Ok(n) => {
                hasher.update(&buffer[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_takes_too_long_does_not_hold_up_the_end_of_the_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.gguf");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(1 << 42).expect("4 TiB of holes");
        let shared = Arc::new(Shared::new(
            "a".into(),
            dir.path().to_owned(),
            crate::Recorder::builder(dir.path()),
            None,
        ));
        let path = path.to_string_lossy().into_owned();
        let hashing = hash_in_background(Arc::clone(&shared), path).expect("a thread");
        assert!(!hashing.wait(Duration::from_millis(20)));
        assert_eq!(Arc::strong_count(&shared), 1, "the thread has ended");
    }
}
