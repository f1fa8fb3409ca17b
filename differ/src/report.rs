//! What every report is made of. Reports are values: text and JSON only render them.

use crate::{
    Error,
    compare::{Comparison, Counts, Status, Verdicts, fold::Furthest},
    floor::Judgement,
    judge::Reason,
    local::LocalView,
    metrics::Distance,
    num,
    plan::Key,
    records::Side,
    setup::{Given, given},
};
use bitnet_trace_store::Meta;
use serde::Serialize;
use std::collections::BTreeMap;

/// A run, as a report names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunView {
    /// The run's name.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// The engine's name.
    pub engine: String,
    /// The engine's version.
    pub engine_version: String,
    /// Records of it that the filters take.
    pub records: u64,
    /// Why it is incomplete; empty for a complete run.
    pub incomplete: Vec<String>,
}

impl RunView {
    /// The view of a side.
    pub fn of(side: &Side<'_>) -> Self {
        Self {
            name: side.name.into(),
            path: side.path.clone(),
            engine: side.manifest.engine.name.clone(),
            engine_version: side.manifest.engine.version.clone(),
            records: side.records.len() as u64,
            incomplete: side.incomplete.clone(),
        }
    }
}

/// Both runs of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runs {
    /// The left run, the reference.
    pub left: RunView,
    /// The right run.
    pub right: RunView,
}

impl Runs {
    /// The views of both sides.
    pub fn of(left: &Side<'_>, right: &Side<'_>) -> Self {
        Self {
            left: RunView::of(left),
            right: RunView::of(right),
        }
    }
}

/// What people call the two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The left side.
    pub left: String,
    /// The right side.
    pub right: String,
}

impl Labels {
    /// The given names, or the runs' names, told apart where they are the same.
    pub fn new(given: Option<(String, String)>, left: &str, right: &str) -> Self {
        match given {
            Some((left, right)) => Self { left, right },
            None if left == right => Self {
                left: format!("{left} (left)"),
                right: format!("{right} (right)"),
            },
            None => Self {
                left: left.into(),
                right: right.into(),
            },
        }
    }
}

/// One side's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordView {
    /// The engine's name of the tensor.
    pub name: String,
    /// The engine's name of the operation.
    pub op: String,
    /// Order of execution in the run.
    pub op_index: i64,
    /// Forward call.
    pub pass: i32,
    /// Element type.
    pub dtype: &'static str,
    /// Shape, row-major.
    pub shape: Vec<i64>,
    /// BLAKE3 of the original bytes.
    pub blake3: String,
    /// Root mean square of the finite elements.
    pub rms: Option<f64>,
    /// Largest absolute value of the finite elements.
    pub abs_max: Option<f64>,
    /// NaN elements.
    pub nan_count: u64,
    /// Infinite elements.
    pub inf_count: u64,
}

impl RecordView {
    /// The view of a record.
    pub fn of(meta: Meta<'_>) -> Self {
        let stats = meta.stats();
        Self {
            name: meta.name.to_string(),
            op: meta.op.to_string(),
            op_index: meta.op_index,
            pass: meta.pass,
            dtype: meta.dtype.name(),
            shape: meta.shape.to_vec(),
            blake3: meta.blake3(),
            rms: stats.rms,
            abs_max: stats.abs_max,
            nan_count: stats.nan_count,
            inf_count: stats.inf_count,
        }
    }
}

/// A reason, named for programs and told to people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReasonView {
    /// Its name.
    pub kind: &'static str,
    /// The reason in words.
    pub message: String,
}

impl From<&Reason> for ReasonView {
    fn from(reason: &Reason) -> Self {
        Self {
            kind: reason.kind(),
            message: reason.to_string(),
        }
    }
}

/// Something that a reader of the verdict should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Its name.
    pub kind: &'static str,
    /// The note in words.
    pub message: String,
}

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorView {
    /// Its name.
    pub kind: &'static str,
    /// The error in words.
    pub message: String,
}

impl From<&Error> for ErrorView {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// A document that only says that there is no verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorReport {
    /// Always [`Status::Error`].
    pub status: Status,
    /// Why.
    pub error: ErrorView,
}

/// The pair that is furthest apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// Its key.
    #[serde(flatten)]
    pub key: Key,
    /// Relative L2.
    #[serde(serialize_with = "num::json")]
    pub rel_l2: f64,
    /// Largest absolute difference of an element.
    #[serde(serialize_with = "num::json")]
    pub max_abs: f64,
    /// Cosine similarity.
    #[serde(serialize_with = "num::json")]
    pub cosine: f64,
}

impl Worst {
    /// A pair that was measured.
    pub(crate) fn of(comparison: &Comparison<'_>, furthest: Furthest) -> Self {
        let (layer, stage) = &comparison.found.places[furthest.place as usize];
        let key = Key {
            request: furthest.stands.request,
            seq: furthest.stands.seq,
            layer: *layer,
            stage: stage.clone(),
        };
        Self::new(key, furthest.distance)
    }

