//! The `bitnet-diff` program: see `bitnet-diff --help`.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
