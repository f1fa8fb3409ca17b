use super::{
    args::{Filters, Naming},
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    Error, exit,
    mapping::{Mapped, Which},
    query::query,
    records::StoredRecords,
    render,
    report::Note,
};
use bitnet_trace_store::{Database, Filter, Run, RunSummary, StoreError};
use std::{
    iter::{once, repeat},
    path::PathBuf,
};

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
    #[command(flatten)]
    naming: Naming,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let graph = args.naming.graph()?;
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
    let mapping = args.naming.mapping()?;
    // A mapping gives the names that the filters take.
    let (before, after) = match mapping {
        None => (args.filters.filter(), Filter::default()),
        Some(_) => (Filter::default(), args.filters.filter()),
    };
    let mut all = Vec::with_capacity(runs.len());
    for run in runs {
        all.push(StoredRecords::new(run, &before));
    }
    let mut mapped = Vec::new();
    if let Some(mapping) = &mapping {
        // The first is what the others are held against.
        for (records, which) in all.iter().zip(once(Which::Left).chain(repeat(Which::Right))) {
            let engine = &records.run().manifest().engine.name;
            let mut named =
                Mapped::new(records, which, engine, Some(mapping), &graph).map_err(Error::from)?;
            named.retain(&after);
            mapped.push(named);
        }
    }
    let mut sides: Vec<_> = all.iter().map(StoredRecords::side).collect();
    for (side, named) in sides.iter_mut().zip(&mapped) {
        side.records = named;
    }
    if sides.iter().all(|s| s.records.is_empty()) {
        let unfiltered = StoredRecords::new(Run::open(all[0].run().path())?, &Filter::default());
        return Err(open::no_records(&args.filters, &unfiltered.side()).into());
    }
    let mut report = query(&path.display().to_string(), &sides, &graph, args.values)?;
    if let Some(mapping) = &mapping {
        let used = mapped.iter().flat_map(Mapped::used).copied().collect();
        report.notes.extend(mapping.notes(&used));
    }
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
