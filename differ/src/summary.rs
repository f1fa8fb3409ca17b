//! Two runs in full: every stage, and how the error grows over the layers.

use crate::{
    compare::{Comparison, Counts, Status, fold::AtPlace},
    first::FirstReport,
    num,
    plan::Key,
    report::{Common, Worst},
};
use bitnet_trace_schema::StageScope;
use serde::Serialize;
use std::collections::BTreeMap;

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
    /// Median relative L2 of what was compared, within 0.8 %; identical records count as 0.
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
    /// Median relative L2 of them, within 0.8 %.
    #[serde(serialize_with = "num::json")]
    pub median_rel_l2: f64,
    /// Largest relative L2 of them.
    #[serde(serialize_with = "num::json")]
    pub max_rel_l2: f64,
}

impl CompareReport {
    /// The report of a comparison.
    pub fn of(comparison: &Comparison<'_>) -> Self {
        let first = FirstReport::of(comparison);
        let growth_stage = growth_stage(comparison);
        Self {
            first_divergence: first.first_divergence.map(|d| Key {
                request: d.request,
                seq: d.seq,
                layer: d.layer,
                stage: d.stage.into(),
            }),
            common: first.common,
            stages: stages(comparison),
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
    let found = &comparison.found;
    let mut stages: BTreeMap<(usize, &str), AtPlace> = BTreeMap::new();
    for ((_, stage), of_place) in found.places.iter().zip(&found.at) {
        let rank = comparison.graph.rank(stage).unwrap_or(usize::MAX);
        let of = stages.entry((rank, stage)).or_default();
        of.counts.merge(&of_place.counts);
        of.errors.merge(&of_place.errors);
        of.worst = of_place.worst.map(|worst| worst.further(of.worst));
    }
    let summary = |((_, stage), of): ((usize, &str), AtPlace)| StageSummary {
        stage: stage.to_owned(),
        counts: of.counts,
        median_rel_l2: of.errors.median(),
        max_rel_l2: of.errors.largest(),
        worst: of.worst.map(|worst| Worst::of(comparison, worst)),
    };
    stages.into_iter().map(summary).collect()
}

/// The median of sorted numbers: of an even count, the upper one of the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// The places of a stage in the layers.
fn of_layers<'a>(comparison: &'a Comparison<'_>, stage: &str) -> impl Iterator<Item = (i32, &'a AtPlace)> {
    let found = &comparison.found;
    let places = found.places.iter().zip(&found.at);
    let of_stage = places.filter(move |((layer, name), _)| *layer >= 0 && name == stage);
    of_stage.map(|((layer, _), of)| (*layer, of))
}

/// The residual stream, or else the last stage of the layers that was compared.
fn growth_stage(comparison: &Comparison<'_>) -> Option<String> {
    let compared = |name: &str| of_layers(comparison, name).any(|(_, of)| of.counts.compared() > 0);
    let stages = comparison.graph.stages().iter().rev();
    let of_layers = stages
        .filter(|s| s.scope == StageScope::Layer)
        .map(|s| s.name.as_str());
    let mut candidates = std::iter::once(RESIDUAL).chain(of_layers);
    candidates.find(|name| compared(name)).map(str::to_owned)
}

fn growth(comparison: &Comparison<'_>, stage: &str) -> Vec<LayerError> {
    let mut layers: Vec<LayerError> = of_layers(comparison, stage)
        .filter_map(|(layer, of)| {
            Some(LayerError {
                layer,
                records: of.errors.count(),
                median_rel_l2: of.errors.median()?,
                max_rel_l2: of.errors.largest()?,
            })
        })
        .collect();
    layers.sort_unstable_by_key(|l| l.layer);
    layers
}
