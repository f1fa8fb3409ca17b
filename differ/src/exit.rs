//! Exit codes of the program. A crash, a usage error and an empty comparison are never 0 or 1.

use crate::compare::Status;

/// Everything that could be compared matches, and at least one record was.
pub const MATCH: u8 = 0;
/// The runs diverge.
pub const DIVERGED: u8 = 1;
/// There is no verdict: a usage error, unreadable or incomplete runs, nothing in common, or records that
/// could not be compared while nothing diverged.
pub const ERROR: u8 = 2;

/// The exit code of a status.
pub fn code(status: Status) -> u8 {
    match status {
        Status::Ok => MATCH,
        Status::Diverged => DIVERGED,
        Status::Error => ERROR,
    }
}
