//! Judges a comparison by a [`Floor`].

use super::{
    Entry, Floor, Level, TINY,
    scan::{median, scan, stretch},
    tracks::{Input, Point, Track, tracks},
};
use crate::{
    judge::{Outcome, Reason, Verdict},
    num,
    plan::AlignPlan,
};
use bitnet_trace_schema::StageGraph;
use serde::Serialize;
use std::fmt;

/// Why a record is beyond the floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FloorReason {
    /// Its relative L2.
    #[serde(serialize_with = "num::json")]
    pub error: f64,
    /// What sound runs come to there: the highest scan of a prompt.
    #[serde(serialize_with = "num::json")]
    pub floor: f64,
    /// Its error in proportion to that of its inputs.
    #[serde(serialize_with = "num::json")]
    pub gain: f64,
    /// The gain of sound runs there: the highest scan of a prompt.
    #[serde(serialize_with = "num::json")]
    pub floor_gain: f64,
    /// Whether the gain is what is beyond the floor: the error was made here, at least in part.
    pub begins: bool,
}

impl FloorReason {
    /// The error in proportion to its floor.
    pub fn ratio(&self) -> f64 {
        (self.error + TINY) / (self.floor + TINY)
    }

    /// The gain in proportion to its floor.
    pub fn gain_ratio(&self) -> f64 {
        (self.gain + TINY) / (self.floor_gain + TINY)
    }
}

impl fmt::Display for FloorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "relative L2 {} is {} x its floor {}",
            num::sci(self.error),
            num::sig(self.ratio(), 3),
            num::sci(self.floor)
        )?;
        if self.begins {
            write!(
                f,
                "; {} x the error of its inputs, sound runs {} x",
                num::sig(self.gain, 3),
                num::sig(self.floor_gain, 3)
            )?;
        }
        Ok(())
    }
}

/// How close a stage came to its limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drift {
    /// The stage.
    pub stage: String,
    /// The layer.
    pub layer: i32,
    /// Its scan in proportion to the limit: of the error or of the gain, whichever is larger.
    #[serde(serialize_with = "num::json")]
    pub of_limit: f64,
}

/// What the floor said of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// The floor's file.
    pub file: String,
    /// Prompts that it rests on.
    pub prompts: usize,
    /// Pairs of runs that it rests on.
    pub pairs: usize,
    /// Records that were judged by it.
    pub judged: u64,
    /// Compared records that it has nothing on: these were judged by the tolerance.
    pub without_floor: u64,
    /// The stage that came closest to its limit, or is furthest beyond it.
    pub largest: Option<Drift>,
    /// Whether the error is beyond the floor while no stage makes it grow more than on sound runs: then there is no
    /// origin to be told.
    pub drift: bool,
    /// The smallest error (relative L2, made in one stage) that the gain of that stage would show: the median over
    /// stages and layers. A smaller one cannot be located.
    #[serde(serialize_with = "num::json_option")]
    pub locatable: Option<f64>,
    /// The same of the stage and layer where it is largest.
    #[serde(serialize_with = "num::json_option")]
    pub locatable_worst: Option<f64>,
    /// The steps that it judged.
    #[serde(skip)]
    by_floor: Vec<bool>,
}

impl Judgement {
    /// Replaces the verdicts on all records of a comparison that the floor has something on. Records that hold NaN or
    /// could not be measured keep their verdicts.
    pub fn of(
        floor: &Floor,
        file: &str,
        plan: &AlignPlan,
        graph: &StageGraph,
        outcomes: &mut [Outcome],
    ) -> Self {
        let entries = floor.by_place();
        let mut result = Self {
            file: file.to_owned(),
            prompts: floor.prompts,
            pairs: floor.pairs,
            judged: 0,
            without_floor: 0,
            largest: None,
            drift: false,
            locatable: None,
            locatable_worst: None,
            by_floor: vec![false; outcomes.len()],
        };
        let mut locatable = Vec::new();
        let (mut beyond, mut begins) = (false, false);
        let tracks = tracks(plan, outcomes, graph);
        // Positions of each track that are beyond its floor; a stage's inputs come before it.
        let mut dirty: Vec<Vec<i64>> = vec![Vec::new(); tracks.len()];
        for (at, track) in tracks.iter().enumerate() {
            let Some(entry) = entries.get(&(track.layer, track.stage)) else {
                continue;
            };
            locatable.push(entry.locatable());
            let of_input = |i: &Input| entries.get(&(tracks[i.track].layer, tracks[i.track].stage));
            let inputs = track.inputs.iter().filter_map(of_input);
            let sound = inputs.map(|e| e.error.high).fold(0.0, f64::max);
            let findings = Findings::of(track, entry, &gains(track, sound, &dirty));
            beyond |= findings.any();
            begins |= findings.gain.is_some();
            if result
                .largest
                .as_ref()
                .is_none_or(|l| l.of_limit < findings.of_limit)
            {
                result.largest = Some(Drift {
                    stage: track.stage.to_owned(),
                    layer: track.layer,
                    of_limit: findings.of_limit,
                });
            }
            for (i, point) in track.points.iter().enumerate() {
                let outcome = &mut outcomes[point.step];
                if !is_open(outcome) {
                    continue;
                }
                result.by_floor[point.step] = true;
                result.judged += 1;
                let begins = findings.gain.as_ref().is_some_and(|flags| flags[i]);
                if begins || findings.error.as_ref().is_some_and(|flags| flags[i]) {
                    dirty[at].push(point.seq);
                    outcome.verdict = Verdict::Diverged;
                    outcome.reason = Some(Box::new(Reason::Floor(FloorReason {
                        error: point.error,
                        floor: entry.error.high,
                        gain: point.gain,
                        floor_gain: entry.gain.high,
                        begins,
                    })));
                } else {
                    outcome.verdict = Verdict::Within;
                    outcome.reason = None;
                }
            }
        }
        let judged = result.by_floor.iter().zip(outcomes.iter());
        let without = judged.filter(|(by_floor, o)| !**by_floor && o.verdict.is_compared() && is_open(o));
        result.without_floor = without.count() as u64;
        result.drift = beyond && !begins;
        locatable.sort_by(f64::total_cmp);
        result.locatable_worst = locatable.last().copied();
        result.locatable = median(&mut locatable);
        result
    }

