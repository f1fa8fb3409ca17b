use super::{
    args::{CompareArgs, JudgeArgs},
    local::Wanted,
    open,
    output::{Failure, Output},
    plan::explain_plan,
    progress::Progress,
    verdict::VerdictArgs,
};
use bitnet_diff::{
    checks::Checks,
    compare::{Comparison, Options, Until, compare, verdicts},
    first::FirstReport,
    render,
    report::{Labels, Note},
};
use std::path::PathBuf;

/// Where two runs first diverge: request, position, layer and stage, and on what evidence
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff first traces/run=cpp traces/run=rust\n  \
    bitnet-diff first traces/run=cpp traces/run=rust --rel-l2 1e-2 --seq 0-5\n  \
    bitnet-diff first cpp-traces rust-traces --tolerance tolerance.toml --format json\n  \
    bitnet-diff first traces/run=cpp traces/run=rust --floor floor.toml --format junit > report.xml\n\n\
    The order is causal: by position, then as the left engine executed.\n\
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
    #[command(flatten)]
    judge: JudgeArgs,
    /// Compare everything: without it, the first position at which a record diverges is the last that is compared
    #[arg(long, help_heading = None)]
    all: bool,
    /// Print how records would be paired, and why others would not, and compare nothing
    #[arg(long, help_heading = None)]
    explain_plan: bool,
    #[command(flatten)]
    pub verdict: VerdictArgs,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let verdict = args.verdict;
    if args.explain_plan {
        return explain_plan(&args.left, &args.right, &args.compare, verdict.format());
    }
    let all = args.all || verdict.needs_all();
    let until = if all { Until::End } else { Until::Divergence };
    let options = args.judge.options(&args.compare, until)?;
    with_comparison(
        args.left,
        args.right,
        &args.compare,
        &args.judge,
        &options,
        |comparison, labels, notes| {
            let mut report = FirstReport::of(comparison);
            report.common.notes.splice(0..0, notes);
            let text = || render::first(&report, labels);
            let checks = |text| Checks::of_first(&report, labels, text);
            verdict.output(&report, &report.common, text, checks)
        },
    )
    .or_else(|failure| verdict.failed("first", failure))
}

/// Opens and compares two runs; the notes say which runs were taken from databases.
pub fn with_comparison<T>(
    left: PathBuf,
    right: PathBuf,
    args: &CompareArgs,
    judge: &JudgeArgs,
    options: &Options,
    then: impl FnOnce(&Comparison<'_>, &Labels, Vec<Note>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let graph = args.graph()?;
    let mapping = args.mapping()?;
    let names = open::Names {
        filters: &args.filters,
        graph: &graph,
        mapping: mapping.as_ref(),
    };
    let paths = (left, right);
    let (left, right) = open::both(&paths.0, &paths.1, names)?;
    let (a, b) = (left.side(), right.side());
    let referee = Wanted::of(judge, args, [&a, &b])?;
    let to_the_end = Options {
        until: Until::End,
        ..options.clone()
    };
    // What is judged by its own inputs may differ anywhere before.
    let options = if referee.is_some() { &to_the_end } else { options };
    let progress = Progress::new();
    let shown = |done, total| progress.update(done, total);
    // A floor and the referee look at every pair.
    let all = options.floor.is_some() || referee.as_ref().is_some_and(Wanted::is_asked_always);
    let by_distance = match all {
        true => None,
        false => Some(compare(&a, &b, &graph, options, &shown)?),
    };
    let is_final = |c: &Comparison<'_>| referee.as_ref().is_none_or(|r| !r.is_needed(c));
    let comparison = match by_distance.filter(is_final) {
        Some(comparison) => comparison,
        None => {
            let mut pairs = verdicts(&a, &b, &graph, options, &shown)?;
            drop(progress);
            if let Some(referee) = &referee
                && referee.is_needed(&pairs.comparison())
            {
                referee.judge(&mut pairs, (&paths.0, &paths.1), names)?;
            }
            pairs.comparison()
        }
    };
    let labels = Labels::new(args.labels.clone(), a.name, b.name);
    let notes = names.notes(&[&left, &right]);
    then(&comparison, &labels, notes)
}
