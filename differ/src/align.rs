//! Proposes which tensor of one run is which of another, by their values alone.
//!
//! Names are ignored: a tensor is what a run recorded under one name, over the positions that both runs have. Each
//! is described by the number of its elements, its norm and its quantiles, which no order of the elements changes; the
//! few that are described most alike are compared in value, as they lie, then in known layouts
//! ([`Convention`]), then under a permutation of columns. A pair is accepted if each is the other's best, nearer
//! than [`FARTHEST`], and what comes next, in either run, is well behind ([`CLEAR`]). Otherwise there is none: the
//! order of execution decides nothing, except among tensors of one run that hold the same values (keys and the
//! cache that keeps them), where any choice compares the same.

mod classes;
mod describe;
mod layouts;
mod measure;
mod pairs;
mod propose;
mod tensors;
#[cfg(test)]
mod tests;

pub use pairs::{CLEAR, FARTHEST};
pub use tensors::TensorName;

use crate::{
    Error,
    compare::{Options, describe, gate},
    mapping::{Convention, ConventionName, Which},
    num,
    records::Side,
    report::{Labels, Note, Runs},
};
use bitnet_trace_schema::StageGraph;
use classes::{Class, classes};
use measure::{End, Ends};
use pairs::{Alone, Found};
use propose::Proposed;
use serde::Serialize;
use std::{collections::BTreeMap, thread};
use tensors::{Tensors, positions};

/// Most common positions that are looked at: the first ones.
const MOST_POSITIONS: usize = 64;

/// What came of an alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlignStatus {
    /// Every tensor of the right run has its counterpart.
    Ok,
    /// Some have none.
    Partial,
}

/// Which tensor of one run is which of the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlignReport {
    /// `ok` or `partial`.
    pub status: AlignStatus,
    /// The left run's name.
    pub left: String,
    /// The right run's name.
    pub right: String,
    /// Common positions that were looked at.
    pub positions: u64,
    /// Tensors of the left run.
    pub tensors_left: u64,
    /// Tensors of the right run.
    pub tensors_right: u64,
    /// Pairs that were found.
    pub matched: u64,
    /// The pairs, as the left run executed.
    pub pairs: Vec<PairView>,
    /// The tensors without a counterpart.
    pub alone: Vec<AloneView>,
    /// Where the mapping was written.
    pub mapping: Option<String>,
    /// The runs.
    pub runs: Runs,
    /// What a reader should know.
    pub notes: Vec<Note>,
}

/// Two tensors that are the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairView {
    /// Under which stage the mapping compares them.
    pub stage: String,
    /// In which layer.
    pub layer: i32,
    /// The left tensor.
    pub left: TensorName,
    /// The right tensor.
    pub right: TensorName,
    /// Median over the positions of `|b - a| / max(|a|, |b|)`.
    #[serde(serialize_with = "num::json")]
    pub distance: f64,
    /// The distance of the next best candidate; infinite without one.
    #[serde(serialize_with = "num::json")]
    pub next: f64,
    /// The layout in which the right tensor is read; null where it lies as the left one.
    pub layout: Option<ConventionName>,
    /// Its number of heads.
    pub heads: Option<usize>,
}

/// A tensor without a counterpart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AloneView {
    /// Its run.
    pub run: Which,
    /// The tensor.
    pub tensor: TensorName,
    /// The reason's name.
    pub kind: &'static str,
    /// The reason in words.
    pub message: String,
}

/// An alignment, and the mapping file that says the same.
#[derive(Debug)]
pub struct Alignment {
    /// What was found.
    pub report: AlignReport,
    /// The text of the mapping file.
    pub mapping: String,
}

