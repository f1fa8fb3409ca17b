//! What the referee says of one run or two.

use super::{Audit, Indexed, Measured, StageAudit};
use crate::{
    compare::Status,
    num,
    plan::Key,
    report::{ErrorView, Note, RunView},
};
use bitnet_referee::{Recorded, Referee};
use serde::Serialize;
use std::collections::BTreeMap;

/// Which side is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Neither: what could be told is the exact result, but for rounding.
    Clean,
    /// The left run, or the only one.
    Left,
    /// The right run.
    Right,
    /// Both runs.
    Both,
    /// Neither, and yet they are apart: the difference came with the inputs.
    Inherited,
    /// Nothing could be told.
    Unknown,
}

/// The report of `judge`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeReport {
    /// `ok`, `diverged` (something is off) or `error`.
    pub status: Status,
    /// Which side is off.
    pub verdict: Who,
    /// The first record, in causal order, that is off.
    pub origin: Option<Finding>,
    /// Every stage that is off, in causal order of its first such record.
    pub findings: Vec<Finding>,
    /// Every stage that was judged, in the model's order.
    pub stages: Vec<StageView>,
    /// The model file.
    pub model: ModelView,
    /// The runs: one or two.
    pub runs: Vec<JudgedRun>,
    /// Records that could be told.
    pub told: u64,
    /// Records that could not be, by run, stage and reason.
    pub refused: Vec<RefusedView>,
    /// What a reader should know.
    pub notes: Vec<Note>,
    /// Why there is no verdict, with status `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

/// A run and how its engine computes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedRun {
    /// The run.
    pub run: RunView,
    /// What happens to activations before products with weights of a dtype, as found by trying.
    pub rounding: BTreeMap<String, RoundingView>,
    /// The same of queries and probabilities before products with the cache.
    pub attention: String,
    /// Element type of the KV cache.
    pub kv_type: String,
}

/// How activations are rounded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundingView {
    /// In words.
    pub how: String,
    /// Median relative L2 from the exact result of those products that it was tried on.
    #[serde(serialize_with = "num::json")]
    pub rel_l2: f64,
    /// Whether that explains the engine's results. Where not, ten times of it is expected.
    pub known: bool,
}

/// The model file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelView {
    /// Where it is.
    pub path: String,
    /// `general.architecture`.
    pub arch: String,
}

/// A stage of one run that is off.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The run.
    pub run: String,
    /// Which side it is: `left` or `right`.
    pub side: Who,
    /// The first of its records that are off.
    pub first: Key,
    /// That one's relative L2 from the exact result.
    #[serde(serialize_with = "num::json")]
    pub rel_l2: f64,
    /// The largest that is expected of rounding.
    pub expected: f64,
    /// The factor on the exact result, where that record is that and nothing else.
    #[serde(serialize_with = "num::json_option")]
    pub scale: Option<f64>,
    /// Layers with records that are off.
    pub layers: Vec<i32>,
    /// Positions from the first to the last with records that are off.
    pub seq: [i64; 2],
    /// Records that are off.
    pub off: u64,
    /// Records of this stage that could be told.
    pub told: u64,
    /// The worst of them.
    pub worst: Key,
    /// That one's relative L2.
    #[serde(serialize_with = "num::json")]
    pub worst_rel_l2: f64,
}

/// A stage over all layers and positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageView {
    /// The stage.
    pub stage: String,
    /// The largest relative L2 that is expected of rounding.
    pub expected: f64,
    /// The left run, or the only one.
    pub left: Option<SideView>,
    /// The right run.
    pub right: Option<SideView>,
    /// Median relative L2 of the right run from the left one.
    #[serde(serialize_with = "num::json_option")]
    pub apart: Option<f64>,
    /// Which side is off.
    pub verdict: Who,
}

/// One run's records of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SideView {
    /// Records that could be told.
    pub told: u64,
    /// Those that are off.
    pub off: u64,
    /// Median relative L2 from the exact result.
    #[serde(serialize_with = "num::json")]
    pub median: f64,
    /// The largest.
    #[serde(serialize_with = "num::json")]
    pub worst: f64,
    /// The largest in units of what is expected of rounding.
    #[serde(serialize_with = "num::json")]
    pub units: f64,
}

/// Records that could not be told, for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RefusedView {
    /// The run.
    pub run: String,
    /// The stage.
    pub stage: String,
    /// The reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