    /// The worst of these steps, by relative L2; none where no values were measured.
    pub fn among(verdicts: &Verdicts<'_>, steps: impl Iterator<Item = usize>) -> Option<Self> {
        let measured = steps.filter_map(|i| verdicts.outcomes[i].distance.map(|d| (i, d)));
        // NaN never occurs in a finite sum; total_cmp keeps the order total anyway.
        let worst = measured.reduce(|a, b| {
            if b.1.rel_l2.total_cmp(&a.1.rel_l2).is_gt() {
                b
            } else {
                a
            }
        });
        worst.map(|(i, d)| Self::new(verdicts.key(i), d))
    }

    fn new(key: Key, distance: Distance) -> Self {
        Self {
            key,
            rel_l2: distance.rel_l2,
            max_abs: distance.max_abs,
            cosine: distance.cosine,
        }
    }
}

/// Records of one stage that only one run has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingStage {
    /// The stage.
    pub stage: String,
    /// Records that the left run lacks.
    pub left: u64,
    /// Records that the right run lacks.
    pub right: u64,
    /// Those of them whose key both runs have, and one run more often.
    pub extra_visits: u64,
}

/// Records that could not be compared for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IncomparableGroup {
    /// The reason's name.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Key,
    /// The reason of the first.
    pub message: String,
    /// Whether they leave the question of a match open.
    pub leaves_open: bool,
}

/// What both `first` and `compare` tell beside their own findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Common {
    /// `ok`, `diverged` or `error`.
    pub status: Status,
    /// The left run's name.
    pub left: String,
    /// The right run's name.
    pub right: String,
    /// Verdicts, counted.
    pub counts: Counts,
    /// Records that only one run has, by stage in causal order.
    pub missing: Vec<MissingStage>,
    /// Records that could not be compared, by reason.
    pub incomparable: Vec<IncomparableGroup>,
    /// Identical records that hold NaN.
    pub identical_with_nan: u64,
    /// What records were judged by: the floor, or the tolerance where no rule says otherwise.
    pub tolerance: String,
    /// What the floor said, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Judgement>,
    /// What the referee said, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalView>,
    /// What both runs were given.
    pub given: Vec<Given>,
    /// The token ids.
    pub token_ids: crate::ids::TokenIds,
    /// The runs.
    pub runs: Runs,
    /// What a reader should know.
    pub notes: Vec<Note>,
    /// Why there is no verdict, with status `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

impl Common {
    /// The common part of a comparison's reports.
    pub fn of(comparison: &Comparison<'_>) -> Self {
        let status = comparison.status();
        let error = (status == Status::Error).then(|| {
            let open = comparison.open();
            ErrorView {
                kind: "incomparable",
                message: format!(
                    "nothing diverged, but {} could not be compared; pass --allow-incomplete to accept that",
                    num::plural(open, "record")
                ),
            }
        });
        Self {
            status,
            left: comparison.left.name.into(),
            right: comparison.right.name.into(),
            counts: comparison.counts,
            missing: missing(comparison),
            incomparable: comparison.found.incomparable.clone(),
            identical_with_nan: comparison.found.identical_with_nan,
            tolerance: comparison.judged_by(),
            floor: comparison.floor.clone(),
            local: comparison.local.clone(),
            given: given(comparison.left, comparison.right, &comparison.ids),
            token_ids: comparison.ids.clone(),
            runs: Runs::of(comparison.left, comparison.right),
            notes: notes(comparison),
            error,
        }
    }
}

fn missing(comparison: &Comparison<'_>) -> Vec<MissingStage> {
    let found = &comparison.found;
    let mut stages: BTreeMap<(usize, &str), MissingStage> = BTreeMap::new();
    for ((_, stage), of) in found.places.iter().zip(&found.at) {
        let Counts {
            missing_left,
            missing_right,
            ..
        } = of.counts;
        if missing_left + missing_right == 0 {
            continue;
        }
        let rank = comparison.graph.rank(stage).unwrap_or(usize::MAX);
        let entry = stages.entry((rank, stage)).or_insert_with(|| MissingStage {
            stage: stage.to_string(),
            left: 0,
            right: 0,
            extra_visits: 0,
        });
        entry.left += missing_left;
        entry.right += missing_right;
        entry.extra_visits += of.extra_visits;
    }
    stages.into_values().collect()
}

pub(crate) fn notes(comparison: &Comparison<'_>) -> Vec<Note> {
    let mut notes = crate::notes::notes(
        comparison.left,
        comparison.right,
        &comparison.ids,
        &comparison.options.tolerance,
    );
    if let Some(local) = &comparison.local {
        notes.retain(|n| n.kind != "quantised");
        notes.extend(local.notes());
    }
    if let Some((floor, _)) = &comparison.options.floor {
        notes.retain(|n| n.kind != "quantised");
        notes.extend(floor.notes(&[comparison.left, comparison.right]));
    }
    if comparison.status() == Status::Diverged {
        notes.extend(crate::notes::observation(comparison.left, comparison.right));
    }
    if let Some(hashes) = comparison.verified {
        notes.push(Note {
            kind: "verified",
            message: format!("{} verified by their blake3", num::plural(hashes, "record")),
        });
    }
    let with_nan = comparison.found.within_with_nan;
    if with_nan > 0 {
        notes.push(Note {
            kind: "nan",
            message: format!(
                "{} within the tolerance, NaN at the same places aside",
                num::plural(with_nan, "record")
            ),
        });
    }
    notes
}
