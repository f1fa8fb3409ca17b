//! The logits of every position: whether two runs would say the same.

use crate::{
    Error,
    compare::{Options, Status, damaged, describe, gate},
    ids::TokenIds,
    judge::{Outcome, Reason, Verdict, by_elements, by_metadata},
    logits::distance,
    metrics::Metrics,
    notes::{notes, observation},
    num,
    plan::{Placed, plan},
    records::Side,
    report::{ErrorView, Labels, Note, ReasonView, RecordView, Runs},
};
use bitnet_trace_schema::StageGraph;
use serde::Serialize;
use std::ops::ControlFlow;

/// The stage that is compared.
pub const LOGITS: &str = "logits";

/// How many of the most likely tokens the overlap looks at, unless told otherwise.
pub const DEFAULT_TOP_K: usize = 5;

/// Up to how many root mean squares of the logits' differences a lead of the most likely token is a near tie.
pub const NEAR_TIE: f64 = 4.0;

/// The logits of two runs, position by position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokensReport {
    /// `ok`, `diverged` or `error`.
    pub status: Status,
    /// The left run's name.
    pub left: String,
    /// The right run's name.
    pub right: String,
    /// Position of the first divergence; null where there is none.
    pub first_divergence_token: Option<i64>,
    /// Cosine similarity of each entry of `positions`; null where nothing was measured.
    #[serde(serialize_with = "cosines")]
    pub per_token_cosine_sim: Vec<Option<f64>>,
    /// Positions, in order of request and position.
    pub positions: Vec<Position>,
    /// Positions that were compared.
    pub compared: u64,
    /// What must hold at every position.
    pub tolerance: String,
    /// The k of `top_k_overlap`.
    pub top_k: usize,
    /// The token ids.
    pub token_ids: TokenIds,
    /// The runs.
    pub runs: Runs,
    /// What a reader should know.
    pub notes: Vec<Note>,
    /// Why there is no verdict, with status `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

fn cosines<S: serde::Serializer>(all: &[Option<f64>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(all.iter().map(|c| c.map(num::Num)))
}

/// The logits at one position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Position {
    /// Request.
    pub request: i32,
    /// Position.
    pub seq: i64,
    /// How many logits of the same position came before (a position that was computed twice).
    pub visit: u32,
    /// The token at this position on the left side (what was read, not what is predicted).
    pub token_left: Option<i32>,
    /// The token at this position on the right side.
    pub token_right: Option<i32>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, where it is `diverged` or `incomparable`. Shapes that differ are a divergence here.
    pub reason: Option<ReasonView>,
    /// Cosine similarity.
    #[serde(serialize_with = "num::json_option")]
    pub cosine: Option<f64>,
    /// Relative L2.
    #[serde(serialize_with = "num::json_option")]
    pub rel_l2: Option<f64>,
    /// Largest absolute difference.
    #[serde(serialize_with = "num::json_option")]
    pub max_abs: Option<f64>,
    /// Kullback-Leibler divergence of the left distribution to the right one, in nats.
    #[serde(serialize_with = "num::json_option")]
    pub kl: Option<f64>,
    /// The same of the right distribution to the left one.
    #[serde(serialize_with = "num::json_option")]
    pub kl_reverse: Option<f64>,
    /// The most likely next token on the left side.
    pub top1_left: Option<u64>,
    /// The most likely next token on the right side.
    pub top1_right: Option<u64>,
    /// Whether they agree.
    pub top1_agree: Option<bool>,
    /// How much the left side's largest logit is above its next one.
    #[serde(serialize_with = "num::json_option")]
    pub top2_gap: Option<f64>,
    /// Whether the most likely token flipped: they disagree, and `top2_gap` is more than [`NEAR_TIE`] times the root mean
    /// square of the logits' differences. Within that, noise decides between the two.
    pub top1_flip: Option<bool>,
    /// Share of the k most likely tokens that both sides have, from 0 to 1.
    pub top_k_overlap: Option<f64>,
    /// The left record.
    pub left: Option<RecordView>,
    /// The right record.
    pub right: Option<RecordView>,
}

