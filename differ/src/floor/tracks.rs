//! The error of each stage of each layer over the positions, and its gain.

use super::TINY;
use crate::{judge::Outcome, plan::AlignPlan, upstream::nearest};
use bitnet_trace_schema::StageGraph;
use std::collections::HashMap;

/// One stage of one layer over the positions of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Track<'a> {
    /// Which sequence of a batch.
    pub request: i32,
    /// The layer.
    pub layer: i32,
    /// The stage.
    pub stage: &'a str,
    /// Which of the records that repeat a key.
    pub visit: u32,
    /// Its compared records, by position.
    pub points: Vec<Point>,
    /// What it is made from.
    pub inputs: Vec<Input>,
}

/// A track that another one is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Its index among the tracks.
    pub track: usize,
    /// Whether it is read at every position up to that of the output, and not there alone.
    pub history: bool,
}

/// A compared record whose relative L2 is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Its step in the plan.
    pub step: usize,
    /// Its position.
    pub seq: i64,
    /// Relative L2.
    pub error: f64,
    /// `(error + TINY) / (input + TINY)`, where `input` is the error of the input that is furthest off: of inputs that
    /// attention reads over all earlier positions, their mean; 0 without recorded inputs.
    pub gain: f64,
}

impl Track<'_> {
    /// The errors, by position.
    pub fn errors(&self) -> Vec<f64> {
        self.points.iter().map(|p| p.error).collect()
    }

    /// The gains, by position.
    pub fn gains(&self) -> Vec<f64> {
        self.points.iter().map(|p| p.gain).collect()
    }
}

/// The tracks of a comparison, in the causal order of their first records.
pub fn tracks<'a>(plan: &'a AlignPlan, outcomes: &[Outcome], graph: &'a StageGraph) -> Vec<Track<'a>> {
    let mut tracks: Vec<Track<'a>> = Vec::new();
    let mut known = HashMap::new();
    for (step, (of, outcome)) in plan.iter().zip(outcomes).enumerate() {
        let Some(error) = outcome.rel_l2().filter(|e| e.is_finite()) else {
            continue;
        };
        let place = (of.request, of.layer, of.stage.as_str(), of.step.visit);
        let at = *known.entry(place).or_insert_with(|| {
            tracks.push(Track {
                request: of.request,
                layer: of.layer,
                stage: of.stage,
                visit: of.step.visit,
                points: Vec::new(),
                inputs: Vec::new(),
            });
            tracks.len() - 1
        });
        let gain = f64::NAN; // follows, when all errors are known
        let seq = of.seq;
        tracks[at].points.push(Point {
            step,
            seq,
            error,
            gain,
        });
    }
    let layers = tracks
        .iter()
        .map(|t| t.layer)
        .max()
        .unwrap_or(-1)
        .saturating_add(1);
    for at in 0..tracks.len() {
        let track = &tracks[at];
        let mut inputs = Vec::new();
        nearest(graph, layers, track.stage, track.layer, |u| {
            let of = |visit| known.get(&(track.request, u.layer, u.stage, visit));
            let found = of(track.visit).or_else(|| of(0));
            inputs.extend(found.map(|&track| Input {
                track,
                history: u.history,
            }));
            found.is_some()
        });
        let errors: Vec<Errors<'_>> = inputs.iter().map(|i| Errors::of(i, &tracks)).collect();
        let gain = |p: &Point| {
            let input = errors.iter().filter_map(|e| e.at(p.seq)).fold(0.0, f64::max);
            (p.error + TINY) / (input + TINY)
        };
        let gains: Vec<f64> = track.points.iter().map(gain).collect();
        for (point, gain) in tracks[at].points.iter_mut().zip(gains) {
            point.gain = gain;
        }
        tracks[at].inputs = inputs;
    }
    tracks
}

/// The errors of an input.
struct Errors<'a> {
    points: &'a [Point],
    /// Sums of the errors of all positions up to each one, where a history is read.
    sums: Option<Vec<f64>>,
}

impl<'a> Errors<'a> {
    fn of(input: &Input, tracks: &'a [Track<'_>]) -> Self {
        let points = &tracks[input.track].points;
        let running = |sum: &mut f64, p: &Point| {
            *sum += p.error;
            Some(*sum)
        };
        Self {
            points,
            sums: input.history.then(|| points.iter().scan(0.0, running).collect()),
        }
    }

    /// Its error where the output is at position `seq`.
    fn at(&self, seq: i64) -> Option<f64> {
        let upto = self.points.partition_point(|p| p.seq <= seq);
        let last = self.points[..upto].last()?;
        match &self.sums {
            Some(sums) => Some(sums[upto - 1] / upto as f64),
            None => (last.seq == seq).then_some(last.error),
        }
    }
}
