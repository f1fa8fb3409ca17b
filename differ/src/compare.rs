//! Carries out a plan: a verdict on every pair, and what they come to.

use crate::{
    Error,
    floor::{Floor, Judgement},
    ids::TokenIds,
    judge::{Reason, Verdict},
    local::LocalView,
    metrics::Metrics,
    plan::Steps,
    records::{Records, Side},
    report::Labels,
    tolerance::{Applied, Tolerance},
};
use bitnet_trace_schema::StageGraph;
use bitnet_trace_store::Meta;
use fold::{Fold, Told};
use pair::Judge;
use serde::Serialize;
use std::{collections::BTreeSet, sync::atomic::AtomicU64};
use work::Take;

pub(crate) mod fold;
mod glance;
mod pair;
#[cfg(test)]
mod tests;
mod verdicts;
mod work;

pub(crate) use fold::Found;
pub(crate) use pair::damaged;
pub use verdicts::{Verdicts, verdicts};

/// How to compare.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What counts as a match.
    pub tolerance: Tolerance,
    /// A measured floor, by which records are judged in place of the tolerance, and its file's name.
    pub floor: Option<(Floor, String)>,
    /// Whether NaN at the same places on both sides is a match.
    pub nan_equal: bool,
    /// Whether an incomplete run, or records that cannot be compared, are accepted.
    pub allow_incomplete: bool,
    /// Token ids of this request only are compared.
    pub request: Option<i32>,
    /// Token ids up to this position are compared.
    pub last_seq: Option<i64>,
    /// How far to compare.
    pub until: Until,
    /// Whether the hash of each record that is compared is computed again.
    pub verify: bool,
    /// Threads; 0 takes one for each core.
    pub threads: usize,
}

impl Options {
    /// How far to compare: a floor needs the medians over all positions.
    pub fn until(&self) -> Until {
        if self.floor.is_some() {
            Until::End
        } else {
            self.until
        }
    }
}

/// How far a comparison goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// To the end of both runs.
    #[default]
    End,
    /// To the end of the first position, in causal order, at which a record diverges.
    Divergence,
}

/// Where a comparison ended before the runs did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// Request of the last position that was compared.
    pub request: i32,
    /// The last position that was compared.
    pub seq: i64,
    /// Records after it, of the run that has more of them.
    pub not_compared: u64,
}

/// Verdicts, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Same bytes.
    pub identical: u64,
    /// Within the tolerance.
    pub within: u64,
    /// Beyond it.
    pub diverged: u64,
    /// There, and could not be compared.
    pub incomparable: u64,
    /// The left run lacks the record.
    pub missing_left: u64,
    /// The right run lacks the record.
    pub missing_right: u64,
}

impl Counts {
    /// Counts one verdict.
    pub fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Identical => &mut self.identical,
            Verdict::Within => &mut self.within,
            Verdict::Diverged => &mut self.diverged,
            Verdict::Incomparable => &mut self.incomparable,
            Verdict::MissingLeft => &mut self.missing_left,
            Verdict::MissingRight => &mut self.missing_right,
        } += 1;
    }

    /// Counts what another counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.identical += other.identical;
        self.within += other.within;
        self.diverged += other.diverged;
        self.incomparable += other.incomparable;
        self.missing_left += other.missing_left;
        self.missing_right += other.missing_right;
    }

    /// Pairs of records.
    pub(crate) fn pairs(&self) -> u64 {
        self.compared() + self.incomparable
    }

    /// Pairs whose values or hashes were held against each other.
    pub fn compared(&self) -> u64 {
        self.identical + self.within + self.diverged
    }
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything that could be compared matches, and something was.
    Ok,
    /// Something diverged.
    Diverged,
    /// There is no verdict.
    Error,
}

/// The rule of [`Verdicts::judge_locally`], in words.
const LOCAL: &str = "the exact result of its own recorded inputs";

