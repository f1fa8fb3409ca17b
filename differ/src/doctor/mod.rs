//! Why a program records nothing, and whether recording changes what it says.
//!
//! [`examine`] looks at the environment, the directory and the program, then records it once into a directory of
//! its own. [`observe`] runs it without recording, with the logits recorded, and with everything recorded, and
//! compares what it prints and the logits.

mod environment;
mod examine;
mod observer;
mod place;
mod program;

pub use environment::{VARIABLES, environment};
pub use examine::examine;
pub use observer::{Difference, LogitsSeen, Observed, Outcome, TextSeen, median, observe};
pub use place::Place;
pub use program::{Program, find as find_program};

use crate::{compare::Status, report::ErrorView};
use serde::Serialize;

/// What `doctor` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DoctorReport {
    /// `ok`; `diverged` where recording changes the program's outputs; `error` where recording cannot work, or
    /// there is nothing to tell a change by.
    pub status: Status,
    /// Program and arguments; empty without one.
    pub command: Vec<String>,
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    /// What recording does to the program, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observer: Option<Observed>,
    /// Why the status is `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name: `environment`, `directory`, `program` or `recording`.
    pub name: &'static str,
    /// Whether recording can work.
    pub status: Health,
    /// What was found, and what to try.
    pub message: String,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// In order.
    Ok,
    /// Worth knowing; recording works.
    Note,
    /// Recording does not work, or not as meant.
    Problem,
}

impl Check {
    fn new(name: &'static str, status: Health, message: impl Into<String>) -> Self {
        Self {
            name,
            status,
            message: message.into(),
        }
    }
}

impl DoctorReport {
    /// The report of these findings: an error where one is a problem.
    pub fn of(command: Vec<String>, checks: Vec<Check>, observer: Option<Observed>) -> Self {
        let problem = checks.iter().find(|c| c.status == Health::Problem);
        let view = |kind, message: &str| {
            let message = message.to_owned();
            Some(ErrorView { kind, message })
        };
        let error = match (problem, &observer) {
            // Outputs that were compared are a verdict, whatever else is in disorder.
            (Some(problem), None) => view(problem.name, &problem.message),
            (_, Some(observed)) => observed.undecided().and_then(|why| view("undecided", &why)),
            (None, None) => None,
        };
        let status = match &observer {
            _ if error.is_some() => Status::Error,
            Some(observed) if observed.is_changed() => Status::Diverged,
            _ => Status::Ok,
        };
        Self {
            status,
            command,
            checks,
            observer,
            error,
        }
    }
}