impl JudgeReport {
    /// The report of one audit or two, of the left run first.
    pub fn of(referee: &Referee, model: String, audits: &[(&Indexed<'_>, &Audit)]) -> Self {
        let sides = [Who::Left, Who::Right];
        let mut findings = Vec::new();
        let mut refused = Vec::new();
        let mut notes = Vec::new();
        for ((run, audit), side) in audits.iter().zip(sides) {
            let name = run.side.name;
            findings.extend(of_run(audit, name, side));
            refused.extend(refusals(audit, name));
            if let [many @ .., last] = &audit.unknown.keys().map(String::as_str).collect::<Vec<_>>()[..] {
                let stages = match many {
                    [] => (*last).to_owned(),
                    many => format!("{} and {last}", many.join(", ")),
                };
                let message =
                    format!("{name} recorded {stages}, of which the referee has no formula in this model");
                notes.push(Note {
                    kind: "no_formula",
                    message,
                });
            }
        }
        let order = |audit: &Audit, key: &Key| position(audit, key);
        findings.sort_by_key(|(finding, _): &(Finding, usize)| {
            let (_, audit) = audits[usize::from(finding.side == Who::Right)];
            (
                finding.first.request,
                finding.first.seq,
                order(audit, &finding.first),
                finding.side == Who::Right,
            )
        });
        let findings: Vec<Finding> = findings.into_iter().map(|(finding, _)| finding).collect();
        let stages = stage_views(audits);
        let told = stages.iter().flat_map(|s| [s.left, s.right]).flatten();
        let told = told.map(|side| side.told).sum();
        let off = |side| findings.iter().any(|f| f.side == side);
        let verdict = match (off(Who::Left), off(Who::Right)) {
            (true, true) => Who::Both,
            (true, false) => Who::Left,
            (false, true) => Who::Right,
            _ if told == 0 => Who::Unknown,
            _ if stages.iter().any(|s| s.verdict == Who::Inherited) => Who::Inherited,
            _ => Who::Clean,
        };
        let status = match verdict {
            Who::Unknown => Status::Error,
            Who::Clean | Who::Inherited => Status::Ok,
            _ => Status::Diverged,
        };
        let error = (status == Status::Error).then(|| ErrorView {
            kind: "nothing_told",
            message: nothing_told(&refused),
        });
        Self {
            status,
            verdict,
            origin: findings.first().cloned(),
            findings,
            stages,
            model: ModelView {
                path: model,
                arch: referee.spec().arch.to_owned(),
            },
            runs: audits.iter().map(|(run, audit)| judged(run, audit)).collect(),
            told,
            refused,
            notes,
            error,
        }
    }
}

fn nothing_told(refused: &[RefusedView]) -> String {
    match refused.first() {
        Some(first) => format!(
            "not one record could be recomputed; {} of {}, because {}",
            first.stage, first.run, first.reason
        ),
        None => "not one record could be recomputed: no recorded stage is one of this model's".to_owned(),
    }
}

/// Where a stage stands in the model's order.
fn position(audit: &Audit, key: &Key) -> usize {
    let same = |s: &StageAudit| s.stage == key.stage.as_str() && s.layer == key.layer;
    audit.stages.iter().position(same).unwrap_or(usize::MAX)
}

fn of_run(audit: &Audit, run: &str, side: Who) -> Vec<(Finding, usize)> {
    let mut findings: Vec<(Finding, usize)> = Vec::new();
    for (at, stage) in audit.stages.iter().enumerate() {
        let Some(first) = stage.off().min_by_key(|m| m.token) else {
            continue;
        };
        let mut worst = first;
        let (mut from, mut to, mut off) = (i64::MAX, i64::MIN, 0);
        for record in stage.off() {
            off += 1;
            from = from.min(record.token.seq);
            to = to.max(record.token.seq);
            if record.rel_l2 > worst.rel_l2 {
                worst = record;
            }
        }
        let told = stage.records.len() as u64;
        let known = findings.iter_mut().find(|(f, _)| f.first.stage == stage.stage);
        if let Some((finding, first_at)) = known {
            finding.layers.push(stage.layer);
            finding.seq = [finding.seq[0].min(from), finding.seq[1].max(to)];
            finding.off += off;
            finding.told += told;
            if worst.rel_l2 > finding.worst_rel_l2 {
                finding.worst = stage.key(worst.token);
                finding.worst_rel_l2 = worst.rel_l2;
            }
            let earlier = (first.token.request, first.token.seq, at)
                < (finding.first.request, finding.first.seq, *first_at);
            if earlier {
                set_first(finding, stage, first);
                *first_at = at;
            }
            continue;
        }
        let mut finding = Finding {
            run: run.to_owned(),
            side,
            first: stage.key(first.token),
            rel_l2: 0.0,
            expected: 0.0,
            scale: None,
            layers: vec![stage.layer],
            seq: [from, to],
            off,
            told,
            worst: stage.key(worst.token),
            worst_rel_l2: worst.rel_l2,
        };
        set_first(&mut finding, stage, first);
        findings.push((finding, at));
    }
    findings
}

fn set_first(finding: &mut Finding, stage: &StageAudit, first: &Measured) {
    finding.first = stage.key(first.token);
    finding.rel_l2 = first.rel_l2;
    finding.expected = first.expected();
    finding.scale = first.scale;
}

fn refusals(audit: &Audit, run: &str) -> Vec<RefusedView> {
    let mut all: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for stage in &audit.stages {
        for (reason, count) in &stage.refused {
            *all.entry((stage.stage, reason.to_string())).or_default() += count;
        }
    }
    let view = |((stage, reason), count): ((&str, String), u64)| RefusedView {
        run: run.to_owned(),
        stage: stage.to_owned(),
        reason,
        count,
    };
    all.into_iter().map(view).collect()
}

fn judged(run: &Indexed<'_>, audit: &Audit) -> JudgedRun {
    let products = audit.arithmetic.products.iter();
    JudgedRun {
        run: RunView::of(run.side),
        rounding: products
            .map(|(dtype, tried)| {
                let view = RoundingView {
                    how: tried.rounding.to_string(),
                    rel_l2: tried.rel_l2,
                    known: tried.is_known(),
                };
                (dtype.name().to_owned(), view)
            })
            .collect(),
        attention: audit.arithmetic.attention.rounding.to_string(),
        kv_type: audit.arithmetic.cache.name().to_owned(),
    }
}

fn stage_views(audits: &[(&Indexed<'_>, &Audit)]) -> Vec<StageView> {
    let mut order: Vec<&str> = Vec::new();
    for (_, audit) in audits {
        for stage in &audit.stages {
            if !order.contains(&stage.stage) {
                order.push(stage.stage);
            }
        }
    }
    let of = |side: usize, stage: &str| -> Option<(SideView, f64)> {
        let (_, audit) = audits.get(side)?;
        let stages = audit.stages.iter().filter(|s| s.stage == stage);
        let mut all: Vec<&Measured> = Vec::new();
        let mut expected = 0.0f64;
        for stage in stages {
            all.extend(&stage.records);
            expected = expected.max(stage.expected);
        }
        all.sort_by(|a, b| a.rel_l2.total_cmp(&b.rel_l2));
        let units = all.iter().map(|m| m.units).fold(0.0, f64::max);
        let view = SideView {
            told: all.len() as u64,
            off: all.iter().filter(|m| m.is_off()).count() as u64,
            median: all.get(all.len() / 2)?.rel_l2,
            worst: all.last()?.rel_l2,
            units,
        };
        Some((view, expected))
    };
    let view = |stage: &str| {
        let (left, right) = (of(0, stage), of(1, stage));
        let expected = left.iter().chain(&right).map(|(_, e)| *e).fold(0.0, f64::max);
        let (left, right) = (left.map(|l| l.0), right.map(|r| r.0));
        let apart = match audits {
            [left, right] => apart(left.0, right, stage),
            _ => None,
        };
        let off = |side: Option<SideView>| side.is_some_and(|s| s.off > 0);
        let verdict = match (off(left), off(right)) {
            (true, true) => Who::Both,
            (true, false) => Who::Left,
            (false, true) => Who::Right,
            _ if left.is_none() && right.is_none() => Who::Unknown,
            _ if apart.is_some_and(|apart| apart > 2.0 * expected) => Who::Inherited,
            _ => Who::Clean,
        };
        StageView {
            stage: stage.to_owned(),
            expected,
            left,
            right,
            apart,
            verdict,
        }
    };
    order.into_iter().map(view).collect()
}

/// The median relative L2 of the right run's records of a stage from the left one's.
fn apart(left: &Indexed<'_>, right: &(&Indexed<'_>, &Audit), stage: &str) -> Option<f64> {
    let (right, audit) = right;
    let mut all = Vec::new();
    for stage in audit.stages.iter().filter(|s| s.stage == stage) {
        let own = |name: &str, layer: i32| (name, layer) == (stage.stage, stage.layer);
        for record in &stage.records {
            let rows = (
                left.row(stage.stage, stage.layer, record.token),
                right.row(stage.stage, stage.layer, record.token),
            );
            let (Some(a), Some(b)) = rows else { continue };
            if a.len() != b.len() {
                continue;
            }
            let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f64 = a.iter().map(|a| a * a).sum();
            if apart == 0.0 {
                all.push(0.0);
            } else if size > 0.0 {
                all.push((apart / size).sqrt());
            }
        }
        left.release(own);
        right.release(own);
    }
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}
