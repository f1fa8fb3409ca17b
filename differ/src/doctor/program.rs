use super::{Check, Health, environment::PREFIX};
use crate::preload;
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

/// The name that every recorder asks the environment for, and so is in every program that holds one.
const MARK: &[u8] = b"BITNET_TRACE_DIR";
/// The recorder's shared library, which a program may name instead.
const LIBRARY: &[u8] = b"libbitnet_trace";
/// Lines of a program's stderr that are cited.
const CITED: usize = 4;

/// A program and its arguments, to be run with and without recording. Its stdin is empty.
#[derive(Debug, Clone)]
pub struct Program {
    command: Vec<OsString>,
}

/// Where and what a run is to record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recording<'a> {
    pub dir: &'a Path,
    pub run: &'a str,
    /// Instead of what the environment selects.
    pub select: Option<&'a str>,
    /// Instead of what the environment says of values.
    pub values: Option<&'a str>,
}

/// What one run of the program did.
#[derive(Debug)]
pub(super) struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub seconds: f64,
}

impl Program {
    /// `command` is the program, then its arguments.
    pub fn new(command: Vec<OsString>) -> Self {
        Self { command }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.command.is_empty()
    }

    /// The program as it was given.
    pub fn name(&self) -> String {
        self.command
            .first()
            .map_or(String::new(), |p| p.to_string_lossy().into_owned())
    }

    /// Program and arguments.
    pub fn shown(&self) -> Vec<String> {
        self.command
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    /// Runs it to its end, with recording as said or, with `None`, with no variable of the recorder at all.
    pub(super) fn run(&self, recording: Option<Recording<'_>>) -> io::Result<Ran> {
        let (program, args) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        match recording {
            None => {
                let names = std::env::vars_os().map(|(name, _)| name);
                for name in names.filter(|n| n.to_string_lossy().starts_with(PREFIX)) {
                    command.env_remove(name);
                }
            }
            Some(recording) => {
                command
                    .env("BITNET_TRACE_DIR", recording.dir)
                    .env("BITNET_TRACE_RUN", recording.run);
                if let Ok(library) = preload::find() {
                    command.env(preload::LD_PRELOAD, preload::with_own(&library));
                }
                if let Some(select) = recording.select {
                    command.env("BITNET_TRACE_SELECT", select);
                }
                if let Some(values) = recording.values {
                    command.env("BITNET_TRACE_VALUES", values);
                }
            }
        }
        let start = Instant::now();
        let out = command.output()?;
        Ok(Ran {
            seconds: start.elapsed().as_secs_f64(),
            status: out.status,
            stdout: out.stdout,
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }

    /// Looks at the program's file without running it.
    pub(super) fn check(&self) -> Check {
        let check = |status, message: String| Check::new("program", status, message);
        let Some(path) = self.command.first().and_then(|p| find(p)) else {
            let message = format!("{} is not a program that can be run", self.name());
            return check(Health::Problem, message);
        };
        let shown = path.display();
        match kind(&path) {
            Ok(Kind::Recorder) => check(Health::Ok, format!("{shown} holds the recorder")),
            Ok(Kind::Script) => check(Health::Ok, format!("{shown} is a script")),
            Ok(Kind::Other) => check(Health::Note, from_outside(&path)),
            Err(error) => check(Health::Note, format!("{shown} cannot be read: {error}")),
        }
    }
}

impl Ran {
    /// What the recorder said.
    pub fn recorder_says(&self) -> Vec<&str> {
        self.stderr
            .lines()
            .filter_map(|l| l.strip_prefix("bitnet-trace: "))
            .collect()
    }

    /// How it ended, with its last words where it failed.
    pub fn end(&self) -> String {
        // Prints as "exit status: 3" or "signal: 9 (SIGKILL)".
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
        match (self.status.success(), lines.len()) {
            (true, _) | (_, 0) => self.status.to_string(),
            (false, n) => format!(
                "{}: {}",
                self.status,
                lines[n.saturating_sub(CITED)..].join(" / ")
            ),
        }
    }
}

/// What can be done about a program that does not hold the recorder.
fn from_outside(path: &Path) -> String {
    let outside = match (preload::out_of_reach(path), preload::find()) {
        (Some(why), _) => format!("nor can it be recorded from outside: {why}"),
        (None, Err(why)) => format!("nor can it be recorded from outside: {why}"),
        (None, Ok(_)) => {
            "it is recorded from outside, if it or what it starts computes with ggml in a shared library"
                .into()
        }
    };
    format!(
        "{} does not hold the recorder, nor names libbitnet_trace (in Rust: the feature `trace`; for ggml, one line: {}); \
         {outside}",
        path.display(),
        preload::ONE_LINE
    )
}

/// What a file is, as far as recording goes.
enum Kind {
    Recorder,
    Script,
    Other,
}

fn kind(path: &Path) -> io::Result<Kind> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    // What a mark may have begun with at the end of the chunk before.
    let mut kept = 0;
    let mut first = true;
    loop {
        let read = file.read(&mut chunk[kept..])?;
        let held = &chunk[..kept + read];
        if first && held.starts_with(b"#!") {
            return Ok(Kind::Script);
        }
        first = false;
        if holds(held, MARK) || holds(held, LIBRARY) {
            return Ok(Kind::Recorder);
        }
        if read == 0 {
            return Ok(Kind::Other);
        }
        let end = held.len();
        let keep = end.min(MARK.len().max(LIBRARY.len()) - 1);
        chunk.copy_within(end - keep..end, 0);
        kept = keep;
    }
}

fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|w| w == mark)
}

/// The file that the system would run.
pub fn find(program: &OsStr) -> Option<PathBuf> {
    let can_run = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.to_string_lossy().contains('/') {
        return Some(PathBuf::from(program)).filter(can_run);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(can_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_found_in_a_file_wherever_it_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        for at in [0, 5, (1 << 20) - 7, (1 << 20) - 1, (2 << 20) + 3] {
            let mut bytes = vec![b'B'; at];
            bytes.extend_from_slice(MARK);
            bytes.extend_from_slice(&[0; 9]);
            std::fs::write(&path, bytes).expect("written");
            assert!(matches!(kind(&path), Ok(Kind::Recorder)), "{at}");
        }
        std::fs::write(&path, vec![b'B'; 3 << 20]).expect("written");
        assert!(matches!(kind(&path), Ok(Kind::Other)));
        std::fs::write(&path, "#!/bin/sh\n").expect("written");
        assert!(matches!(kind(&path), Ok(Kind::Script)));
    }

    #[test]
    fn what_cannot_be_run_is_a_problem() {
        for name in ["/proc/version", "/no/such/program", "no-such-program"] {
            let check = Program::new(vec![name.into()]).check();
            assert_eq!(check.status, Health::Problem, "{name}");
            assert!(check.message.contains(name));
        }
        assert!(Program::new(vec!["sh".into()]).check().status < Health::Problem);
    }
}