/// What the comparison of two runs came to: as much for long runs as for short ones.
pub struct Comparison<'a> {
    /// The left run, the reference.
    pub left: &'a Side<'a>,
    /// The right run.
    pub right: &'a Side<'a>,
    /// The vocabulary.
    pub graph: &'a StageGraph,
    /// How it was compared.
    pub options: &'a Options,
    /// What the floor said, where one was given.
    pub floor: Option<Judgement>,
    /// What the referee said, where it was asked.
    pub local: Option<LocalView>,
    /// The token ids.
    pub ids: TokenIds,
    /// The verdicts, counted.
    pub counts: Counts,
    /// Records whose hash was computed again and found to be that of their elements; none where that was not asked for.
    pub verified: Option<u64>,
    /// Where it ended, if that is not the end of the runs.
    pub stopped: Option<Stopped>,
    pub(crate) found: Found,
}

/// Compares two runs. `progress` is called now and then with the pairs done and all pairs.
///
/// A floor looks at all pairs ([`verdicts()`]); without one, memory does not grow with the runs.
///
/// # Errors
/// [`Error`], one variant for each reason why there can be no verdict.
pub fn compare<'a>(
    left: &'a Side<'a>,
    right: &'a Side<'a>,
    graph: &'a StageGraph,
    options: &'a Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Comparison<'a>, Error> {
    if options.floor.is_some() {
        return Ok(verdicts(left, right, graph, options, progress)?.comparison());
    }
    let (ids, fold, verified, stopped) = take_all(left, right, graph, options, progress, |_| {
        Fold::new(left, right, graph)
    })?;
    let found = fold.finish();
    check(left, right, &ids, &found)?;
    Ok(Comparison {
        left,
        right,
        graph,
        options,
        floor: None,
        local: None,
        ids,
        counts: found.counts,
        verified,
        stopped,
        found,
    })
}

/// What was taken, the token ids, how many hashes were computed again, and where it ended.
type Taken<T> = (TokenIds, T, Option<u64>, Option<Stopped>);

/// Has every pair judged, and the verdicts taken by what `taker` makes of the number of pairs to expect.
fn take_all<T: Take>(
    left: &Side<'_>,
    right: &Side<'_>,
    graph: &StageGraph,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
    taker: impl FnOnce(usize) -> T,
) -> Result<Taken<T>, Error> {
    let ids = gate(left, right, options)?;
    let judge = Judge {
        left,
        right,
        ids: &ids,
        options,
        hashes: AtomicU64::new(0),
    };
    let ahead = Steps::new(left.records, right.records, graph);
    let most = ahead.left();
    let taker = taker(most);
    let (taken, stopped) = work::judge(&judge, ahead, taker, &|done| progress(done, most.max(done)))?;
    let hashes = judge.hashes.into_inner();
    Ok((ids, taken, options.verify.then_some(hashes), stopped))
}

/// Refuses what is no comparison.
fn check(left: &Side<'_>, right: &Side<'_>, ids: &TokenIds, found: &Found) -> Result<(), Error> {
    if found.counts.pairs() == 0 {
        let names = Labels::new(None, left.name, right.name);
        return Err(Error::NothingInCommon {
            left: names.left,
            right: names.right,
            left_has: describe(left.records),
            right_has: describe(right.records),
        });
    }
    if found.counts.compared() > 0 || !ids.differences.is_empty() {
        return Ok(());
    }
    let first = found.incomparable.first();
    let key = first.map(|group| &group.first).or(found.key.as_ref());
    key.map_or(Ok(()), |key| {
        Err(Error::NothingCompared {
            pairs: found.counts.incomparable,
            key: key.clone(),
            reason: first.map(|group| group.message.clone()).unwrap_or_default(),
        })
    })
}