/// Aligns two runs by their values. `progress` is called now and then with the steps done and those known so far.
///
/// # Errors
/// [`Error`] where there can be no alignment: incomplete runs, different prompts, no position in common, no values.
pub fn align(
    left: &Side<'_>,
    right: &Side<'_>,
    graph: &StageGraph,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Alignment, Error> {
    let ids = gate(left, right, options)?;
    let same_tokens = |at: &(i32, i64)| ids.differs_from(at.0).is_none_or(|from| at.1 < from);
    let of_right = positions(right.records);
    let common = positions(left.records).into_iter();
    let common: Vec<_> = common
        .filter(|at| of_right.contains(at) && same_tokens(at))
        .take(MOST_POSITIONS)
        .collect();
    let names = Labels::new(None, left.name, right.name);
    if common.is_empty() {
        return Err(Error::NothingInCommon {
            left: names.left,
            right: names.right,
            left_has: describe(left.records),
            right_has: describe(right.records),
        });
    }
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 {
        cores()
    } else {
        options.threads
    };
    let (l, r) = (
        Tensors::of(left.records, &common),
        Tensors::of(right.records, &common),
    );
    let ends = Ends::new(l, r, threads, progress)?;
    for (tensors, run) in [(&ends.left, &names.left), (&ends.right, &names.right)] {
        if tensors.all.iter().all(|t| t.counts.iter().all(|&n| n == 0)) {
            return Err(Error::NoValues { run: run.clone() });
        }
    }
    let (l, r) = (classes(&ends, End::Left)?, classes(&ends, End::Right)?);
    let found = pairs::pair(&ends, &l, &r)?;
    report(&ends, (left, right), graph, (&l, &r), &found, common.len() as u64)
}

fn report(
    ends: &Ends<'_>,
    sides: (&Side<'_>, &Side<'_>),
    graph: &StageGraph,
    (l, r): (&[Class], &[Class]),
    found: &Found,
    positions: u64,
) -> Result<Alignment, Error> {
    let mut members: Vec<(usize, usize, &pairs::Pair)> = Vec::new();
    let mut alone = Vec::new();
    for pair in &found.pairs {
        let (a, b) = (&l[pair.left].members, &r[pair.right].members);
        if a.len() == b.len() {
            members.extend(a.iter().zip(b).map(|(&a, &b)| (a, b, pair)));
            continue;
        }
        for (run, tensors, own, other, of_other) in [
            (Which::Left, &ends.left, a, b, &ends.right),
            (Which::Right, &ends.right, b, a, &ends.left),
        ] {
            let others: Vec<String> = other.iter().map(|&t| of_other.all[t].name.to_string()).collect();
            for &tensor in own {
                alone.push(AloneView {
                    run,
                    tensor: tensors.all[tensor].name.clone(),
                    kind: "same_values",
                    message: format!(
                        "{} of its run hold these values, and {} of the other: {}",
                        own.len(),
                        other.len(),
                        others.join(", ")
                    ),
                });
            }
        }
    }
    members.sort_by_key(|&(a, _, _)| a);
    let proposed: Vec<Proposed<'_>> = members
        .iter()
        .map(|&(a, b, pair)| Proposed {
            left: &ends.left.all[a],
            right: &ends.right.all[b],
            convention: pair.convention.as_ref(),
        })
        .collect();
    let targets = propose::targets(&proposed, &ends.left.all, &ends.right.all, graph);
    let mapping = propose::toml(&proposed, &targets, &ends.left.all, &ends.right.all, graph)?;
    let mut views = Vec::with_capacity(members.len());
    for (((a, b, pair), p), (stage, layer)) in members.iter().zip(&proposed).zip(&targets) {
        views.push(PairView {
            stage: stage.clone(),
            layer: *layer,
            left: p.left.name.clone(),
            right: p.right.name.clone(),
            distance: ends.distance(*a, *b, p.convention)?,
            next: pair.next,
            layout: p.convention.map(Convention::name),
            heads: p.convention.and_then(Convention::heads),
        });
    }
    alone.extend(alone_views(
        Which::Left,
        &ends.left,
        l,
        &found.left,
        (&ends.right, r),
    ));
    alone.extend(alone_views(
        Which::Right,
        &ends.right,
        r,
        &found.right,
        (&ends.left, l),
    ));
    alone.sort_by_key(|a| a.run);
    let right_alone = alone.iter().any(|a| a.run == Which::Right);
    let report = AlignReport {
        status: if right_alone {
            AlignStatus::Partial
        } else {
            AlignStatus::Ok
        },
        left: sides.0.name.into(),
        right: sides.1.name.into(),
        positions,
        tensors_left: ends.left.all.len() as u64,
        tensors_right: ends.right.all.len() as u64,
        matched: views.len() as u64,
        pairs: views,
        alone,
        mapping: None,
        runs: Runs::of(sides.0, sides.1),
        notes: Vec::new(),
    };
    let mapping = format!("{}\n{mapping}", header(&report));
    Ok(Alignment { report, mapping })
}

fn alone_views(
    run: Which,
    tensors: &Tensors<'_>,
    classes: &[Class],
    alone: &BTreeMap<usize, Alone>,
    (others, of_other): (&Tensors<'_>, &[Class]),
) -> Vec<AloneView> {
    let name = |class: usize| others.all[of_other[class].first()].name.to_string();
    let mut views = Vec::new();
    for (&class, why) in alone {
        let (kind, message) = match *why {
            Alone::Far => ("far", "nothing in the other run is near".to_owned()),
            Alone::TellsNothing => (
                "tells_nothing",
                "too few or too uniform values to know it by".to_owned(),
            ),
            Alone::Taken { best } => (
                "taken",
                format!("its nearest, {}, is nearer to another", name(best)),
            ),
            Alone::Unclear { best, distance, next } => (
                "unclear",
                format!(
                    "{} is {} away, and the next best {}",
                    name(best),
                    num::sci(distance),
                    num::sci(next)
                ),
            ),
        };
        for &tensor in &classes[class].members {
            views.push(AloneView {
                run,
                tensor: tensors.all[tensor].name.clone(),
                kind,
                message: message.clone(),
            });
        }
    }
    views
}

/// The comment at the head of a mapping file.
fn header(report: &AlignReport) -> String {
    let quoted = |text: &str| text.escape_debug().to_string();
    format!(
        "# How the tensors of {} (right) are those of {} (left), by their values over {}:\n\
         # {} of {} tensors. Written by `bitnet-diff align`; use it with --mapping.",
        quoted(&report.right),
        quoted(&report.left),
        num::plural(report.positions, "position"),
        report.matched,
        report.tensors_right,
    )
}
