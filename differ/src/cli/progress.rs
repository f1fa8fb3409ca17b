//! A progress bar for what takes more than a second, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long a comparison may take before a bar appears.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears when it is needed.
pub struct Progress {
    start: Instant,
    what: &'static str,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    /// Starts the clock; records are counted.
    pub fn new() -> Self {
        Self::of("records")
    }

    /// Starts the clock; `what` are counted.
    pub fn of(what: &'static str) -> Self {
        Self {
            start: Instant::now(),
            what,
            bar: OnceLock::new(),
        }
    }

    /// So much is done.
    pub fn update(&self, done: usize, total: usize) {
        if self.start.elapsed() < PATIENCE {
            return;
        }
        // indicatif draws nothing where stderr is no terminal.
        let bar = self.bar.get_or_init(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let template = format!("{{bar:40}} {{pos}}/{{len}} {}, {{eta}} left", self.what);
            let style = ProgressStyle::with_template(&template);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
