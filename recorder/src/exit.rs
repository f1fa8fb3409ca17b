//! The process-wide recorder, which is sealed when the process exits.
#![allow(unsafe_code)]

use crate::Recorder;
use std::sync::OnceLock;

static GLOBAL: OnceLock<Recorder> = OnceLock::new();

/// The process-wide recorder, made by `make` at the first call.
pub(crate) fn global(make: impl FnOnce() -> Recorder) -> &'static Recorder {
    GLOBAL.get_or_init(|| {
        let recorder = make();
        if recorder.is_on() {
            // SAFETY: `seal` is a function without arguments that does not unwind (an unwinding
            // `extern "C"` function aborts, and `finish` does not panic); libc keeps its address only. A
            // failure to register means that the run stays unsealed, as after a crash.
            unsafe { libc::atexit(seal) };
        }
        recorder
    })
}

extern "C" fn seal() {
    if let Some(recorder) = GLOBAL.get() {
        let _ = recorder.finish(); // a failure was told on stderr when it happened
    }
}