/// What is checked before any tensor: that the runs are whole, and of the same prompt.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::TokenIds`].
pub fn gate(left: &Side<'_>, right: &Side<'_>, options: &Options) -> Result<TokenIds, Error> {
    let names = Labels::new(None, left.name, right.name);
    for (side, name) in [(left, &names.left), (right, &names.right)] {
        if !options.allow_incomplete && !side.incomplete.is_empty() {
            return Err(Error::Incomplete {
                run: name.clone(),
                reasons: side.incomplete.clone(),
            });
        }
    }
    let ids = TokenIds::of(left.manifest, right.manifest, options.request, options.last_seq);
    match ids.in_prompt() {
        None => Ok(ids),
        Some(difference) => Err(Error::TokenIds {
            left: names.left,
            right: names.right,
            difference: Box::new(difference.clone()),
        }),
    }
}

impl Comparison<'_> {
    /// What it came to.
    pub fn status(&self) -> Status {
        if self.counts.diverged > 0 || !self.ids.differences.is_empty() {
            Status::Diverged
        } else if self.open() > 0 && !self.options.allow_incomplete {
            Status::Error
        } else {
            Status::Ok
        }
    }

    /// Records that could not be compared and leave the question of a match open.
    pub fn open(&self) -> u64 {
        let groups = self.found.incomparable.iter().filter(|g| g.leaves_open);
        groups.map(|g| g.count).sum()
    }

    /// All measures of a pair whose values were read; none where they cannot be read any more.
    pub(crate) fn metrics(&self, told: &Told) -> Option<Metrics> {
        let judge = Judge {
            left: self.left,
            right: self.right,
            ids: &self.ids,
            options: self.options,
            hashes: AtomicU64::new(0),
        };
        told.outcome.distance?;
        let (l, r) = (told.step.left()?, told.step.right()?);
        let outcome = judge.by_elements((l, r), judge.located((l, r)), true);
        outcome.ok()?.metrics.map(|metrics| *metrics)
    }

    /// What a pair was judged by.
    pub(crate) fn tolerance(&self, told: &Told) -> Option<Applied> {
        let a = self.left.records.meta(told.step.left()?);
        let b = self.right.records.meta(told.step.right()?);
        if let Some(Reason::Local(_)) = told.outcome.reason.as_deref() {
            return Some(Applied::referee());
        }
        if let Some(floor) = self.floor.as_ref().filter(|_| !told.clean) {
            return Some(Applied::floor(&floor.file, &floor.text()));
        }
        let tolerance = &self.options.tolerance;
        Some(tolerance.applied(a.stage, a.layer, [a.dtype, b.dtype]))
    }

    /// What records are judged by, in words.
    pub fn judged_by(&self) -> String {
        let tolerance = self.options.tolerance.to_string();
        let propagated = match &self.floor {
            None => tolerance,
            Some(floor) if floor.without_floor == 0 => floor.text(),
            Some(floor) => format!(
                "{}; {} without one by {tolerance}",
                floor.text(),
                crate::num::plural(floor.without_floor, "record")
            ),
        };
        match &self.local {
            None => propagated,
            Some(local) if local.untold == 0 => LOCAL.to_owned(),
            Some(local) => format!(
                "{LOCAL}; {} that cannot be told by {propagated}",
                crate::num::plural(local.untold, "record")
            ),
        }
    }
}

/// What records there are, in a few words.
pub fn describe(records: &dyn Records) -> String {
    if records.is_empty() {
        return "no record".into();
    }
    let metas = || (0..records.len()).map(|row| records.meta(row));
    let range = |of: &dyn Fn(Meta<'_>) -> i64| {
        let (low, high) = metas()
            .map(of)
            .fold((i64::MAX, i64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        if low == high {
            low.to_string()
        } else {
            format!("{low} to {high}")
        }
    };
    let stages: BTreeSet<&str> = metas().map(|m| m.stage.as_str()).collect();
    let mut shown: Vec<&str> = stages.iter().copied().take(6).collect();
    if stages.len() > shown.len() {
        shown.push("…");
    }
    let request = match range(&|m| m.request.into()) {
        request if request == "0" => String::new(),
        request => format!("request {request}, "),
    };
    format!(
        "{request}seq {}, layer {}, stages {}",
        range(&|m| m.seq),
        range(&|m| m.layer.into()),
        shown.join(" ")
    )
}
