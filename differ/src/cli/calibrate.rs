mod auto;

use super::{
    args::graph,
    open,
    output::{Failure, Format, Output},
    progress::Progress,
    record::writable,
};
use auto::AutoArgs;
use bitnet_diff::{
    Error, StoredRecords,
    compare::Options,
    exit,
    floor::{CalibrateReport, Floor, calibrate},
    render,
};
use bitnet_trace_store::{Database, Filter, Run};
use std::path::{Path, PathBuf};

/// Measure how far apart sound runs are: the noise floor that `--floor` judges by
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff calibrate traces/run=cpp-{1,2,3,4,5} traces/run=rust-{1,2,3,4,5} -o floor.toml\n  \
    bitnet-diff calibrate sound-runs/ -o floor.toml\n  \
    bitnet-diff calibrate --auto --prompts prompts.txt --also '--batch 1' -o floor.toml \\\n      \
        -- ./cpp-runner --model m.gguf --prompt '{prompt}' --max-tokens 4\n  \
    bitnet-diff first traces/run=cpp traces/run=rust --floor floor.toml\n\n\
    Every two runs of one prompt (the same prompt token ids) are compared. Declare as sound what you trust: an engine \
    run again, with 1 and N threads, batched and token by token, with F16 and F32 KV cache, with and without flash \
    attention, or a second engine. Use at least five prompts, and other ones than those you judge.\n\
    Exit codes: 0 written, 2 error.")]
pub struct Args {
    /// Runs that are trusted; of a database, all of its runs
    #[arg(value_name = "RUN", required_unless_present = "auto")]
    runs: Vec<PathBuf>,
    /// Where the floor is written
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    auto: AutoArgs,
    /// Accept runs that are incomplete
    #[arg(long)]
    allow_incomplete: bool,
    /// TOML file with stages and aliases of your own
    #[arg(long, value_name = "FILE")]
    stages: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let graph = graph(args.stages.as_deref())?;
    let mut runs = Vec::new();
    // Dropped, and with it the runs, at the end.
    let mut folder = None;
    if args.auto.is_wanted() {
        let database = match args.auto.database() {
            Some(database) => database.to_owned(),
            None => {
                let made = tempfile::Builder::new()
                    .prefix("calibrate-")
                    .tempdir_in(parent(&args.output))
                    .map_err(|source| cannot("make a folder beside", &args.output, source))?;
                folder.insert(made).path().to_owned()
            }
        };
        writable(&database)?;
        for run in args.auto.record(&database)? {
            runs.extend(open_all(&run)?);
        }
    }
    for path in &args.runs {
        runs.extend(open_all(path)?);
    }
    let sides: Vec<_> = runs.iter().map(StoredRecords::side).collect();
    let options = Options {
        allow_incomplete: args.allow_incomplete,
        ..Options::default()
    };
    let progress = Progress::of("pairs");
    let calibration = calibrate(&sides, &graph, &options, &|done, total| {
        progress.update(done, total);
    })?;
    drop(progress);
    write(&args.output, &calibration.floor)?;
    let report = CalibrateReport::of(&calibration, args.output.display().to_string(), &graph);
    Output::new(args.format, &report, || render::calibrate(&report), exit::MATCH)
}

/// The run at `path`, or all runs of the database there.
fn open_all(path: &Path) -> Result<Vec<StoredRecords>, Failure> {
    if !open::is_database(path) {
        let run = Run::open(path).map_err(|error| open::unknown_run(path, error))?;
        return Ok(vec![StoredRecords::new(run, &Filter::default())]);
    }
    let database = Database::open(path)?;
    if database.runs().is_empty() {
        // The store's own words for a folder without runs.
        database.newest()?;
    }
    let runs = database.runs().iter().map(|summary| {
        let run = database.run(&summary.name)?;
        Ok(StoredRecords::new(run, &Filter::default()))
    });
    runs.collect()
}

/// Writes the whole file or none.
fn write(path: &Path, floor: &Floor) -> Result<(), Failure> {
    let text = floor.to_toml().map_err(|e| Failure::new("floor", e))?;
    let written = tempfile::NamedTempFile::new_in(parent(path)).and_then(|mut file| {
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    });
    written.map_err(|source| cannot("write", path, source))
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn cannot(action: &'static str, path: &Path, source: std::io::Error) -> Failure {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
    .into()
}
