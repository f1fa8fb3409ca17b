use super::{
    args::{self, Filters},
    local, open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    compare::{Options, gate},
    exit,
    local::{Indexed, JudgeReport, Which},
    mapping::Which as MappedSide,
    records::Side,
    render,
    report::Labels,
};
use bitnet_referee::Activations;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Which engine is wrong, and in which stage: each record against the exact result of its own recorded inputs
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff judge traces/run=cpp traces/run=rust\n  \
    bitnet-diff judge traces/run=rust --model model.gguf\n  \
    bitnet-diff judge traces/run=cpp traces/run=rust --stage 'attn_*' --layer 0-5\n  \
    bitnet-diff judge traces/run=long --sample 16 --format json\n\n\
    Every stage is recomputed in f64 from the model's GGUF and from what the engine itself recorded of the stage's \
    inputs, so that an error counts only where it was made. How the engine rounds activations to 8 bits is found by \
    trying. One run alone is held against the mathematics of its model, with no reference engine.\n\
    Exit codes: 0 clean, 1 something is off, 2 error or nothing could be told.")]
pub struct Args {
    /// A run or a database
    #[arg(value_name = "A")]
    left: PathBuf,
    /// A second run of the same model and prompt
    #[arg(value_name = "B")]
    right: Option<PathBuf>,
    /// The model file [default: the one that the runs name]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Recompute at most so many tokens of each stage
    #[arg(long, value_name = "N")]
    sample: Option<NonZeroUsize>,
    /// What a product's activations are taken to be
    #[arg(long, value_enum, default_value_t)]
    activations: Known,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    mapping: args::Naming,
    /// Accept runs that are incomplete
    #[arg(long, help_heading = None)]
    allow_incomplete: bool,
    /// What to call the runs
    #[arg(long, value_name = "A,B", value_parser = args::labels, help_heading = None)]
    labels: Option<(String, String)>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Known {
    /// Rounded as the engine rounds them, which is found by trying
    #[default]
    Found,
    /// Not rounded: a product may be off by ten times what rounding is measured to do
    Exact,
}

impl From<Known> for Activations {
    fn from(known: Known) -> Self {
        match known {
            Known::Found => Self::Found,
            Known::Exact => Self::Exact,
        }
    }
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let (graph, mapping) = (args.mapping.graph()?, args.mapping.mapping()?);
    // Inputs are looked for among all records.
    let all = Filters::default();
    let names = open::Names {
        filters: &all,
        graph: &graph,
        mapping: mapping.as_ref(),
    };
    let opened = match &args.right {
        Some(right) => {
            let (left, right) = open::both(&args.left, right, names)?;
            vec![left, right]
        }
        None => vec![open::run(&args.left, MappedSide::Left, names)?],
    };
    let sides: Vec<Side<'_>> = opened.iter().map(open::Opened::side).collect();
    let sides: Vec<&Side<'_>> = sides.iter().collect();
    let options = Options {
        allow_incomplete: args.allow_incomplete,
        request: args.filters.request,
        ..Options::default()
    };
    // Of one run, whether it is complete.
    gate(sides[0], sides[sides.len() - 1], &options)?;

    let (model, referee) = local::referee(args.model.as_deref(), &sides)?;
    let which = Which {
        filter: args.filters.filter(),
        sample: args.sample.map(NonZeroUsize::get),
        activations: args.activations.into(),
    };
    let runs: Vec<Indexed<'_>> = sides.iter().map(|side| Indexed::new(side)).collect();
    let audits = local::audits(&referee, &runs, &which)?;
    let audits: Vec<_> = runs.iter().zip(&audits).collect();
    let mut report = JudgeReport::of(&referee, model.display().to_string(), &audits);
    report
        .notes
        .splice(0..0, names.notes(&opened.iter().collect::<Vec<_>>()));
    let labels = Labels::new(args.labels, sides[0].name, sides[sides.len() - 1].name);
    let code = exit::code(report.status);
    Output::new(args.format, &report, || render::judge(&report, &labels), code)
}
