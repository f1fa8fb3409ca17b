//! Two runs in full: every stage, and how the error grows over the layers.

use crate::{
    compare::{Comparison, Counts, Status},
    first::FirstReport,
    num,
    plan::Key,
    plan::folding::Folding,
    records::at_once,
    report::{Common, Worst},
};
use bitnet_trace_schema::StageScope;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// The stage whose error is shown over the layers, where it was compared.
const RESIDUAL: &str = "layer_out";

/// What `compare` tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompareReport {
    /// Status, counts, runs and notes.
    #[serde(flatten)]
    pub common: Common,
    /// Where the runs first diverge, in brief; `first` tells more.
    pub first_divergence: Option<Key>,
    /// Every stage that either run recorded, in causal order.
    pub stages: Vec<StageSummary>,
    /// The stage of `growth`.
    pub growth_stage: Option<String>,
    /// The error of one stage over the layers.
    pub growth: Vec<LayerError>,
}

/// All records of one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageSummary {
    /// The stage.
    pub stage: String,
    /// Verdicts, counted.
    pub counts: Counts,
    /// Median relative L2 of what was compared; identical records count as 0.
    #[serde(serialize_with = "num::json_option")]
    pub median_rel_l2: Option<f64>,
    /// Largest relative L2.
    #[serde(serialize_with = "num::json_option")]
    pub max_rel_l2: Option<f64>,
    /// The record that is furthest apart.
    pub worst: Option<Worst>,
}

/// The error of a stage in one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerError {
    /// The layer.
    pub layer: i32,
    /// Records that were compared.
    pub records: u64,
    /// Median relative L2 of them.
    #[serde(serialize_with = "num::json")]
    pub median_rel_l2: f64,
    /// Largest relative L2 of them.
    #[serde(serialize_with = "num::json")]
    pub max_rel_l2: f64,
}

impl CompareReport {
    /// The report of a comparison.
    pub fn of(comparison: &Comparison<'_>) -> Self {
        let of_stages = || (stages(comparison), growth_stage(comparison));
        let (first, (stages, growth_stage)) = at_once(|| FirstReport::of(comparison), of_stages);
        Self {
            first_divergence: first.first_divergence.map(|d| Key {
                request: d.request,
                seq: d.seq,
                layer: d.layer,
                stage: d.stage.into(),
            }),
            common: first.common,
            stages,
            growth: growth_stage
                .as_deref()
                .map(|s| growth(comparison, s))
                .unwrap_or_default(),
            growth_stage,
        }
    }

    /// What it came to.
    pub fn status(&self) -> Status {
        self.common.status
    }
}

fn stages(comparison: &Comparison<'_>) -> Vec<StageSummary> {
    let mut stages = Stages::new();
    let steps = comparison.plan.steps.iter().zip(&comparison.outcomes);
    for (i, (step, outcome)) in steps.enumerate() {
        let of = stages.get(step.key.stage.as_str());
        of.counts.add(outcome.verdict);
        of.errors.extend(outcome.rel_l2());
        if let Some(distance) = &outcome.distance
            && of
                .worst
                .is_none_or(|(_, worst)| distance.rel_l2.total_cmp(&worst).is_gt())
        {
            of.worst = Some((i, distance.rel_l2));
        }
    }
    let rank = |stage| (comparison.graph.rank(stage).unwrap_or(usize::MAX), stage);
    stages
        .all
        .sort_unstable_by(|a, b| rank(a.stage).cmp(&rank(b.stage)));
    let summary = |of: OfStage<'_>| {
        let spread = spread(of.errors);
        StageSummary {
            stage: of.stage.to_owned(),
            counts: of.counts,
            median_rel_l2: spread.map(|s| s.median),
            max_rel_l2: spread.map(|s| s.largest),
            worst: of
                .worst
                .and_then(|(i, _)| Worst::of(comparison, std::iter::once(i))),
        }
    };
    stages.all.into_iter().map(summary).collect()
}

/// What is gathered of one stage.
struct OfStage<'a> {
    stage: &'a str,
    counts: Counts,
    /// Relative L2 of what was compared.
    errors: Vec<f64>,
    /// The step that is furthest apart of those that were measured, the first of several, and its relative L2.
    worst: Option<(usize, f64)>,
}

/// The stages of the steps, as they are met.
struct Stages<'a> {
    all: Vec<OfStage<'a>>,
    numbers: HashMap<&'a str, usize, Folding>,
    last: usize,
    /// The stage that came after each, when that was met last: most layers have the stages of the layer before.
    after: Vec<usize>,
}

impl<'a> Stages<'a> {
    fn new() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::with_hasher(Folding::new()),
            last: 0,
            after: Vec::new(),
        }
    }

    fn get(&mut self, stage: &'a str) -> &mut OfStage<'a> {
        let expected = self.after.get(self.last).copied();
        let number = expected
            .filter(|&n| self.all[n].stage == stage)
            .unwrap_or_else(|| self.number(stage));
        if let Some(after) = self.after.get_mut(self.last) {
            *after = number;
        }
        self.last = number;
        &mut self.all[number]
    }

    fn number(&mut self, stage: &'a str) -> usize {
        *self.numbers.entry(stage).or_insert_with(|| {
            self.all.push(OfStage {
                stage,
                counts: Counts::default(),
                errors: Vec::new(),
                worst: None,
            });
            self.after.push(0);
            self.all.len() - 1
        })
    }
}

/// The median of sorted numbers: of an even count, the upper one of the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// Relative L2 of steps that were compared.
#[derive(Clone, Copy)]
struct Spread {
    records: usize,
    /// As [`median`] has it.
    median: f64,
    largest: f64,
}

/// The spread of the relative L2 of what was compared; none where nothing was.
fn spread(mut errors: Vec<f64>) -> Option<Spread> {
    let (records, middle) = (errors.len(), errors.len() / 2);
    let largest = errors.iter().copied().max_by(f64::total_cmp)?;
    let (_, &mut median, _) = errors.select_nth_unstable_by(middle, f64::total_cmp);
    Some(Spread {
        records,
        median,
        largest,
    })
}

/// The residual stream, or else the last stage of the layers that was compared.
fn growth_stage(comparison: &Comparison<'_>) -> Option<String> {
    let compared = |name: &str| {
        let steps = comparison.plan.steps.iter().zip(&comparison.outcomes);
        let mut of_stage = steps.filter(|(s, _)| s.key.stage == name && s.key.layer >= 0);
        of_stage.any(|(_, o)| o.verdict.is_compared())
    };
    let stages = comparison.graph.stages().iter().rev();
    let of_layers = stages
        .filter(|s| s.scope == StageScope::Layer)
        .map(|s| s.name.as_str());
    let mut candidates = std::iter::once(RESIDUAL).chain(of_layers);
    candidates.find(|name| compared(name)).map(str::to_owned)
}

fn growth(comparison: &Comparison<'_>, stage: &str) -> Vec<LayerError> {
    let mut layers: BTreeMap<i32, Vec<f64>> = BTreeMap::new();
    for (step, outcome) in comparison.plan.steps.iter().zip(&comparison.outcomes) {
        if step.key.stage == stage && step.key.layer >= 0 {
            layers.entry(step.key.layer).or_default().extend(outcome.rel_l2());
        }
    }
    let of_layer = |(layer, errors): (i32, Vec<f64>)| {
        let spread = spread(errors)?;
        Some(LayerError {
            layer,
            records: spread.records as u64,
            median_rel_l2: spread.median,
            max_rel_l2: spread.largest,
        })
    };
    layers.into_iter().filter_map(of_layer).collect()
}
