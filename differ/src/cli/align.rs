use super::{
    args::{Filters, graph, labels},
    open,
    output::{Failure, Format, Output},
    progress::Progress,
};
use bitnet_diff::{
    Error,
    align::{AlignStatus, align},
    compare::Options,
    exit, render,
    report::Labels,
};
use std::path::PathBuf;

/// Propose which tensor of one run is which of another, by their values alone
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff align traces/run=known traces/run=new -o mapping.toml\n  \
    bitnet-diff first traces/run=known traces/run=new --mapping mapping.toml\n\n\
    For engines whose names have nothing in common: names are not looked at. Both runs must be of\n\
    the same prompt, best one of 8 to 64 tokens; the mapping holds for longer ones. A tensor is\n\
    matched if each is the other's nearest and what comes next is well behind, as it lies or with\n\
    rotary pairs, heads or columns in another order; where that does not tell, it is left out.\n\n\
    A mapping file, which may be written by hand (see the README):\n  \
    [[map]]\n  \
    side = \"right\"             # or engine = \"NAME\"; neither: both runs\n  \
    name = \"blk.{layer}.attn.q\"\n  \
    stage = \"q_rope\"\n  \
    layout = \"rope_interleaved\"\n  \
    heads = 9\n\n\
    Exit codes: 0 every tensor of B is matched, 1 some are not, 2 error.")]
pub struct Args {
    /// The run whose names are known: a run or a database
    #[arg(value_name = "A")]
    left: PathBuf,
    /// The run whose tensors are looked for
    #[arg(value_name = "B")]
    right: PathBuf,
    /// Write the mapping to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    /// Accept runs that are incomplete
    #[arg(long)]
    allow_incomplete: bool,
    /// TOML file with stages and aliases of your own
    #[arg(long, value_name = "FILE", help_heading = None)]
    stages: Option<PathBuf>,
    /// What to call the two sides
    #[arg(long, value_name = "LEFT,RIGHT", value_parser = labels, help_heading = None)]
    labels: Option<(String, String)>,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = None)]
    threads: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let graph = graph(args.stages.as_deref())?;
    let names = open::Names {
        filters: &args.filters,
        graph: &graph,
        mapping: None,
    };
    let (left, right) = open::both(&args.left, &args.right, names)?;
    let (a, b) = (left.side(), right.side());
    let options = Options {
        allow_incomplete: args.allow_incomplete,
        request: args.filters.request,
        last_seq: args.filters.seq.map(|s| s.last),
        threads: args.threads,
        ..Options::default()
    };
    let progress = Progress::of("tensors");
    let mut made = align(&a, &b, &graph, &options, &|done, total| {
        progress.update(done, total)
    })?;
    drop(progress);
    made.report.notes.extend(names.notes(&[&left, &right]));
    if let Some(file) = &args.output {
        std::fs::write(file, &made.mapping).map_err(|source| Error::Io {
            action: "write",
            path: file.clone(),
            source,
        })?;
        made.report.mapping = Some(file.display().to_string());
    }
    let report = made.report;
    let labels = Labels::new(args.labels, a.name, b.name);
    let code = match report.status {
        AlignStatus::Ok => exit::MATCH,
        AlignStatus::Partial => exit::DIVERGED,
    };
    Output::new(args.format, &report, || render::align(&report, &labels), code)
}
