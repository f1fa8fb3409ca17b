use super::{
    args::graph,
    open,
    output::{Failure, Format, Output},
    record,
};
use bitnet_diff::{exit, importing::ImportReport, render};
use bitnet_trace_store::{Traces, import};
use std::path::PathBuf;

/// Make a run of .trace files, which the older tracing crate and others write
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff import /tmp/rust --into traces --name rust\n  \
    bitnet-diff import a.trace b.jsonl\n\n\
    Files hold JSON objects, one a line or each over several lines; of a folder, *.trace and\n\
    *.jsonl are taken. All of them make one run. They hold no values, so that the run\n\
    compares by hash and rms only. Comparisons take the files as they are, too.\n\
    Exit codes: 0 imported, 2 error; a malformed file is told with its line.")]
pub struct Args {
    /// Files, or folders of files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// The database [default: $BITNET_TRACE_DIR, else ./traces]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The run's name; if it is taken, -2, -3, ... is added [default: that of the first path]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// TOML file with stages and aliases of your own
    #[arg(long, value_name = "FILE")]
    stages: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let graph = graph(args.stages.as_deref())?;
    let name = match (&args.name, args.paths.first()) {
        (Some(name), _) => record::run_name(name)?.to_owned(),
        (None, Some(path)) => open::trace_name(path),
        (None, None) => String::new(),
    };
    let traces = Traces::read(&args.paths, graph)?;
    let run = import::import(&traces, &record::database(args.into), &name)?;
    let report = ImportReport::of(&traces, &run);
    Output::new(args.format, &report, || render::import(&report), exit::MATCH)
}
