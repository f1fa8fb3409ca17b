use super::{
    args::{Filters, graph},
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    exit,
    query::query,
    records::{Records, StoredRecords},
    render,
    report::Note,
};
use bitnet_trace_store::{Database, Filter, Run, RunSummary, StoreError};
use std::path::PathBuf;

/// Records side by side, a column a run
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff query --seq 3\n  \
    bitnet-diff query traces --seq 3 --layer 6 --stage 'attn_*' --run cpp --run rust\n  \
    bitnet-diff query traces/run=cpp --seq 0 --stage logits --values 8 --format json\n\n\
    Relative L2 is that against the first run. A ! before an rms marks NaN or infinite elements.\n\
    Without DB: $BITNET_TRACE_DIR, else ./traces, else ./target/demo/traces.")]
pub struct Args {
    /// A database or a run
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    /// Take this run; again for more, in the order of the columns [default: all]
    #[arg(long = "run", value_name = "NAME", help_heading = "Selection")]
    runs: Vec<String>,
    /// Print the first N elements of each record
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = None)]
    values: usize,
    /// TOML file with stages and aliases of your own
    #[arg(long, value_name = "FILE", help_heading = None)]
    stages: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let graph = graph(args.stages.as_deref())?;
    let path = open::database_path(args.database)?;
    let mut unreadable = Vec::new();
    let runs = match Database::open(&path) {
        Ok(database) => {
            if args.runs.is_empty() {
                unreadable.extend(database.runs().iter().filter_map(left_out));
            }
            of_database(&database, &args.runs)?
        }
        Err(StoreError::IsARun { .. }) if args.runs.is_empty() => vec![Run::open(&path)?],
        Err(error) => return Err(error.into()),
    };
    let filter = args.filters.filter();
    let mut all = Vec::with_capacity(runs.len());
    for run in runs {
        all.push(StoredRecords::new(run, &filter)?);
    }
    if all.iter().all(|r| r.is_empty()) {
        let first = &all[0];
        let unfiltered = StoredRecords::new(Run::open(first.run().path())?, &Filter::default())?;
        return Err(open::no_records(&args.filters, &unfiltered.side()).into());
    }
    let sides: Vec<_> = all.iter().map(StoredRecords::side).collect();
    let mut report = query(&path.display().to_string(), &sides, &graph, args.values)?;
    report.notes.append(&mut unreadable);
    let fold = sides.len() > 2;
    Output::new(args.format, &report, || render::query(&report, fold), exit::MATCH)
}

/// The note on a run that cannot be read.
fn left_out(run: &RunSummary) -> Option<Note> {
    run.error.as_ref().map(|error| Note {
        kind: "unreadable",
        message: format!("{} is left out: {error}", run.name),
    })
}

/// The runs of these names, or all that can be read, oldest first; at least one.
fn of_database(database: &Database, names: &[String]) -> Result<Vec<Run>, Failure> {
    if !names.is_empty() {
        return Ok(names
            .iter()
            .map(|name| database.run(name))
            .collect::<Result<_, _>>()?);
    }
    let readable: Vec<_> = database.runs().iter().filter(|r| r.error.is_none()).collect();
    if readable.is_empty() {
        // The newest run's error, or that there is none.
        return Ok(vec![database.newest()?]);
    }
    Ok(readable
        .into_iter()
        .map(|r| database.run(&r.name))
        .collect::<Result<_, _>>()?)
}
