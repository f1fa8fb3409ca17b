//! `--explain-plan` of the commands that compare two runs.

use super::{
    args::CompareArgs,
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    exit,
    plan::{PlanReport, plan},
    render,
    report::Labels,
};
use std::path::Path;

/// Prints the plan of two runs in place of their comparison.
pub fn explain_plan(
    left: &Path,
    right: &Path,
    args: &CompareArgs,
    format: Format,
) -> Result<Output, Failure> {
    let (graph, mapping) = (args.graph()?, args.mapping()?);
    let names = open::Names {
        filters: &args.filters,
        graph: &graph,
        mapping: mapping.as_ref(),
    };
    let (left, right) = open::both(left, right, names)?;
    let notes = names.notes(&[&left, &right]);
    let (left, right) = (left.side(), right.side());
    let report = PlanReport {
        left: left.name.into(),
        right: right.name.into(),
        plan: plan(left.records, right.records, &graph).lines(&left, &right, &graph),
        notes,
    };
    let labels = Labels::new(args.labels.clone(), left.name, right.name);
    Output::new(format, &report, || render::plan(&report, &labels), exit::MATCH)
}
