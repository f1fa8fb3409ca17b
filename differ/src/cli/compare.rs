use super::{
    args::{CompareArgs, JudgeArgs},
    first::with_comparison,
    open,
    output::{Failure, Output},
    plan::explain_plan,
    progress::Progress,
    verdict::VerdictArgs,
};
use bitnet_diff::{
    checks::Checks, compare::Until, mapping::Which, render, summary::CompareReport, three::three,
};
use std::path::{Path, PathBuf};

/// Every stage of two runs: counts, worst record, growth of the error over the layers
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust --stage 'ffn_*' --format json\n  \
    bitnet-diff compare traces/run=cpp traces/run=rust --explain-plan\n  \
    bitnet-diff compare traces/run=port traces/run=llama.cpp traces/run=bitnet.cpp\n\n\
    Exit codes: 0 match, 1 divergence, 2 error or nothing to compare.")]
pub struct Args {
    /// The reference: a run, a database or .trace files
    #[arg(value_name = "A")]
    left: PathBuf,
    /// What is held against it
    #[arg(value_name = "B")]
    right: PathBuf,
    /// A third run, to be told which of them stands alone
    #[arg(value_name = "C", conflicts_with = "explain_plan")]
    third: Option<PathBuf>,
    #[command(flatten)]
    compare: CompareArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Print how records would be paired, and why others would not, and compare nothing
    #[arg(long, help_heading = None)]
    explain_plan: bool,
    #[command(flatten)]
    pub verdict: VerdictArgs,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    if args.explain_plan {
        return explain_plan(&args.left, &args.right, &args.compare, args.verdict.format());
    }
    let verdict = args.verdict;
    if let Some(third) = &args.third {
        return compare_three(&args, third).or_else(|failure| verdict.failed("compare", failure));
    }
    let options = args.judge.options(&args.compare, Until::End)?;
    with_comparison(
        args.left,
        args.right,
        &args.compare,
        &args.judge,
        &options,
        |comparison, labels, notes| {
            let mut report = CompareReport::of(comparison);
            report.common.notes.splice(0..0, notes);
            let text = || render::compare(&report, labels);
            let checks = |text| Checks::of_compare(&report, labels, text);
            verdict.output(&report, &report.common, text, checks)
        },
    )
    .or_else(|failure| verdict.failed("compare", failure))
}

fn compare_three(args: &Args, third: &Path) -> Result<Output, Failure> {
    let options = args.judge.options(&args.compare, Until::End)?;
    let graph = args.compare.graph()?;
    let mapping = args.compare.mapping()?;
    let names = open::Names {
        filters: &args.compare.filters,
        graph: &graph,
        mapping: mapping.as_ref(),
    };
    let (left, right) = open::both(&args.left, &args.right, names)?;
    let runs = [left, right, open::run(third, Which::Right, names)?];
    let sides = runs.each_ref().map(|r| r.side());
    let progress = Progress::new();
    let mut report = three(sides.each_ref(), &graph, &options, &|done, total| {
        progress.update(done, total)
    })?;
    drop(progress);
    report.notes.splice(0..0, names.notes(&runs.each_ref()));
    args.verdict.output_three(&report, || render::three(&report))
}
