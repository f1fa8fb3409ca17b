//! Three runs: a port, a reference and a second reference. Which one stands alone, and where first?
//!
//! Each pair is compared as two runs are. At a place, one run stands alone where it diverges from both others while these
//! match; where all three diverge from each other, where its distance to the nearer of the others is more than
//! [`FURTHER`] times that between them.

use crate::{
    Error,
    compare::{Comparison, Options, Status, Verdicts, verdicts},
    judge::Verdict,
    num,
    plan::Key,
    records::Side,
    report::{ErrorView, Note, RunView},
    summary::median,
};
use bitnet_trace_schema::{StageGraph, Text};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// How many times further off than the others are from each other a run must be to stand alone among three that all
/// diverge.
pub const FURTHER: f64 = 3.0;

/// The pairs of three runs: each leaves one out.
const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

/// What three records of one key say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// No pair diverges.
    Agree,
    /// The first run stands alone.
    FirstAlone,
    /// The second run stands alone.
    SecondAlone,
    /// The third run stands alone.
    ThirdAlone,
    /// They diverge, and none stands alone.
    Unclear,
}

impl Stand {
    const ALONE: [Self; 3] = [Self::FirstAlone, Self::SecondAlone, Self::ThirdAlone];

    /// Which run stands alone, from 0.
    pub fn alone(self) -> Option<usize> {
        Self::ALONE.iter().position(|s| *s == self)
    }

    /// Of whether each pair diverges, and its distance; in the order of [`PAIRS`].
    fn of(diverged: [bool; 3], distance: [f64; 3]) -> Self {
        if diverged == [false; 3] {
            return Self::Agree;
        }
        let of_run = |run: usize| {
            let (mut own, mut others) = (Vec::new(), 0);
            for (i, (a, b)) in PAIRS.into_iter().enumerate() {
                if a == run || b == run {
                    own.push(i)
                } else {
                    others = i
                }
            }
            (own, others)
        };
        let alone = |run: usize| {
            let (own, others) = of_run(run);
            if !own.iter().all(|&i| diverged[i]) {
                return false;
            }
            let nearer = own.iter().map(|&i| distance[i]).fold(f64::INFINITY, f64::min);
            !diverged[others] || nearer > FURTHER * distance[others]
        };
        let mut found = (0..3).filter(|&run| alone(run));
        found.next().map_or(Self::Unclear, |run| Self::ALONE[run])
    }
}

/// What `compare` tells of three runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreeReport {
    /// `ok` where nothing diverges, else `diverged`, or `error`.
    pub status: Status,
    /// The runs, in the order given.
    pub runs: Vec<RunView>,
    /// What records were judged by.
    pub tolerance: String,
    /// The first place, in causal order, at which a run stands alone.
    pub first_alone: Option<FirstAlone>,
    /// Every stage that all three have, in causal order.
    pub stages: Vec<StageStands>,
    /// Records that not all three have.
    pub missing: u64,
    /// Records of all three that could not be compared.
    pub incomparable: u64,
    /// What a reader should know.
    pub notes: Vec<Note>,
    /// Why there is no verdict, with status `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

/// Where a run stands alone first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstAlone {
    /// The run's name.
    pub run: String,
    /// The place.
    #[serde(flatten)]
    pub key: Key,
}

/// The records of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageStands {
    /// The stage.
    pub stage: String,
    /// Records at which no pair diverges.
    pub agree: u64,
    /// Those of them that are identical in all three.
    pub identical: u64,
    /// Records at which each run stands alone, in the order given.
    pub alone: [u64; 3],
    /// Records that diverge with none alone.
    pub unclear: u64,
    /// Median relative L2 of the first and the second run, the first and the third, the second and the third.
    #[serde(serialize_with = "distances")]
    pub median_rel_l2: [Option<f64>; 3],
}

fn distances<S: serde::Serializer>(of: &[Option<f64>; 3], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(of.iter().map(|x| x.map(num::Num)))
}

/// A stage, and its distances.
type Gathered = (StageStands, [Vec<f64>; 3]);

