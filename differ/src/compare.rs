//! Carries out a plan: a verdict on every pair.

use crate::{
    Error,
    floor::{Floor, Judgement},
    ids::TokenIds,
    judge::{Outcome, Reason, Verdict, WrongCount, by_elements, by_metadata, by_values, within_at_once},
    local::LocalView,
    metrics::Metrics,
    plan::{AlignPlan, Key, Step, Steps},
    records::{Records, Side},
    report::Labels,
    shape::Layout,
    tolerance::{Applied, Gates, Tolerance},
};
use bitnet_trace_schema::StageGraph;
use bitnet_trace_store::Meta;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

mod work;

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

/// The rule of [`Comparison::judge_locally`], in words.
const LOCAL: &str = "the exact result of its own recorded inputs";

/// Two runs, compared.
pub struct Comparison<'a> {
    /// The left run, the reference.
    pub left: &'a Side<'a>,
    /// The right run.
    pub right: &'a Side<'a>,
    /// The vocabulary.
    pub graph: &'a StageGraph,
    /// How it was compared.
    pub options: &'a Options,
    /// What with what, in causal order, as far as it was compared.
    pub plan: AlignPlan,
    /// One outcome for each step of the plan.
    pub outcomes: Vec<Outcome>,
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
}

/// Compares two runs. `progress` is called now and then with the pairs done and all pairs.
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
    let (steps, mut outcomes, stopped) = work::judge(&judge, ahead, &|done| progress(done, most.max(done)))?;
    let plan = AlignPlan { steps };
    let hashes = judge.hashes.into_inner();
    if !plan
        .steps
        .iter()
        .any(|s| s.left().is_some() && s.right().is_some())
    {
        let names = Labels::new(None, left.name, right.name);
        return Err(Error::NothingInCommon {
            left: names.left,
            right: names.right,
            left_has: describe(left.records),
            right_has: describe(right.records),
        });
    }
    let mut counts = Counts::default();
    outcomes.iter().for_each(|o| counts.add(o.verdict));
    if counts.compared() == 0 && ids.differences.is_empty() {
        return Err(nothing_compared(&plan, &outcomes));
    }
    let floor = options
        .floor
        .as_ref()
        .map(|(floor, file)| Judgement::of(floor, file, &plan, graph, &mut outcomes, &mut counts));
    Ok(Comparison {
        left,
        right,
        graph,
        options,
        plan,
        outcomes,
        floor,
        local: None,
        ids,
        counts,
        verified: options.verify.then_some(hashes),
        stopped,
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

fn nothing_compared(plan: &AlignPlan, outcomes: &[Outcome]) -> Error {
    let pairs = plan.steps.iter().zip(outcomes);
    let mut failed = pairs.filter(|(_, o)| o.verdict == Verdict::Incomparable);
    let count = failed.clone().count() as u64;
    let first = failed.next();
    Error::NothingCompared {
        pairs: count,
        key: first.map_or_else(|| plan.steps[0].key.clone(), |(s, _)| s.key.clone()),
        reason: first
            .and_then(|(_, o)| o.reason.as_deref())
            .map(Reason::to_string)
            .unwrap_or_default(),
    }
}

/// What a pair is judged with.
struct Judge<'a> {
    left: &'a Side<'a>,
    right: &'a Side<'a>,
    ids: &'a TokenIds,
    options: &'a Options,
    hashes: AtomicU64,
}

/// A pair whose elements are to be read: what most need to be told, without another look at its metadata.
struct Pair<'a> {
    rows: (usize, usize),
    /// Elements of both records, where they correspond one to one.
    elements: Option<i64>,
    gates: &'a Gates,
}

/// What token ids and metadata tell of a step.
enum Known<'a> {
    Outcome(Outcome),
    Pair(Pair<'a>),
}

