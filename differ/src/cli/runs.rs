use super::{
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{exit, render, runs::RunsReport};
use bitnet_trace_store::Database;
use std::path::PathBuf;

/// The runs of a database, oldest first
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff runs\n  \
    bitnet-diff runs traces --format json\n\n\
    Without DB: $BITNET_TRACE_DIR, else ./traces, else ./target/demo/traces.")]
pub struct Args {
    /// A database
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let database = Database::open(open::database_path(args.database)?)?;
    if database.runs().is_empty() {
        // The store's own words for a folder without runs.
        database.newest()?;
    }
    let report = RunsReport::of(&database);
    Output::new(args.format, &report, || render::runs(&report), exit::MATCH)
}
