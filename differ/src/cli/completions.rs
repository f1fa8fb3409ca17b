use super::output::{Failure, Output};
use bitnet_diff::exit;
use clap::CommandFactory;
use clap_complete::Shell;

/// A completion script for a shell
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bitnet-diff completions bash > ~/.local/share/bash-completion/completions/bitnet-diff"
)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "bitnet-diff", &mut script);
    let text = String::from_utf8_lossy(&script).into_owned();
    Ok(Output::text(text, exit::MATCH))
}
