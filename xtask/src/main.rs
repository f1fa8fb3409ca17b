//! Chores that need more than one crate: cross-validation of the two engines, fixtures, and the demo.

mod bench;
mod demo;
mod places;

#[cfg(feature = "faults")]
mod corpus;
#[cfg(feature = "inference")]
mod crossval;
#[cfg(feature = "inference")]
mod fixture;
#[cfg(feature = "inference")]
mod honest;
#[cfg(feature = "inference")]
mod lab;
#[cfg(feature = "inference")]
mod models;

use clap::{Parser, Subcommand};
use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

/// Everything that could be compared matches.
const EXIT_MATCH: u8 = 0;
/// Error: bad input, a program that failed, nothing to compare. Usage errors end with the same code.
const EXIT_ERROR: u8 = 2;

#[derive(Parser)]
#[command(
    name = "xtask",
    about = "Cross-validation, demo and chores of bitnet-diff",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare the logits of llama.cpp and of the Rust engine at every token position
    #[cfg(feature = "inference")]
    CrossvalPerToken(crossval::Args),
    /// Write a small model for tests
    #[cfg(feature = "inference")]
    #[command(subcommand)]
    Fixture(fixture::Fixture),
    /// Time the C++ engine on a real model without recording and with everything recorded (see `make bench-engines`)
    BenchEngines(bench::Args),
    /// Plant every class of fault in the Rust engine and tell whether `bitnet-diff first` names its place (see `make corpus`)
    #[cfg(feature = "faults")]
    Corpus(corpus::Args),
    /// Judge pairs of runs that are both right by a noise floor from other prompts (see `make honest`)
    #[cfg(feature = "inference")]
    Honest(honest::Args),
    /// Record both engines on a real model and show where they diverge (see `make demo`)
    Demo(demo::Args),
}

/// Prints to stdout. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        #[cfg(feature = "inference")]
        Command::CrossvalPerToken(args) => crossval::run(&args),
        #[cfg(feature = "inference")]
        Command::Fixture(fixture) => fixture::run(&fixture).map(|()| EXIT_MATCH),
        #[cfg(feature = "faults")]
        Command::Corpus(args) => corpus::run(&args),
        #[cfg(feature = "inference")]
        Command::Honest(args) => honest::run(&args),
        Command::BenchEngines(args) => bench::run(&args).map(|()| EXIT_MATCH),
        Command::Demo(args) => demo::run(&args).map(|()| EXIT_MATCH),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}
