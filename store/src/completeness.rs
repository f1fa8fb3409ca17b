use bitnet_trace_schema::{Manifest, Owner, RunState};
use std::fmt;

/// Whether a run holds all that its engine offered to the recorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// Every offered tensor is there, and the engine ended the run.
    Complete,
    /// Something is missing; every reason is listed.
    Incomplete {
        /// The reasons, at least one.
        reasons: Vec<Reason>,
    },
}

impl Completeness {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// The reasons; none for a complete run.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Complete => &[],
            Self::Incomplete { reasons } => reasons,
        }
    }
}

/// Why a run is incomplete. Displayed as a sentence without its full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Tensors were offered but not recorded.
    Dropped {
        /// How many.
        total: u64,
        /// Counts by reason, as the recorder told them.
        reasons: Vec<(String, u64)>,
    },
    /// The recorder gave up, or the engine did.
    Failed {
        /// Its reason, as far as it could tell.
        failure: String,
    },
    /// The recording process is alive.
    Recording {
        /// The process.
        pid: u32,
    },
    /// The recording process ended without closing the run.
    Crashed {
        /// The process.
        pid: u32,
    },
    /// The recording process ended without closing the run, and what it had written was recovered.
    Recovered {
        /// The process.
        pid: u32,
        /// The parts that were open: file name, and records that were saved.
        parts: Vec<(String, u64)>,
    },
    /// The recording process ended without closing the run, which could not be recovered.
    NotRecovered {
        /// Why, in words.
        cause: String,
    },
    /// A part that the manifest lists is not there.
    MissingPart {
        /// Its file name.
        file: String,
    },
    /// A part that was being written.
    OpenPart {
        /// Its file name.
        file: String,
    },
    /// A sealed part that the manifest of an ended run does not list. It is not read.
    UnlistedPart {
        /// Its file name.
        file: String,
    },
    /// The run cannot be read at all.
    Unreadable {
        /// The error's message.
        error: String,
    },
    /// The parts do not hold as many records as the manifest says.
    Records {
        /// Records in the manifest.
        listed: u64,
        /// Records in the parts.
        found: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { total, reasons } => {
                write!(f, "{total} tensors were dropped")?;
                for (i, (reason, count)) in reasons.iter().enumerate() {
                    write!(f, "{}{reason}: {count}", if i == 0 { " (" } else { ", " })?;
                }
                f.write_str(if reasons.is_empty() { "" } else { ")" })
            }
            Self::Failed { failure } => write!(f, "it failed: {failure}"),
            Self::Recording { pid } => write!(f, "process {pid} is still recording"),
            Self::Crashed { pid } => write!(f, "process {pid} ended without closing the run"),
            Self::Recovered { pid, parts } => {
                write!(
                    f,
                    "process {pid} ended without closing the run: what its queue held is lost"
                )?;
                for (file, records) in parts {
                    write!(f, "; {records} records of {file}, which was open, were recovered")?;
                }
                Ok(())
            }
            Self::NotRecovered { cause } => write!(f, "it was not recovered: {cause}"),
            Self::MissingPart { file } => write!(f, "{file} is missing"),
            Self::OpenPart { file } => write!(f, "{file} was not sealed; its records are not read"),
            Self::UnlistedPart { file } => write!(f, "{file} is not listed in run.json; it is not read"),
            Self::Unreadable { error } => f.write_str(error),
            Self::Records { listed, found } => {
                write!(f, "run.json counts {listed} records, the parts hold {found}")
            }
        }
    }
}