impl Position {
    /// Whether the position counts as a divergence.
    pub fn diverged(&self) -> bool {
        self.verdict == Verdict::Diverged
    }
}

/// Compares the logits of two runs; records of other stages are ignored. `options.tolerance` is what must
/// hold at a position.
///
/// Positions from a difference of the generated token ids on are incomparable, and that difference is a
/// divergence itself.
///
/// # Errors
/// [`Error`] where there can be no verdict: incomplete runs, different prompts, no logits in common.
pub fn tokens(
    left: &Side<'_>,
    right: &Side<'_>,
    graph: &StageGraph,
    options: &Options,
    top_k: usize,
) -> Result<TokensReport, Error> {
    let ids = gate(left, right, options)?;
    let plan = plan(left.records, right.records, graph);
    let steps: Vec<Placed<'_>> = plan.iter().filter(|s| s.stage == LOGITS).collect();
    if !steps.iter().any(|s| s.left().is_some() && s.right().is_some()) {
        let names = Labels::new(None, left.name, right.name);
        return Err(Error::NothingInCommon {
            left: format!("the logits of {}", names.left),
            right: names.right,
            left_has: describe(left.records),
            right_has: describe(right.records),
        });
    }
    let positions: Vec<Position> = steps
        .iter()
        .map(|&step| position(left, right, step, &ids, options, top_k))
        .collect::<Result<_, _>>()?;
    let compared = positions.iter().filter(|p| p.verdict.is_compared()).count() as u64;
    let id_difference = ids.differences.first();
    let diverged = positions
        .iter()
        .find(|p| p.diverged())
        .map(|p| (p.request, p.seq));
    let first = [diverged, id_difference.map(|d| (d.request, d.seq))]
        .into_iter()
        .flatten()
        .min();
    if compared == 0 && first.is_none() {
        return Err(Error::NothingCompared {
            pairs: steps.len() as u64,
            key: steps[0].key(),
            reason: positions[0]
                .reason
                .as_ref()
                .map(|r| r.message.clone())
                .unwrap_or_default(),
        });
    }
    let open = positions
        .iter()
        .filter(|p| p.reason.as_ref().is_some_and(|r| r.kind == "no_values"));
    let open = open.filter(|p| p.verdict == Verdict::Incomparable).count();
    let error = (first.is_none() && open > 0 && !options.allow_incomplete).then(|| ErrorView {
        kind: "incomparable",
        message: format!(
            "{} could not be compared; pass --allow-incomplete to accept that",
            num::plural(open as u64, "position")
        ),
    });
    let status = match (&first, &error) {
        (Some(_), _) => Status::Diverged,
        (None, Some(_)) => Status::Error,
        (None, None) => Status::Ok,
    };
    let mut notes = notes(left, right, &ids, &options.tolerance);
    if status == Status::Diverged {
        notes.extend(observation(left, right));
    }
    let with_nan = positions
        .iter()
        .filter(|p| p.verdict.is_match() && p.left.as_ref().is_some_and(|left| left.nan_count > 0));
    let with_nan = with_nan.count() as u64;
    if with_nan > 0 {
        notes.push(Note {
            kind: "nan",
            message: format!(
                "the logits of {} match and hold NaN on both sides",
                num::plural(with_nan, "position")
            ),
        });
    }
    Ok(TokensReport {
        status,
        left: left.name.into(),
        right: right.name.into(),
        first_divergence_token: first.map(|(_, seq)| seq),
        per_token_cosine_sim: positions.iter().map(|p| p.cosine).collect(),
        positions,
        compared,
        tolerance: options.tolerance.to_string(),
        top_k,
        token_ids: ids,
        runs: Runs::of(left, right),
        notes,
        error,
    })
}

