//! Takes a name and a directory for a new run.

use crate::{Error, RecorderBuilder, process};
use bitnet_trace_schema::run_dir;
use std::io;
use std::path::{Path, PathBuf};

/// Creates the run's directory, which nobody else has: `mkdir` succeeds for one process only. Where the
/// name is taken, `-2`, `-3`, ... is appended, and stderr says so.
pub(crate) fn claim(builder: &mut RecorderBuilder) -> Result<(String, PathBuf), Error> {
    let wanted = match builder.run.take() {
        Some(name) if run_dir::is_run_name(&name) => name,
        Some(name) => return Err(Error::RunName(name)),
        None => default_name(builder),
    };
    let unusable = |cause: io::Error| Error::Directory {
        dir: builder.dir.clone(),
        cause: cause.to_string(),
    };
    std::fs::create_dir_all(&builder.dir).map_err(unusable)?;
    for n in 1..10_000 {
        let name = numbered(&wanted, n);
        let dir = builder.dir.join(run_dir::dir_name(&name));
        match std::fs::create_dir(&dir) {
            Ok(()) => {
                sync_dir(&builder.dir).map_err(unusable)?;
                if n > 1 {
                    crate::tell!("a run {wanted:?} exists; this one is recorded as {name:?}");
                }
                return Ok((name, dir));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(unusable(e)),
        }
    }
    Err(Error::TooManyRuns {
        dir: builder.dir.clone(),
        name: wanted,
    })
}

/// `<engine>-<time>-<process id>`.
fn default_name(builder: &RecorderBuilder) -> String {
    let engine = run_dir::sanitize_run_name(&builder.engine.name);
    let (time, pid) = (process::utc_stamp(process::unix_ms()), std::process::id());
    let engine: String = engine.chars().take(80).collect();
    format!("{engine}-{time}-{pid}")
}

/// The n-th name for `wanted`, within the allowed length.
fn numbered(wanted: &str, n: u32) -> String {
    if n == 1 {
        return wanted.to_owned();
    }
    let suffix = format!("-{n}");
    let keep = run_dir::MAX_RUN_NAME - suffix.len();
    let kept: String = wanted.chars().take(keep).collect();
    kept + &suffix
}

/// Makes the directory's entries (a new file, a rename) survive a power loss.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_for_a_run_is_a_run_name() {
        let long = "x".repeat(run_dir::MAX_RUN_NAME);
        for (wanted, n) in [("cpp", 1), ("cpp", 2), (long.as_str(), 1), (long.as_str(), 9999)] {
            assert!(run_dir::is_run_name(&numbered(wanted, n)));
        }
        let builder = RecorderBuilder::new("x".into()).engine(crate::Engine::new("../ü".repeat(50), ""));
        assert!(
            run_dir::is_run_name(&default_name(&builder)),
            "{}",
            default_name(&builder)
        );
    }
}
