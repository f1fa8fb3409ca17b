//! Runs a program with recording on.

use super::output::Failure;
use bitnet_diff::preload;
use signal_hook::consts::SIGINT;
use std::{
    ffi::OsString,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, atomic::AtomicBool},
};

/// Which records are kept.
pub const SELECT: &str = "BITNET_TRACE_SELECT";
/// What thread pools ask when nothing else says how many threads to take.
const THREADS: [&str; 3] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", preload::THREADS];

/// The run to replay, which records of it, whether it may lack some, and whether the prompt may be another.
const REPLAY: [&str; 4] = [
    "BITNET_TRACE_REPLAY",
    "BITNET_TRACE_REPLAY_AT",
    "BITNET_TRACE_REPLAY_PARTIAL",
    "BITNET_TRACE_REPLAY_OTHER_PROMPT",
];

/// A stored run that a program goes on with.
pub struct Replay<'a> {
    /// Its directory.
    pub run: &'a Path,
    /// Which of its records.
    pub at: Option<&'a str>,
    /// Whether it may lack some.
    pub partial: bool,
    /// Whether the prompt may be another.
    pub other_prompt: bool,
}

/// A program, and how it is recorded.
pub struct Launch<'a> {
    /// The program and its arguments.
    pub command: &'a [OsString],
    /// The database.
    pub into: &'a Path,
    /// The run's name.
    pub name: Option<&'a str>,
    /// Which records are kept, where the environment does not say.
    pub select: Option<&'a str>,
    /// What it goes on with, where that is not its own.
    pub replay: Option<Replay<'a>>,
    /// The preload library.
    pub library: Option<&'a Path>,
    /// With how many threads an unmodified program computes.
    pub threads: Option<u16>,
    /// Whether the program's stdout goes to stderr.
    pub quiet: bool,
}

impl Launch<'_> {
    /// Runs the program.
    ///
    /// # Errors
    /// A failure where it cannot be started.
    pub fn run(&self) -> Result<ExitStatus, Failure> {
        self.started(self.environment())
    }

    /// The same with one thread, for programs that leave their number to their thread pools.
    ///
    /// # Errors
    /// A failure where it cannot be started.
    pub fn run_single_threaded(&self) -> Result<ExitStatus, Failure> {
        let mut child = self.environment();
        child.envs(THREADS.map(|variable| (variable, "1")));
        self.started(child)
    }

    fn environment(&self) -> Command {
        let mut child = Command::new(&self.command[0]);
        child.args(&self.command[1..]).env("BITNET_TRACE_DIR", self.into);
        if let Some(name) = self.name {
            child.env("BITNET_TRACE_RUN", name);
        }
        if let Some(select) = self.select {
            child.env(SELECT, select);
        }
        if let Some(replay) = &self.replay {
            let flag = |on| if on { "1" } else { "0" };
            child
                .env(REPLAY[0], replay.run)
                .env(REPLAY[1], replay.at.unwrap_or_default());
            child
                .env(REPLAY[2], flag(replay.partial))
                .env(REPLAY[3], flag(replay.other_prompt));
        }
        if let Some(library) = self.library {
            child.env(preload::LD_PRELOAD, preload::with_own(library));
        }
        if let Some(threads) = self.threads {
            child.env(preload::THREADS, threads.to_string());
        }
        if self.quiet {
            child.stdout(Stdio::from(std::io::stderr()));
        }
        child
    }

    fn started(&self, mut child: Command) -> Result<ExitStatus, Failure> {
        // Ctrl-C goes to the program too, which decides what to do about it; the report comes after it. A handler,
        // unlike an ignored signal, is not inherited.
        let interrupted = Arc::new(AtomicBool::new(false));
        let _ = signal_hook::flag::register(SIGINT, interrupted);
        child.status().map_err(|e| {
            let message = format!("cannot run {}: {e}", self.command[0].to_string_lossy());
            Failure::new("program", message)
        })
    }
}
