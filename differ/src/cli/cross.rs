use super::{
    args::{Filters, ReplayArgs, graph},
    open,
    output::{Failure, Format, Output},
    progress::Progress,
    record::{self, CrossArgs},
};
use bitnet_diff::{
    compare::{Options, verdicts},
    cross::LocalReport,
    exit, render,
};
use std::{ffi::OsString, path::PathBuf};

/// Run a program with another run's inputs at every stage, and say how far off each stage is
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff cross traces/run=cpp -- bitnet-cli run --model m.gguf --prompt hi --max-tokens 4\n  \
    bitnet-diff cross traces/run=rust --name cpp-local -- ./llama-simple -m m.gguf -n 4 hi\n  \
    bitnet-diff cross traces/run=cpp --format json -- bitnet-cli run --model m.gguf --prompt hi\n\n\
    The program is given the model, the prompt and the settings of the run that is replayed into it (KV cache type, flash \
    attention); what differs is an error. Each stage is computed from the stored run's inputs, so what differs is the error of \
    that stage alone, and stands beside what rounding explains.\n\
    Exit codes: 0 rounding at most, 1 a stage is further off, 2 error.")]
pub struct Args {
    /// The run that is replayed, or a database, of which the newest is
    #[arg(value_name = "A")]
    run: PathBuf,
    /// The database [default: $BITNET_TRACE_DIR, else ./traces]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The name of the program's run; if it is taken, the recorder adds -2, -3, ...
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    replaying: ReplayArgs,
    /// Let an unmodified program compute with N threads, whatever it asks for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads_hint: Option<u16>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    command: Vec<OsString>,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let of = CrossArgs {
        into: args.into,
        name: args.name,
        threads_hint: args.threads_hint,
        command: args.command,
    };
    let partial = args.replaying.allow_partial;
    // The table goes to stdout: the program's own words to stderr.
    let (report, from) = record::record(record::Args::full_replay(
        args.run,
        of,
        args.replaying,
        Format::Json,
    ))?;
    if let Some(error) = report.error {
        return Err(Failure::new(error.kind, error.message));
    }
    let (Some(from), Some(to)) = (from, report.runs.iter().max_by_key(|r| r.run.records)) else {
        return Err(Failure::new("nothing_recorded", "the program recorded nothing"));
    };
    let (filters, graph) = (Filters::default(), graph(None)?);
    let names = open::Names {
        filters: &filters,
        graph: &graph,
        mapping: None,
    };
    let (left, right) = open::both(from.path(), to.run.path.as_ref(), names)?;
    let (left, right) = (left.side(), right.side());
    let options = Options {
        allow_incomplete: partial,
        ..Options::default()
    };
    let progress = Progress::new();
    let pairs = verdicts(&left, &right, &graph, &options, &|done, total| {
        progress.update(done, total)
    })?;
    drop(progress);
    let report = LocalReport::of(&pairs).ok_or_else(|| {
        Failure::new(
            "replay",
            format!("{} was not replayed into {}", from.name(), to.run.name),
        )
    })?;
    Output::new(
        args.format,
        &report,
        || render::cross(&report),
        exit::code(report.status),
    )
}