impl<'a> Judge<'a> {
    /// What is known of a step before any element is read.
    fn open(&self, step: &Step) -> Known<'_> {
        let (l, r) = match (step.left(), step.right()) {
            (Some(l), Some(r)) => (l, r),
            (None, _) => return Known::Outcome(Outcome::plain(Verdict::MissingLeft)),
            _ => return Known::Outcome(Outcome::plain(Verdict::MissingRight)),
        };
        let from = self.ids.differs_from(step.key.request);
        if let Some(from) = from.filter(|&from| step.key.seq >= from) {
            return Known::Outcome(Outcome::incomparable(Reason::TokenIds { from }));
        }
        let (a, b) = (self.left.records.meta(l), self.right.records.meta(r));
        match by_metadata(a, b) {
            ControlFlow::Break(outcome) => Known::Outcome(outcome),
            ControlFlow::Continue(layout) => Known::Pair(Pair {
                rows: (l, r),
                elements: (layout == Layout::Same).then_some(a.num_elements),
                gates: self.gates(a, b),
            }),
        }
    }

    fn gates(&self, a: Meta<'_>, b: Meta<'_>) -> &Gates {
        let tolerance = &self.options.tolerance;
        tolerance.gates(a.stage, a.layer, [a.dtype, b.dtype]).0
    }

    /// The outcome of a pair, by its values where they were found, and by its elements elsewhere.
    fn by_located(
        &self,
        step: &Step,
        pair: &Pair<'_>,
        located: (Option<&[f32]>, Option<&[f32]>),
    ) -> Result<Outcome, Error> {
        if let ((Some(x), Some(y)), Some(elements)) = (located, pair.elements)
            && let Some(outcome) = within_at_once(x, y, elements, pair.gates)
        {
            return Ok(outcome);
        }
        self.by_elements(step, pair.rows, located, false)
    }

    /// The outcome of a pair of rows, with all measures if they are asked for.
    fn by_elements(
        &self,
        step: &Step,
        (l, r): (usize, usize),
        located: (Option<&[f32]>, Option<&[f32]>),
        all: bool,
    ) -> Result<Outcome, Error> {
        let (left, right) = (self.left.records, self.right.records);
        let (a, b) = (left.meta(l), right.meta(r));
        let gates = self.gates(a, b);
        let nan_equal = self.options.nan_equal;
        let outcome = match located {
            (Some(x), Some(y)) => by_values((a, x), (b, y), gates, nan_equal, all),
            _ => by_elements(
                (a, &left.elements(l)?),
                (b, &right.elements(r)?),
                gates,
                nan_equal,
            ),
        };
        outcome.map_err(|wrong| damaged(self.left, self.right, step, wrong))
    }

    /// The outcome of a step, after the hashes of its records were computed again.
    fn verified(&self, step: &Step) -> Result<Outcome, Error> {
        let names = || Labels::new(None, self.left.name, self.right.name);
        for (side, row, is_left) in [(self.left, step.left(), true), (self.right, step.right(), false)] {
            match row.map(|row| side.records.has_hash(row)).transpose()?.flatten() {
                Some(true) => {
                    self.hashes.fetch_add(1, Ordering::Relaxed);
                }
                Some(false) => {
                    let run = if is_left { names().left } else { names().right };
                    let key = step.key.clone();
                    return Err(Error::Hash { run, key });
                }
                None => {}
            }
        }
        match self.open(step) {
            Known::Pair(pair) => self.by_located(step, &pair, self.located(pair.rows)),
            Known::Outcome(outcome) => Ok(outcome),
        }
    }

    /// The values of a pair of rows.
    fn located(&self, (l, r): (usize, usize)) -> (Option<&[f32]>, Option<&[f32]>) {
        let one = |side: &Side<'a>, row| side.records.locate(&[row]).values.pop().flatten();
        (one(self.left, l), one(self.right, r))
    }
}

pub(crate) fn damaged(left: &Side<'_>, right: &Side<'_>, step: &Step, wrong: WrongCount) -> Error {
    let names = Labels::new(None, left.name, right.name);
    Error::Elements {
        run: if wrong.left { names.left } else { names.right },
        key: step.key.clone(),
        found: wrong.found,
        expected: wrong.expected,
    }
}

impl Comparison<'_> {
    /// What it came to.
    pub fn status(&self) -> Status {
        if self.counts.diverged > 0 || !self.ids.differences.is_empty() {
            Status::Diverged
        } else if self.open().next().is_some() && !self.options.allow_incomplete {
            Status::Error
        } else {
            Status::Ok
        }
    }

    /// Steps that could not be compared and leave the question of a match open.
    pub fn open(&self) -> impl Iterator<Item = usize> {
        let outcomes = self.outcomes.iter().enumerate();
        outcomes.filter_map(|(i, o)| {
            o.reason
                .as_ref()
                .filter(|_| o.verdict == Verdict::Incomparable)
                .and_then(|r| r.leaves_open().then_some(i))
        })
    }

    /// All measures of a step whose values were read; none where they cannot be read any more.
    pub fn metrics(&self, step: usize) -> Option<Metrics> {
        let judge = Judge {
            left: self.left,
            right: self.right,
            ids: &self.ids,
            options: self.options,
            hashes: AtomicU64::new(0),
        };
        self.outcomes[step].distance?;
        let step = &self.plan.steps[step];
        let (l, r) = (step.left()?, step.right()?);
        let outcome = judge.by_elements(step, (l, r), judge.located((l, r)), true);
        outcome.ok()?.metrics.map(|metrics| *metrics)
    }

    /// The metadata of both sides of a step.
    pub fn metas(&self, step: usize) -> (Option<Meta<'_>>, Option<Meta<'_>>) {
        let step = &self.plan.steps[step];
        (
            step.left().map(|row| self.left.records.meta(row)),
            step.right().map(|row| self.right.records.meta(row)),
        )
    }

    /// The tolerance of a step that has both sides.
    pub fn tolerance(&self, step: usize) -> Option<Applied> {
        let (Some(a), Some(b)) = self.metas(step) else {
            return None;
        };
        if let Some(Reason::Local(_)) = self.outcomes[step].reason.as_deref() {
            return Some(Applied::referee());
        }
        if let Some(floor) = self.floor.as_ref().filter(|f| !f.knows_clean(step)) {
            return Some(Applied::floor(&floor.file, &floor.text()));
        }
        Some(
            self.options
                .tolerance
                .applied(a.stage, a.layer, [a.dtype, b.dtype]),
        )
    }

    /// Whether a step that did not diverge is known to have no error to pass on.
    pub fn knows_clean(&self, step: usize) -> bool {
        self.floor.as_ref().is_none_or(|f| f.knows_clean(step))
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

    /// The key of a step.
    pub fn key(&self, step: usize) -> &Key {
        &self.plan.steps[step].key
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
