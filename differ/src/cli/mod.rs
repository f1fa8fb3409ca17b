//! The command line. Each command has a file; `output` knows streams and exit codes.

mod align;
mod args;
mod calibrate;
mod compare;
mod completions;
mod cross;
mod doctor;
mod export;
mod first;
mod import;
mod judge;
mod launch;
mod local;
mod open;
mod output;
mod plan;
mod progress;
mod query;
mod record;
mod recover;
mod runs;
mod tokens;
mod verdict;

use bitnet_diff::exit;
use clap::{Parser, Subcommand};
use output::{Failure, Format, Output};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "bitnet-diff",
    version,
    about = "Finds where, and whether, two inference engines diverge",
    long_about = "Finds where, and whether, two inference engines diverge.\n\n\
        A run is what one engine recorded (a directory run=NAME); a database is a folder of runs. Commands \
        take either; of a database, the newest run is taken and named. Comparisons also take .trace files of the \
        older tracing crate, or a folder of them.",
    after_help = "Exit codes: 0 match, 1 divergence, 2 error or nothing to compare.\n\
        Colours appear on a terminal only; NO_COLOR turns them off.",
    after_long_help = "Examples:\n  \
        bitnet-diff record --into traces --name cpp -- ./llama -m model.gguf -p hi\n  \
        bitnet-diff first traces/run=cpp traces/run=rust\n  \
        bitnet-diff query traces --seq 3 --layer 6 --stage 'attn_*'\n\n\
        Exit codes: 0 match, 1 divergence, 2 error or nothing to compare.\n\
        Colours appear on a terminal only; NO_COLOR turns them off."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(alias = "first-divergence")]
    First(first::Args),
    Compare(compare::Args),
    Judge(judge::Args),
    Tokens(tokens::Args),
    Align(align::Args),
    Calibrate(calibrate::Args),
    Query(query::Args),
    Runs(runs::Args),
    Record(record::Args),
    Cross(cross::Args),
    Doctor(doctor::Args),
    Recover(recover::Args),
    Export(export::Args),
    Import(import::Args),
    Completions(completions::Args),
}

impl Command {
    fn format(&self) -> Format {
        match self {
            Self::First(a) => a.verdict.format(),
            Self::Compare(a) => a.verdict.format(),
            Self::Judge(a) => a.format,
            Self::Tokens(a) => a.format,
            Self::Align(a) => a.format,
            Self::Calibrate(a) => a.format,
            Self::Query(a) => a.format,
            Self::Runs(a) => a.format,
            Self::Record(a) => a.format,
            Self::Cross(a) => a.format,
            Self::Doctor(a) => a.format,
            Self::Recover(a) => a.format,
            Self::Export(a) => a.format,
            Self::Import(a) => a.format,
            Self::Completions(_) => Format::Text,
        }
    }

    fn run(self) -> Result<Output, Failure> {
        match self {
            Self::First(a) => first::run(a),
            Self::Compare(a) => compare::run(a),
            Self::Judge(a) => judge::run(a),
            Self::Tokens(a) => tokens::run(a),
            Self::Align(a) => align::run(a),
            Self::Calibrate(a) => calibrate::run(a),
            Self::Query(a) => query::run(a),
            Self::Runs(a) => runs::run(a),
            Self::Record(a) => record::run(a),
            Self::Cross(a) => cross::run(a),
            Self::Doctor(a) => doctor::run(a),
            Self::Recover(a) => recover::run(a),
            Self::Export(a) => export::run(a),
            Self::Import(a) => import::run(a),
            Self::Completions(a) => completions::run(a),
        }
    }
}

/// Parses, runs, prints. A panic is an error like any other: exit code 2, one message.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| ()));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let format = cli.command.format();
    let result = std::panic::catch_unwind(|| cli.command.run());
    let code = match result {
        Ok(Ok(output)) => output::print(output),
        Ok(Err(failure)) => output::fail(&failure, format),
        Err(panic) => output::fail(&Failure::internal(panic.as_ref()), format),
    };
    debug_assert!(code <= exit::ERROR);
    ExitCode::from(code)
}
