//! How a verdict on two runs is printed, and what exit code it gives.

use super::output::{Failure, Format, Output, fail};
use bitnet_diff::{
    checks::Checks,
    compare::Status,
    exit, render,
    report::Common,
    three::{StageStands, ThreeReport},
};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// How a verdict is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum VerdictFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document on stdout and nothing else; schemas/*.schema.json describe it.
    Json,
    /// JUnit XML: a test case for each stage, or for each place where a divergence begins.
    Junit,
    /// Annotations for GitHub Actions.
    Github,
}

/// What makes the exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum)]
pub enum FailOn {
    /// Nothing: 0 as soon as there is a verdict.
    Never,
    /// A divergence.
    #[default]
    Divergence,
    /// That, and records that only one run has.
    Missing,
    /// That, and records that are not identical.
    Difference,
}

/// Arguments of the commands that judge two runs.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub struct VerdictArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: VerdictFormat,
    /// What makes the exit code 1
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    fail_on: FailOn,
    /// Print nothing but errors; the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

impl VerdictArgs {
    /// Whether the exit code rests on more than the first divergence.
    pub fn needs_all(self) -> bool {
        self.fail_on > FailOn::Divergence
    }

    /// The format of what is no verdict.
    pub fn format(self) -> Format {
        match self.format {
            VerdictFormat::Json => Format::Json,
            _ => Format::Text,
        }
    }

    /// A report, printed as asked for. `checks` are given the report as text.
    pub fn output(
        self,
        report: &impl Serialize,
        common: &Common,
        text: impl FnOnce() -> String,
        checks: impl FnOnce(String) -> Checks,
    ) -> Result<Output, Failure> {
        let missing = common.counts.missing_left + common.counts.missing_right > 0;
        let code = self.code(common.status, missing, common.counts.within > 0);
        self.printed(report, code, text, checks)
    }

    /// The report of three runs.
    pub fn output_three(
        self,
        report: &ThreeReport,
        text: impl FnOnce() -> String,
    ) -> Result<Output, Failure> {
        let differs = |s: &StageStands| s.identical < s.agree;
        let code = self.code(
            report.status,
            report.missing > 0,
            report.stages.iter().any(differs),
        );
        self.printed(report, code, text, |text| Checks::of_three(report, text))
    }

    fn printed(
        self,
        report: &impl Serialize,
        code: u8,
        text: impl FnOnce() -> String,
        checks: impl FnOnce(String) -> Checks,
    ) -> Result<Output, Failure> {
        if self.quiet {
            return Ok(Output::raw(String::new(), code));
        }
        Ok(match self.format {
            VerdictFormat::Text => Output::text(text(), code),
            VerdictFormat::Json => Output::new(Format::Json, report, String::new, code)?,
            VerdictFormat::Junit => Output::raw(junit(&checks(text()))?, code),
            VerdictFormat::Github => Output::raw(render::github(&checks(text())), code),
        })
    }

    /// That there is no verdict, where what reads the result expects a document that says so.
    pub fn failed(self, command: &'static str, failure: Failure) -> Result<Output, Failure> {
        let checks = || Checks::of_error(command, failure.message().to_owned());
        let text = match self.format {
            VerdictFormat::Junit => junit(&checks())?,
            VerdictFormat::Github => render::github(&checks()),
            _ => return Err(failure),
        };
        fail(&failure, Format::Text);
        Ok(Output::raw(text, exit::ERROR))
    }

    /// The exit code of a status; `missing`: not all runs have all records, `differs`: not all are identical.
    fn code(self, status: Status, missing: bool, differs: bool) -> u8 {
        let diverged = status == Status::Diverged;
        let fails = match self.fail_on {
            FailOn::Never => false,
            FailOn::Divergence => diverged,
            FailOn::Missing => diverged || missing,
            FailOn::Difference => diverged || missing || differs,
        };
        match status {
            Status::Error => exit::ERROR,
            _ if fails => exit::DIVERGED,
            _ => exit::MATCH,
        }
    }
}

fn junit(checks: &Checks) -> Result<String, Failure> {
    render::junit(checks).map_err(|e| Failure::new("junit", e.to_string()))
}
