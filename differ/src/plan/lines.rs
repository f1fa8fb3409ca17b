//! A plan as people read it: a line a stage.

use super::{AlignPlan, Explained, How, Missing, Rule};
use crate::{
    mapping::{Naming, Which, split_layer},
    records::{Records, Side},
    report::Note,
};
use bitnet_trace_schema::StageGraph;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Names that a line lists.
const LISTED: usize = 4;

/// The plan of two runs, printed in place of their comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanReport {
    /// The left run's name.
    pub left: String,
    /// The right run's name.
    pub right: String,
    /// A line a stage.
    pub plan: Vec<PlanLine>,
    /// What a reader should know.
    pub notes: Vec<Note>,
}

/// How the records of one stage are aligned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PlanLine {
    /// The stage.
    pub stage: String,
    /// Records on both sides.
    pub paired: u64,
    /// Records of the left run only.
    pub left_only: u64,
    /// Records of the right run only.
    pub right_only: u64,
    /// Pairs whose stage and layer stand in both runs.
    pub by_key: u64,
    /// Pairs with a name that the vocabulary's aliases know.
    pub by_alias: u64,
    /// Pairs with a name that the mapping file teaches.
    pub by_mapping: u64,
    /// The names that were understood by alias or mapping.
    pub names: Vec<NameLine>,
    /// How the elements of the pairs correspond.
    pub layouts: Vec<LayoutLine>,
    /// Why the others do not pair.
    pub missing: Vec<MissingLine>,
}

/// A name that stands for a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NameLine {
    /// The run.
    pub run: Which,
    /// What it calls the tensor; `{layer}` stands for a number.
    pub name: String,
    /// Its operation.
    pub op: String,
    /// Where the stage comes from.
    pub by: Naming,
}

/// Pairs whose elements correspond by one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayoutLine {
    /// The rule's name.
    pub rule: &'static str,
    /// The rule in words.
    pub message: &'static str,
    /// How many pairs.
    pub records: u64,
}

/// Records that pair with nothing for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingLine {
    /// The run that lacks them.
    pub run: Which,
    /// Whether that is how its engine is made or was asked to record.
    pub by_design: bool,
    /// The reason's name.
    pub kind: &'static str,
    /// The reason in words.
    pub message: String,
    /// How many records.
    pub records: u64,
}

#[derive(Default)]
struct Gathered {
    line: PlanLine,
    names: BTreeSet<NameLine>,
    rules: BTreeMap<Rule, u64>,
    missing: BTreeMap<(Which, Missing), u64>,
}

impl AlignPlan {
    /// What the plan says of each stage, in causal order of the vocabulary.
    pub fn lines(&self, left: &Side<'_>, right: &Side<'_>, graph: &StageGraph) -> Vec<PlanLine> {
        let explained = Explained::new(left, right, graph);
        let mut all: BTreeMap<(usize, &str), Gathered> = BTreeMap::new();
        for step in self.iter() {
            let stage = step.stage.as_str();
            let rank = graph.rank(stage).unwrap_or(usize::MAX);
            let of_stage = all.entry((rank, stage)).or_default();
            let line = &mut of_stage.line;
            match explained.how(step) {
                How::Paired { by, rule } => {
                    line.paired += 1;
                    *match by {
                        Naming::Recorded => &mut line.by_key,
                        Naming::Alias => &mut line.by_alias,
                        Naming::Mapping => &mut line.by_mapping,
                    } += 1;
                    *of_stage.rules.entry(rule).or_default() += 1;
                }
                How::Missing { from, why } => {
                    *match from {
                        Which::Left => &mut line.right_only,
                        Which::Right => &mut line.left_only,
                    } += 1;
                    *of_stage.missing.entry((from, why)).or_default() += 1;
                }
            }
            let names = &mut of_stage.names;
            for (run, side, row) in [
                (Which::Left, left, step.left()),
                (Which::Right, right, step.right()),
            ] {
                let name = row.and_then(|row| name(run, side.records, row));
                names.extend(name.filter(|n| names.len() < LISTED || names.contains(n)));
            }
        }
        let named = |run| match run {
            Which::Left => left.name,
            Which::Right => right.name,
        };
        let finish = |((_, stage), of_stage): ((usize, &str), Gathered)| PlanLine {
            stage: stage.to_owned(),
            names: of_stage.names.into_iter().collect(),
            layouts: of_stage.rules.into_iter().map(layout_line).collect(),
            missing: of_stage
                .missing
                .into_iter()
                .map(|((run, why), records)| MissingLine {
                    run,
                    by_design: why.by_design(),
                    kind: why.name(),
                    message: why.words(named(run)),
                    records,
                })
                .collect(),
            ..of_stage.line
        };
        all.into_iter().map(finish).collect()
    }
}

fn layout_line((rule, records): (Rule, u64)) -> LayoutLine {
    LayoutLine {
        rule: rule.name(),
        message: rule.words(),
        records,
    }
}

/// What a run calls a record, where that is not the record's key.
fn name(run: Which, records: &dyn Records, row: usize) -> Option<NameLine> {
    let by = records.naming(row);
    if by == Naming::Recorded {
        return None;
    }
    let recorded = records.recorded(row);
    let name = match recorded.name.as_str() {
        "" => recorded.stage,
        name => name,
    };
    let name = match split_layer(name) {
        (bare, Some(_)) => format!("{bare}-{{layer}}"),
        (bare, None) => bare.to_owned(),
    };
    let op = recorded.op.to_string();
    Some(NameLine { run, name, op, by })
}
