//! A report as a list of checks, each passed or not: what continuous integration shows.

use crate::{
    compare::{Counts, Status},
    first::FirstReport,
    num::{plural, sci},
    report::{Common, Labels},
    summary::CompareReport,
    three::{StageStands, ThreeReport},
};

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not: why.
    Failed(String),
    /// It could not be made: why.
    Error(String),
    /// There was nothing to check: why.
    Skipped(String),
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// The checks of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// The command that made them.
    pub command: &'static str,
    /// The runs.
    pub title: String,
    /// The checks, in causal order.
    pub checks: Vec<Check>,
    /// The report as people read it.
    pub text: String,
}

impl Checks {
    /// `first`: one check for each place at which a divergence begins, or one that all records match.
    pub fn of_first(report: &FirstReport, labels: &Labels, text: String) -> Self {
        let mut checks = Vec::new();
        if let Some(d) = &report.first_divergence {
            let what = format!(
                "{}: {}",
                place(d.request, d.seq, d.layer, &d.stage),
                d.reason.message
            );
            checks.push(Check {
                name: "first divergence".into(),
                outcome: Outcome::Failed(what),
            });
        }
        for origin in report.origins.iter().skip(1) {
            let records = plural(origin.records, "record");
            let at = place(origin.request, origin.seq, origin.layer, &origin.stage);
            checks.push(Check {
                name: format!("origin layer={}, stage={}", origin.layer, origin.stage),
                outcome: Outcome::Failed(format!("{at}: {records} diverged, with clean inputs")),
            });
        }
        if checks.is_empty() {
            checks.push(whole(&report.common));
        }
        Self::new("first", labels, checks, text)
    }

    /// `compare`: one check for each stage.
    pub fn of_compare(report: &CompareReport, labels: &Labels, text: String) -> Self {
        let checks = report.stages.iter().map(|s| Check {
            name: s.stage.clone(),
            outcome: stage(&s.counts, s.max_rel_l2, report),
        });
        let mut checks: Vec<Check> = checks.collect();
        if checks.iter().all(|c| c.outcome == Outcome::Passed) || report.common.error.is_some() {
            checks.push(whole(&report.common));
        }
        Self::new("compare", labels, checks, text)
    }

    /// Three runs: one check for each stage.
    pub fn of_three(report: &ThreeReport, text: String) -> Self {
        let names: Vec<&str> = report.runs.iter().map(|r| r.name.as_str()).collect();
        let check = |s: &StageStands| {
            let alone = s.alone.iter().zip(&names).filter(|(n, _)| **n > 0);
            let mut off: Vec<String> = alone
                .map(|(n, name)| format!("{name} stands alone at {}", plural(*n, "record")))
                .collect();
            if s.unclear > 0 {
                off.push(format!(
                    "{} diverged with none alone",
                    plural(s.unclear, "record")
                ));
            }
            Check {
                name: s.stage.clone(),
                outcome: match off.is_empty() {
                    true => Outcome::Passed,
                    false => Outcome::Failed(off.join("; ")),
                },
            }
        };
        let mut checks: Vec<Check> = report.stages.iter().map(check).collect();
        if let Some(error) = &report.error {
            checks.push(Check {
                name: "verdict".into(),
                outcome: Outcome::Error(error.message.clone()),
            });
        }
        Self {
            command: "compare",
            title: names.join(" against "),
            checks,
            text,
        }
    }

    /// That there is no verdict.
    pub fn of_error(command: &'static str, message: String) -> Self {
        let check = Check {
            name: "verdict".into(),
            outcome: Outcome::Error(message.clone()),
        };
        Self {
            command,
            title: command.into(),
            checks: vec![check],
            text: message,
        }
    }

    fn new(command: &'static str, labels: &Labels, checks: Vec<Check>, text: String) -> Self {
        Self {
            command,
            title: format!("{} against {}", labels.right, labels.left),
            checks,
            text,
        }
    }
}

/// The verdict on everything that was compared.
fn whole(common: &Common) -> Check {
    let message = || {
        common
            .error
            .as_ref()
            .map(|e| e.message.clone())
            .unwrap_or_default()
    };
    Check {
        name: "verdict".into(),
        outcome: match common.status {
            Status::Ok => Outcome::Passed,
            Status::Diverged => Outcome::Failed(plural(common.counts.diverged, "diverged record")),
            Status::Error => Outcome::Error(message()),
        },
    }
}

fn stage(counts: &Counts, largest: Option<f64>, report: &CompareReport) -> Outcome {
    if counts.diverged > 0 {
        let largest = largest.map(|x| format!(", relative L2 up to {}", sci(x)));
        let records = plural(counts.compared(), "record");
        let largest = largest.unwrap_or_default();
        return Outcome::Failed(format!("{} of {records} diverged{largest}", counts.diverged));
    }
    if counts.incomparable > 0 && report.status() == Status::Error {
        let records = plural(counts.incomparable, "record");
        return Outcome::Error(format!("{records} could not be compared"));
    }
    if counts.compared() == 0 {
        return Outcome::Skipped("only one run has it, or nothing of it could be compared".into());
    }
    Outcome::Passed
}

fn place(request: i32, seq: i64, layer: i32, stage: &str) -> String {
    crate::plan::Key {
        request,
        seq,
        layer,
        stage: stage.into(),
    }
    .to_string()
}