/// What the manifest alone tells of completeness.
pub(crate) fn of_manifest(manifest: &Manifest) -> Vec<Reason> {
    let mut reasons = Vec::new();
    match manifest.state {
        RunState::Complete => {}
        RunState::Failed => reasons.push(Reason::Failed {
            failure: manifest
                .failure
                .clone()
                .unwrap_or_else(|| "no reason given".into()),
        }),
        RunState::Recording => {
            let pid = manifest.owner.pid;
            reasons.push(match life(&manifest.owner) {
                Life::Alive => Reason::Recording { pid },
                Life::Dead | Life::Elsewhere => Reason::Crashed { pid },
            });
        }
        RunState::Recovered => reasons.push(Reason::Recovered {
            pid: manifest.owner.pid,
            parts: (manifest.recovery.iter().flat_map(|r| &r.parts))
                .map(|p| (p.file.clone(), p.records))
                .collect(),
        }),
    }
    let dropped = &manifest.dropped;
    if dropped.total > 0 || !dropped.reasons.is_empty() {
        reasons.push(Reason::Dropped {
            total: dropped.total,
            reasons: dropped.reasons.iter().map(|(r, n)| (r.clone(), *n)).collect(),
        });
    }
    reasons
}

/// Whether the recording process still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Dead,
    /// It was a process of another machine (the folder is shared, or was copied): nothing here can tell.
    Elsewhere,
}

/// Looks for the recording process: its pid, start time and boot all agree. What the recorder did not know
/// (0 or empty) is not compared.
pub(crate) fn life(owner: &Owner) -> Life {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    if !owner.boot_id.is_empty() && owner.boot_id.trim() != read("/proc/sys/kernel/random/boot_id").trim() {
        // This machine was started again, or it is another one.
        let here = owner.host.is_empty() || owner.host.trim() == read("/proc/sys/kernel/hostname").trim();
        return if here { Life::Dead } else { Life::Elsewhere };
    }
    if has_process(owner) {
        Life::Alive
    } else {
        Life::Dead
    }
}

fn has_process(owner: &Owner) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", owner.pid)) else {
        return false;
    };
    // The command name, in parentheses, may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = match stat.rfind(')') {
        Some(end) => stat[end + 1..].split_whitespace().collect(),
        None => return false,
    };
    let zombie = matches!(fields.first(), Some(&"Z" | &"X"));
    // Field 22 of proc(5), and the 20th after the command name.
    let start = fields.get(19).and_then(|t| t.parse::<u64>().ok());
    !zombie && (owner.start_ticks == 0 || start == Some(owner.start_ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Owner {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let ticks = stat[stat.rfind(')').unwrap() + 1..]
            .split_whitespace()
            .nth(19)
            .unwrap();
        Owner {
            pid: std::process::id(),
            start_ticks: ticks.parse().unwrap(),
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap()
                .trim()
                .into(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap()
                .trim()
                .into(),
        }
    }

    #[test]
    fn a_process_is_alive_only_if_pid_start_and_boot_agree() {
        assert_eq!(life(&me()), Life::Alive);
        let unknown = Owner {
            start_ticks: 0,
            boot_id: String::new(),
            ..me()
        };
        assert_eq!(life(&unknown), Life::Alive);
        let earlier = Owner {
            start_ticks: 1,
            ..me()
        };
        assert_eq!(life(&earlier), Life::Dead);
        let gone = Owner {
            pid: u32::MAX,
            ..me()
        };
        assert_eq!(life(&gone), Life::Dead);
    }

    #[test]
    fn a_process_of_another_boot_is_dead_only_if_the_machine_is_this_one() {
        let rebooted = Owner {
            boot_id: "another".into(),
            ..me()
        };
        assert_eq!(life(&rebooted), Life::Dead);
        let unknown = Owner {
            host: String::new(),
            ..rebooted.clone()
        };
        assert_eq!(life(&unknown), Life::Dead);
        let elsewhere = Owner {
            host: "elsewhere".into(),
            ..rebooted
        };
        assert_eq!(life(&elsewhere), Life::Elsewhere);
    }

    #[test]
    fn reasons_are_sentences() {
        let dropped = Reason::Dropped {
            total: 3,
            reasons: vec![("a".into(), 1), ("b".into(), 2)],
        };
        assert_eq!(dropped.to_string(), "3 tensors were dropped (a: 1, b: 2)");
        let bare = Reason::Dropped {
            total: 3,
            reasons: vec![],
        };
        assert_eq!(bare.to_string(), "3 tensors were dropped");
    }
}
