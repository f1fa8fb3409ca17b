use super::{
    args::CompareArgs,
    first::with_comparison,
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    exit,
    plan::{PlanLine, plan},
    render,
    report::Labels,
    summary::CompareReport,
};
use serde::Serialize;
use std::path::PathBuf;

/// Every stage of two runs: counts, worst record, growth of the error over the layers
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust --stage 'ffn_*' --format json\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust --explain-plan\n\n\
    Exit codes: 0 match, 1 divergence, 2 error or nothing to compare.")]
pub struct Args {
    /// The reference: a run, a database or .trace files
    #[arg(value_name = "A")]
    left: PathBuf,
    /// What is held against it
    #[arg(value_name = "B")]
    right: PathBuf,
    #[command(flatten)]
    compare: CompareArgs,
    /// Print which records would be paired, and compare nothing
    #[arg(long, help_heading = None)]
    explain_plan: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

/// A plan, printed instead of a comparison.
#[derive(Serialize)]
struct PlanReport {
    left: String,
    right: String,
    plan: Vec<PlanLine>,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    if args.explain_plan {
        return explain_plan(args);
    }
    with_comparison(
        args.left,
        args.right,
        &args.compare,
        |comparison, labels, notes| {
            let mut report = CompareReport::of(comparison);
            report.common.notes.splice(0..0, notes);
            let code = exit::code(report.status());
            Output::new(args.format, &report, || render::compare(&report, labels), code)
        },
    )
}

fn explain_plan(args: Args) -> Result<Output, Failure> {
    let graph = args.compare.graph()?;
    let filters = &args.compare.filters;
    let (left, right) = (
        open::run(&args.left, filters, &graph)?,
        open::run(&args.right, filters, &graph)?,
    );
    let (left, right) = (left.side(), right.side());
    let report = PlanReport {
        left: left.name.into(),
        right: right.name.into(),
        plan: plan(left.records, right.records, &graph).lines(&graph),
    };
    let labels = Labels::new(args.compare.labels.clone(), left.name, right.name);
    Output::new(
        args.format,
        &report,
        || render::plan(&report.plan, &labels),
        exit::MATCH,
    )
}
