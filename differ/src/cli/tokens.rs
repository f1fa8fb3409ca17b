use super::{
    args::CompareArgs,
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    exit, render,
    report::Labels,
    tokens::{DEFAULT_TOP_K, LOGITS, tokens},
};
use clap::builder::RangedU64ValueParser;
use std::path::PathBuf;

/// The logits of every position: cosine, relative L2, KL, top-1 and top-k agreement
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff tokens traces/run=cpp traces/run=rust\n  \
    bitnet-diff tokens traces/run=cpp traces/run=rust --cosine 0.999 --rel-l2 0.05\n\n\
    KL is that of softmax(A) to softmax(B), in nats; top-1 is the most likely next token.\n\
    Exit codes: 0 match, 1 divergence, 2 error or nothing to compare.")]
pub struct Args {
    /// The reference: a run, a database or .trace files
    #[arg(value_name = "A")]
    left: PathBuf,
    /// What is held against it
    #[arg(value_name = "B")]
    right: PathBuf,
    /// How many of the most likely tokens the overlap looks at, 1 to 1000
    #[arg(short = 'k', long, value_name = "K", default_value_t = DEFAULT_TOP_K, value_parser = top_k())]
    top_k: usize,
    #[command(flatten)]
    compare: CompareArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

/// The overlap takes time with the square of k.
fn top_k() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1000)
}

pub fn run(mut args: Args) -> Result<Output, Failure> {
    let (options, graph) = (args.compare.options()?, args.compare.graph()?);
    args.compare.filters.stage.get_or_insert_with(|| LOGITS.into());
    let mapping = args.compare.mapping()?;
    let names = open::Names {
        filters: &args.compare.filters,
        graph: &graph,
        mapping: mapping.as_ref(),
    };
    let (left, right) = open::both(&args.left, &args.right, names)?;
    let (a, b) = (left.side(), right.side());
    let mut report = tokens(&a, &b, &graph, &options, args.top_k)?;
    report.notes.splice(0..0, names.notes(&[&left, &right]));
    let labels = Labels::new(args.compare.labels.clone(), a.name, b.name);
    let code = exit::code(report.status);
    Output::new(args.format, &report, || render::tokens(&report, &labels), code)
}
