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
    let mut steps_of: HashMap<&str, Vec<usize>, Folding> = HashMap::with_hasher(Folding::new());
    for (i, step) in comparison.plan.steps.iter().enumerate() {
        steps_of.entry(step.key.stage.as_str()).or_default().push(i);
    }
    let rank = |stage| comparison.graph.rank(stage).unwrap_or(usize::MAX);
    let by_stage: BTreeMap<_, _> = steps_of
        .into_iter()
        .map(|(stage, steps)| ((rank(stage), stage), steps))
        .collect();
    let summary = |((_, stage), steps): ((usize, &str), Vec<usize>)| {
        let mut counts = Counts::default();
        steps
            .iter()
            .for_each(|&i| counts.add(comparison.outcomes[i].verdict));
        let spread = spread(comparison, &steps);
        StageSummary {
            stage: stage.to_owned(),
            counts,
            median_rel_l2: spread.map(|s| s.median),
            max_rel_l2: spread.map(|s| s.largest),
            worst: Worst::of(comparison, steps.into_iter()),
        }
    };
    by_stage.into_iter().map(summary).collect()
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

/// The relative L2 of those steps that were compared; none where none was.
fn spread(comparison: &Comparison<'_>, steps: &[usize]) -> Option<Spread> {
    let of = |&i: &usize| comparison.outcomes[i].rel_l2();
    let mut errors: Vec<f64> = steps.iter().filter_map(of).collect();
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
    let mut layers: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (i, step) in comparison.plan.steps.iter().enumerate() {
        if step.key.stage == stage && step.key.layer >= 0 {
            layers.entry(step.key.layer).or_default().push(i);
        }
    }
    let of_layer = |(layer, steps): (i32, Vec<usize>)| {
        let spread = spread(comparison, &steps)?;
        Some(LayerError {
            layer,
            records: spread.records as u64,
            median_rel_l2: spread.median,
            max_rel_l2: spread.largest,
        })
    };
    layers.into_iter().filter_map(of_layer).collect()
}
