//! Runs GGUF models with the bitnet-models engine.
//!
//! Exit codes: 0 for success, 2 for every error, usage errors included.

mod args;
mod commands;
mod progress;

use std::process::ExitCode;

use clap::Parser;

#[cfg(not(feature = "cpu"))]
compile_error!("bitnet-cli needs a backend: build it with --features cpu");

/// Every failure, as for all programs of this project: 1 would mean a divergence.
const EXIT_ERROR: u8 = 2;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let result = match args.command {
        args::Command::Run(args) => commands::run(args),
        args::Command::Dequantize(args) => commands::dequantize(&args),
        args::Command::Tiny(args) => commands::tiny(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bitnet-cli: error: {error}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}
