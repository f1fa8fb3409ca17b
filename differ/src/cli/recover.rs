use super::{
    open,
    output::{Failure, Format, Output},
    progress::Progress,
};
use bitnet_diff::{
    exit,
    recover::{Outcome, RecoverLine, RecoveriesReport},
    render,
};
use bitnet_trace_store::{RecoverOptions, recover, runs_in};
use std::path::PathBuf;

/// Finish runs whose process died: seal what their journals kept
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff recover traces/run=cpp\n  \
    bitnet-diff recover traces --format json\n\n\
    Every command that reads a run does this first; doing it again changes nothing. A\n\
    run whose process lives is not touched. A recovered run stays incomplete: what the\n\
    process had not written yet is lost.\n\n\
    Without PATH: $BITNET_TRACE_DIR, else ./traces, else ./target/demo/traces.\n\
    Exit codes: 0 no run is left that should be recovered, 2 some could not be.")]
pub struct Args {
    /// Runs, or databases, all of whose runs are looked at
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Recover runs of another machine, too: their process must be known to be dead
    #[arg(long)]
    other_machine: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let paths = match args.paths.is_empty() {
        true => vec![open::database_path(None)?],
        false => args.paths,
    };
    let mut runs = Vec::new();
    for path in paths {
        for dir in runs_in(&path)? {
            let progress = Progress::of("bytes");
            let mut tell = |done: u64, total: u64| progress.update(done as usize, total as usize);
            let options = RecoverOptions {
                other_machine: args.other_machine,
                progress: Some(&mut tell),
            };
            runs.push(RecoverLine::of(&dir, recover(&dir, options)));
        }
    }
    let failed = runs.iter().any(|r| r.outcome == Outcome::Failed);
    let report = RecoveriesReport { runs };
    let code = if failed { exit::ERROR } else { exit::MATCH };
    Output::new(args.format, &report, || render::recover(&report), code)
}
