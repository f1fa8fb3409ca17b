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
            reasons.push(if is_alive(&manifest.owner) {
                Reason::Recording { pid }
            } else {
                Reason::Crashed { pid }
            });
        }
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

/// Whether the recording process still runs: its pid, start time and boot all agree.
///
/// A process of another machine (a network folder) has another boot id and counts as dead, since
/// nothing here can tell. What the recorder did not know (0 or empty) is not compared.
fn is_alive(owner: &Owner) -> bool {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if !owner.boot_id.is_empty() && owner.boot_id.trim() != boot.trim() {
        return false;
    }
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
        }
    }

    #[test]
    fn a_process_is_alive_only_if_pid_start_and_boot_agree() {
        assert!(is_alive(&me()));
        assert!(is_alive(&Owner {
            start_ticks: 0,
            boot_id: String::new(),
            ..me()
        }));
        assert!(!is_alive(&Owner {
            start_ticks: 1,
            ..me()
        }));
        assert!(!is_alive(&Owner {
            boot_id: "another".into(),
            ..me()
        }));
        assert!(!is_alive(&Owner {
            pid: u32::MAX,
            ..me()
        }));
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
