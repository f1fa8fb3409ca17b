//! Progress of slow steps: one line on stderr, on a terminal, after a second.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(100);

/// A line that is rewritten as work goes on and removed at the end.
pub struct Progress {
    what: &'static str,
    next: Instant,
    shown: bool,
    on: bool,
}

impl Progress {
    /// Progress of `what` ("Loading the model").
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            next: Instant::now() + DELAY,
            shown: false,
            on: stderr().is_terminal(),
        }
    }

    /// `done` of `total` units are done.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.on || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + INTERVAL;
        self.shown = true;
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        // Nobody is there to be told when the terminal is gone.
        let _ = write!(stderr(), "\r{}: {percent} %", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