/// Compares three runs pair by pair.
///
/// # Errors
/// Those of [`verdicts`], of any pair.
pub fn three(
    runs: [&Side<'_>; 3],
    graph: &StageGraph,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ThreeReport, Error> {
    let pair = |i: usize| {
        let (a, b) = PAIRS[i];
        verdicts(runs[a], runs[b], graph, options, &|done, total| {
            progress(i * total + done, 3 * total)
        })
    };
    let pairs = [pair(0)?, pair(1)?, pair(2)?];
    let at = |v: &Verdicts<'_>| -> HashMap<(Key, u32), usize> {
        let steps = v.plan.iter().enumerate();
        steps.map(|(i, s)| ((s.key(), s.step.visit), i)).collect()
    };
    let places = [at(&pairs[1]), at(&pairs[2])];
    let mut stages: BTreeMap<(usize, Text), Gathered> = BTreeMap::new();
    let (mut first_alone, mut missing, mut incomparable, mut diverged) = (None, 0, 0, false);
    // What only the third run has stands in no step of the first pair.
    let only_third = pairs[1]
        .outcomes
        .iter()
        .filter(|o| o.verdict == Verdict::MissingLeft);
    missing += only_third.count() as u64;
    for (i, step) in pairs[0].plan.iter().enumerate() {
        let place = (step.key(), step.step.visit);
        let others = [&places[0], &places[1]].map(|p| p.get(&place).copied());
        let [Some(second), Some(third)] = others else {
            missing += 1;
            continue;
        };
        let outcomes = [
            &pairs[0].outcomes[i],
            &pairs[1].outcomes[second],
            &pairs[2].outcomes[third],
        ];
        if outcomes
            .iter()
            .any(|o| matches!(o.verdict, Verdict::MissingLeft | Verdict::MissingRight))
        {
            missing += 1;
            continue;
        }
        if outcomes.iter().any(|o| !o.verdict.is_compared()) {
            incomparable += 1;
            continue;
        }
        // What cannot be measured (NaN, a hash) is as far off as can be.
        let distance = outcomes.map(|o| o.rel_l2().filter(|d| !d.is_nan()).unwrap_or(f64::INFINITY));
        let stand = Stand::of(outcomes.map(|o| o.verdict == Verdict::Diverged), distance);
        diverged |= stand != Stand::Agree;
        if let (None, Some(run)) = (&first_alone, stand.alone()) {
            first_alone = Some(FirstAlone {
                run: runs[run].name.to_owned(),
                key: step.key(),
            });
        }
        let rank = graph.rank(step.stage).unwrap_or(usize::MAX);
        let (stage, errors) = stages.entry((rank, step.stage.clone())).or_insert_with(|| {
            let stage = StageStands {
                stage: step.stage.to_string(),
                agree: 0,
                identical: 0,
                alone: [0; 3],
                unclear: 0,
                median_rel_l2: [None; 3],
            };
            (stage, Default::default())
        });
        let identical = outcomes.iter().all(|o| o.verdict == Verdict::Identical);
        stage.identical += u64::from(identical);
        match stand.alone() {
            Some(run) => stage.alone[run] += 1,
            None if stand == Stand::Agree => stage.agree += 1,
            None => stage.unclear += 1,
        }
        for (errors, distance) in errors.iter_mut().zip(distance) {
            errors.push(distance);
        }
    }
    let stages = stages.into_values().map(|(mut stage, mut errors)| {
        errors.iter_mut().for_each(|e| e.sort_by(f64::total_cmp));
        stage.median_rel_l2 = errors.each_ref().map(|e| median(e));
        stage
    });
    let stages: Vec<StageStands> = stages.collect();
    let pairs = pairs.each_ref().map(Verdicts::comparison);
    // Generated ids that differ end a comparison, and are a divergence.
    diverged |= pairs.iter().any(|p| p.status() == Status::Diverged);
    let open = stages.is_empty() || (incomparable > 0 && !options.allow_incomplete);
    let status = match (diverged, open) {
        (true, _) => Status::Diverged,
        (false, true) => Status::Error,
        (false, false) => Status::Ok,
    };
    let message = if stages.is_empty() {
        "not one record is in all three runs and could be compared".to_owned()
    } else {
        format!(
            "nothing diverged, but {} could not be compared; pass --allow-incomplete to accept that",
            num::plural(incomparable, "record")
        )
    };
    let error = (status == Status::Error).then_some(ErrorView {
        kind: "incomparable",
        message,
    });
    Ok(ThreeReport {
        status,
        runs: runs.map(RunView::of).to_vec(),
        tolerance: pairs[0].judged_by(),
        first_alone,
        stages,
        missing,
        incomparable,
        notes: notes(&pairs),
        error,
    })
}

/// The notes of all pairs, each once.
fn notes(pairs: &[Comparison<'_>; 3]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for pair in pairs {
        for note in crate::report::notes(pair) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_diverges_from_two_that_agree_stands_alone() {
        let of = |diverged: [u8; 3], distance| Stand::of(diverged.map(|d| d == 1), distance);
        assert_eq!(of([0, 0, 0], [0.1; 3]), Stand::Agree);
        assert_eq!(of([1, 1, 0], [0.5, 0.5, 1e-6]), Stand::FirstAlone);
        assert_eq!(of([1, 0, 1], [0.5, 1e-6, 0.5]), Stand::SecondAlone);
        assert_eq!(of([0, 1, 1], [1e-6, 0.5, 0.5]), Stand::ThirdAlone);
        assert_eq!(of([1, 0, 0], [0.2, 0.1, 0.1]), Stand::Unclear);
    }

    #[test]
    fn of_three_that_all_diverge_the_one_that_is_much_further_off_stands_alone() {
        let of = |distance| Stand::of([true; 3], distance);
        assert_eq!(of([0.5, 0.01, 0.5]), Stand::SecondAlone);
        assert_eq!(of([0.02, 0.01, 0.02]), Stand::Unclear);
        assert_eq!(of([f64::INFINITY, f64::INFINITY, 0.02]), Stand::FirstAlone);
        assert_eq!(of([f64::INFINITY; 3]), Stand::Unclear);
    }
}