    /// Whether a step that did not diverge is known to be clean. Within the floor is not: what its inputs brought may be
    /// hidden in it.
    pub fn knows_clean(&self, step: usize) -> bool {
        !self.by_floor[step]
    }

    /// What it rests on, in words.
    pub fn text(&self) -> String {
        let prompts = num::plural(self.prompts as u64, "prompt");
        let pairs = num::plural(self.pairs as u64, "pair");
        format!("the floor of {} ({pairs} of sound runs, {prompts})", self.file)
    }
}

/// Whether a verdict rests on a distance alone, so that the floor may replace it.
fn is_open(outcome: &Outcome) -> bool {
    match outcome.verdict {
        Verdict::Within => true,
        Verdict::Diverged => matches!(
            outcome.reason.as_deref(),
            Some(Reason::Gates(_) | Reason::Floor(_))
        ),
        _ => false,
    }
}

/// Which points of a track are beyond its floor; none where it is not.
struct Findings {
    error: Option<Vec<bool>>,
    gain: Option<Vec<bool>>,
    of_limit: f64,
}

impl Findings {
    fn of(track: &Track<'_>, entry: &Entry, gains: &[Option<f64>]) -> Self {
        let (error, error_part) = beyond(&track.errors(), &entry.error);
        let known: Vec<f64> = gains.iter().copied().flatten().collect();
        let (gain, gain_part) = beyond(&known, &entry.gain);
        // Of the known ones, back to all.
        let gain = gain.map(|flags| {
            let mut flags = flags.into_iter();
            let flag = |gain: &Option<f64>| gain.is_some() && flags.next().unwrap_or_default();
            gains.iter().map(flag).collect()
        });
        Self {
            error,
            gain,
            of_limit: error_part.max(gain_part),
        }
    }

    fn any(&self) -> bool {
        self.error.is_some() || self.gain.is_some()
    }
}

/// The gains of a track that say something of it: those whose inputs are not beyond their floor, since what such an input
/// brings grows as it likes.
///
/// `sound` is the error that inputs have on sound runs. Inputs that are nearer count as this far: what is rounded to few bits
/// may answer the least difference of its inputs with an error as large as any.
fn gains(track: &Track<'_>, sound: f64, dirty: &[Vec<i64>]) -> Vec<Option<f64>> {
    let gain = |p: &Point| {
        let reads = |i: &Input, seq: i64| seq == p.seq || (i.history && seq < p.seq);
        let is_dirty = |i: &Input| dirty[i.track].iter().any(|&seq| reads(i, seq));
        let gain = match p.error {
            // Nothing was made of anything: not as much as the inputs' own nothing.
            0.0 => 0.0,
            error => p.gain.min((error + TINY) / (sound + TINY)),
        };
        (!track.inputs.iter().any(is_dirty)).then_some(gain)
    };
    track.points.iter().map(gain).collect()
}

/// The values that are beyond the floor, and how much of its limit they come to.
///
/// They are if their scan is beyond its limit, or one value is far beyond all sound ones. Then it begins where most of
/// what follows is larger than on any sound run.
fn beyond(values: &[f64], level: &Level) -> (Option<Vec<bool>>, f64) {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let lone = largest / level.limit_of_one();
    let part = (scan(values) / level.limit()).max(lone);
    if part <= 1.0 {
        return (None, part);
    }
    let over = (level.max + TINY).min(level.limit());
    let flags: Vec<bool> = values.iter().map(|&x| x > over).collect();
    let found = stretch(&flags).map(|(from, to)| {
        let within = |(i, flag): (usize, bool)| flag && (from..to).contains(&i);
        flags.into_iter().enumerate().map(within).collect()
    });
    (found, part)
}

impl Entry {
    /// The error of its own (relative L2, independent of that of the inputs) with which the gain would be beyond the
    /// limit.
    pub fn locatable(&self) -> f64 {
        let input = (self.error.median + TINY) / (self.gain.median + TINY);
        let beyond = self.gain.limit() * input;
        (beyond * beyond - self.error.median * self.error.median)
            .max(0.0)
            .sqrt()
    }
}
