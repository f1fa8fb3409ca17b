//! The first divergence: where it is, how large, and on what evidence.

use crate::{
    compare::{
        Comparison, Status, Stopped,
        fold::{OriginsAt, Stands, Told},
    },
    floor::FloorReason,
    inputs::Inputs,
    judge::Reason,
    metrics::Metrics,
    neighbourhood::Neighbourhood,
    plan::Place,
    report::{Common, ReasonView, RecordView, Worst},
    shape::position,
    tolerance::{Applied, Gates},
};
use serde::Serialize;

/// The stage name of a divergence in the token ids themselves.
pub const TOKEN_ID: &str = "token_id";

/// Where two runs first diverge, or that they match.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstReport {
    /// Status, counts, runs and notes.
    #[serde(flatten)]
    pub common: Common,
    /// Where the comparison ended, if not with the runs: what follows is of what was compared.
    pub stopped: Option<Stopped>,
    /// The first divergence.
    pub first_divergence: Option<Divergence>,
    /// Every place whose record diverged while its inputs are clean, by layer and stage in causal order.
    pub origins: Vec<Origin>,
    /// Diverged records whose inputs diverged already.
    pub inherited: u64,
    /// Diverged records of stages outside of the vocabulary, after the first of their request: of these it
    /// is not known whether their inputs had diverged.
    pub unplaced: u64,
    /// The match that is furthest apart.
    pub worst_match: Option<Worst>,
}

/// A diverged record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Request.
    pub request: i32,
    /// Token position.
    pub seq: i64,
    /// Layer.
    pub layer: i32,
    /// Stage; [`TOKEN_ID`] where the token ids themselves differ.
    pub stage: String,
    /// How many records of the same key came before.
    pub visit: u32,
    /// Why it is a divergence.
    pub reason: ReasonView,
    /// Its distance from the floor, where that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<FloorReason>,
    /// The distances, where values were read.
    pub metrics: Option<Metrics>,
    /// Multi-index of the largest absolute difference.
    pub max_abs_index: Option<Vec<u64>>,
    /// The values around the first element that is not finite on one side, or else around the largest difference.
    pub neighbourhood: Option<Neighbourhood>,
    /// Multi-index of the first element that is not finite on one side.
    pub nonfinite_index: Option<Vec<u64>>,
    /// The tolerance that does not hold.
    pub tolerance: Applied,
    /// The left record.
    pub left: SideView,
    /// The right record.
    pub right: SideView,
    /// Its inputs.
    pub inputs: Inputs,
}

/// What one side has at a divergence.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum SideView {
    /// A record.
    Record(RecordView),
    /// A token id.
    Token {
        /// The id.
        token_id: i32,
    },
}

/// A layer and stage at which a divergence begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Origin {
    /// Layer.
    pub layer: i32,
    /// Stage.
    pub stage: String,
    /// Request of the first record.
    pub request: i32,
    /// Position of the first record.
    pub seq: i64,
    /// Records of this layer and stage that are origins.
    pub records: u64,
    /// The one that is furthest apart.
    pub worst: Option<Worst>,
}

impl FirstReport {
    /// The report of a comparison.
    pub fn of(comparison: &Comparison<'_>) -> Self {
        let found = &comparison.found;
        let diverged = found.first.as_ref().and_then(|told| divergence(comparison, told));
        let token = token_divergence(comparison);
        let first_divergence = match (diverged, token) {
            (Some(d), Some(t)) if (t.request, t.seq) < (d.request, d.seq) => Some(t),
            (Some(d), _) => Some(d),
            (None, t) => t,
        };
        Self {
            common: Common::of(comparison),
            stopped: comparison.stopped,
            first_divergence,
            inherited: comparison.counts.diverged - found.origins - found.unplaced,
            unplaced: found.unplaced,
            origins: origins(comparison),
            worst_match: found.worst_match.map(|worst| Worst::of(comparison, worst)),
        }
    }

    /// What it came to.
    pub fn status(&self) -> Status {
        self.common.status
    }
}

fn divergence(comparison: &Comparison<'_>, told: &Told) -> Option<Divergence> {
    let Told { key, outcome, .. } = told;
    let left = comparison.left.records.meta(told.step.left()?);
    let right = comparison.right.records.meta(told.step.right()?);
    let metrics = comparison.metrics(told);
    let index = |at: Option<u64>| at.map(|at| position(left, right, at));
    Some(Divergence {
        request: key.request,
        seq: key.seq,
        layer: key.layer,
        stage: key.stage.to_string(),
        visit: told.step.visit,
        reason: ReasonView::from(outcome.reason.as_deref()?),
        floor: match outcome.reason.as_deref() {
            Some(Reason::Floor(reason)) => Some(*reason),
            _ => None,
        },
        max_abs_index: index(metrics.as_ref().and_then(|m| m.max_abs_at)),
        neighbourhood: metrics
            .as_ref()
            .and_then(|m| m.nonfinite_at.or(m.max_abs_at))
            .and_then(|at| Neighbourhood::of(comparison, &told.step, at)),
        nonfinite_index: index(metrics.as_ref().and_then(|m| m.nonfinite_at)),
        metrics,
        tolerance: comparison.tolerance(told)?,
        left: SideView::Record(RecordView::of(left)),
        right: SideView::Record(RecordView::of(right)),
        inputs: told.inputs.clone(),
    })
}

/// The first difference of generated token ids, as a divergence.
fn token_divergence(comparison: &Comparison<'_>) -> Option<Divergence> {
    let d = comparison.ids.differences.first()?;
    let message = format!("the token ids differ: {} against {}", d.left, d.right);
    Some(Divergence {
        request: d.request,
        seq: d.seq,
        layer: bitnet_trace_schema::LAYER_MODEL,
        stage: TOKEN_ID.into(),
        visit: 0,
        reason: ReasonView {
            kind: "token_ids",
            message,
        },
        floor: None,
        metrics: None,
        max_abs_index: None,
        neighbourhood: None,
        nonfinite_index: None,
        tolerance: Applied {
            gates: Gates::default(),
            source: "token ids".into(),
            text: "token ids must be equal".into(),
        },
        left: SideView::Token { token_id: d.left },
        right: SideView::Token { token_id: d.right },
        inputs: Inputs::default(),
    })
}

/// The origins by layer and stage, in causal order.
fn origins(comparison: &Comparison<'_>) -> Vec<Origin> {
    let found = &comparison.found;
    let places = found.places.iter().zip(&found.at);
    let begun = places.filter_map(|(place, of)| Some((of.origins.first?, place, &of.origins)));
    let mut begun: Vec<_> = begun.collect();
    begun.sort_unstable_by_key(|(first, ..)| *first);
    let origin = |(first, (layer, stage), of): (Stands, &Place, &OriginsAt)| Origin {
        layer: *layer,
        stage: stage.to_string(),
        request: first.request,
        seq: first.seq,
        records: of.records,
        worst: of.worst.map(|worst| Worst::of(comparison, worst)),
    };
    begun.into_iter().map(origin).collect()
}