fn position(
    left: &Side<'_>,
    right: &Side<'_>,
    step: Placed<'_>,
    ids: &TokenIds,
    options: &Options,
    top_k: usize,
) -> Result<Position, Error> {
    let key = step.key();
    let token = |side: &Side<'_>| {
        let sequence = side
            .manifest
            .sequences
            .iter()
            .find(|s| s.request == key.request)?;
        *sequence.ids.get(usize::try_from(key.seq).ok()?)?
    };
    let metas = (
        step.left().map(|l| left.records.meta(l)),
        step.right().map(|r| right.records.meta(r)),
    );
    let mut result = Position {
        request: key.request,
        seq: key.seq,
        visit: step.step.visit,
        token_left: token(left),
        token_right: token(right),
        verdict: Verdict::MissingLeft,
        reason: None,
        cosine: None,
        rel_l2: None,
        max_abs: None,
        kl: None,
        kl_reverse: None,
        top1_left: None,
        top1_right: None,
        top1_agree: None,
        top2_gap: None,
        top1_flip: None,
        top_k_overlap: None,
        left: metas.0.map(RecordView::of),
        right: metas.1.map(RecordView::of),
    };
    let (Some(l), Some(r), (Some(a), Some(b))) = (step.left(), step.right(), metas) else {
        if step.right().is_none() {
            result.verdict = Verdict::MissingRight;
        }
        return Ok(result);
    };
    if let Some(from) = ids.differs_from(key.request).filter(|&from| key.seq >= from) {
        result.verdict = Verdict::Incomparable;
        result.reason = Some(ReasonView::from(&Reason::TokenIds { from }));
        return Ok(result);
    }
    let (x, y) = (left.records.elements(l)?, right.records.elements(r)?);
    let outcome = match by_metadata(a, b) {
        // Another vocabulary size is a fault of one side, not of the comparison.
        ControlFlow::Break(outcome) if matches!(outcome.reason.as_deref(), Some(Reason::Shapes { .. })) => {
            Outcome {
                verdict: Verdict::Diverged,
                ..outcome
            }
        }
        ControlFlow::Break(outcome) => outcome,
        ControlFlow::Continue(_) => {
            let (gates, _) = options.tolerance.gates(a.stage, a.layer, [a.dtype, b.dtype]);
            by_elements((a, &x), (b, &y), gates, options.nan_equal)
                .map_err(|wrong| damaged(left, right, key, wrong))?
        }
    };
    result.verdict = outcome.verdict;
    result.reason = outcome.reason.as_deref().map(ReasonView::from);
    let of = |f: fn(&Metrics) -> f64, identical: f64| match outcome.verdict {
        Verdict::Identical => Some(identical),
        _ => outcome.metrics.as_deref().map(f),
    };
    result.cosine = of(|m| m.cosine, 1.0);
    result.rel_l2 = of(|m| m.rel_l2, 0.0);
    result.max_abs = of(|m| m.max_abs, 0.0);
    if let (Some(x), Some(y)) = (x.values(), y.values()) {
        let d = distance(x, y, top_k);
        (result.kl, result.kl_reverse) = (d.kl, d.kl_reverse);
        result.top2_gap = d.top2_gap;
        (result.top1_left, result.top1_right) = (d.top1_left, d.top1_right);
        result.top1_agree = d.top1_left.zip(d.top1_right).map(|(l, r)| l == r);
        result.top_k_overlap = d.top_k_overlap;
        let noise = match (&outcome.metrics, outcome.verdict) {
            (Some(m), _) => Some(m.diff_norm / (m.elements as f64).sqrt()),
            (None, Verdict::Identical) => Some(0.0),
            _ => None,
        };
        let beyond = d.top2_gap.zip(noise).map(|(gap, noise)| gap > NEAR_TIE * noise);
        result.top1_flip = result
            .top1_agree
            .zip(beyond)
            .map(|(agree, beyond)| !agree && beyond);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{Memory, manifest},
        tolerance::{Gates, Tolerance},
    };

    fn run(rows: &[&[f32]]) -> Memory {
        let mut m = Memory::default();
        for (seq, row) in rows.iter().enumerate() {
            m.push(seq as i64, -1, LOGITS, row);
        }
        m
    }

    fn of(left: &Memory, right: &Memory, gates: Gates) -> Result<TokensReport, Error> {
        let (a, b) = (
            manifest("a", "x", 2, &[7, 8, 9]),
            manifest("b", "y", 2, &[7, 8, 9]),
        );
        let options = Options {
            tolerance: Tolerance::all(gates, "test"),
            ..Options::default()
        };
        tokens(
            &left.side(&a),
            &right.side(&b),
            &StageGraph::builtin(),
            &options,
            2,
        )
    }

    const COSINE: Gates = Gates {
        exact: false,
        rel_l2: Some(0.05),
        max_abs: None,
        max_rel: None,
        ulp: None,
        cosine: Some(0.999),
    };

    #[test]
    fn every_position_is_told_and_the_first_bad_one_named() {
        let left = run(&[&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]]);
        let right = run(&[&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.001], &[3.0, 2.0, 1.0]]);
        let report = of(&left, &right, COSINE).expect("comparable");
        assert_eq!(
            (report.status, report.first_divergence_token),
            (Status::Diverged, Some(2))
        );
        let verdicts: Vec<_> = report.positions.iter().map(|p| p.verdict).collect();
        assert_eq!(verdicts, [Verdict::Identical, Verdict::Within, Verdict::Diverged]);
        let last = &report.positions[2];
        assert_eq!(
            (last.top1_left, last.top1_right, last.top1_agree),
            (Some(2), Some(0), Some(false))
        );
        assert_eq!((last.top_k_overlap, last.token_left), (Some(0.5), Some(9)));
        assert_eq!(
            (last.top2_gap, last.top1_flip),
            (Some(1.0), Some(false)),
            "all is noise"
        );
    }

    #[test]
    fn another_most_likely_token_is_a_flip_only_beyond_a_near_tie() {
        // A thousand logits, of which the first leads.
        let row = |lead: f32, noise: f32| -> Vec<f32> {
            let wave = |i: usize| noise * (i as f32 * 1.7).sin();
            (0..1000)
                .map(|i| match i {
                    0 => 5.0 + lead,
                    1 => 5.0 + wave(1),
                    _ => wave(i),
                })
                .collect()
        };
        let flip = |lead: f32, other: &[f32]| {
            let report = of(&run(&[&row(lead, 0.0)]), &run(&[other]), COSINE).expect("comparable");
            report.positions[0].top1_flip
        };
        let mut overtaken = row(1.0, 0.01);
        overtaken[1] = 7.0;
        assert_eq!(flip(1.0, &overtaken), Some(true));
        let mut tied = row(0.01, 0.01);
        tied[1] = 5.02;
        assert_eq!(flip(0.01, &tied), Some(false));
        assert_eq!(flip(1.0, &row(1.0, 0.01)), Some(false));
    }

    #[test]
    fn a_wrong_scale_a_nan_and_a_wrong_length_are_divergences() {
        let left = run(&[&[1.0, 2.0, 3.0]]);
        for (right, kind) in [
            (run(&[&[10.0, 20.0, 30.0]]), "tolerance"),
            (run(&[&[1.0, f32::NAN, 3.0]]), "non_finite"),
            (run(&[&[1.0, 2.0]]), "shapes"),
        ] {
            let report = of(&left, &right, COSINE).expect("comparable");
            assert_eq!(report.status, Status::Diverged, "{kind}");
            assert_eq!(report.positions[0].reason.as_ref().map(|r| r.kind), Some(kind));
        }
    }

    #[test]
    fn runs_without_common_logits_are_an_error() {
        let mut other = Memory::default();
        other.push(0, 0, "q_proj", &[1.0]);
        assert!(matches!(
            of(&run(&[&[1.0]]), &other, COSINE),
            Err(Error::NothingInCommon { .. })
        ));
    }

    #[test]
    fn a_position_that_one_run_lacks_is_missing_and_not_a_match() {
        let report = of(&run(&[&[1.0, 2.0], &[1.0, 2.0]]), &run(&[&[1.0, 2.0]]), COSINE).expect("comparable");
        assert_eq!(
            (report.positions[1].verdict, report.compared),
            (Verdict::MissingRight, 1)
        );
        assert_eq!(report.per_token_cosine_sim, [Some(1.0), None]);
    }
}
