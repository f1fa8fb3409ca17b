//! Local errors: what a run makes of the inputs of another one, which was replayed into it.

use crate::{
    compare::{Status, Verdicts},
    floor::scan::{median, scan, stretch},
    judge::Verdict,
    num,
    plan::Key,
    records::Side,
    report::{Labels, Note, RunView, Runs, Worst},
    rounding::{Rounding, Rounds},
};
use bitnet_trace_schema::{Manifest, Replayed};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was replayed in `run`, if it was `from`.
pub fn replayed<'a>(from: &Manifest, run: &'a Manifest) -> Option<&'a Replayed> {
    let replay = run.replay.as_ref()?;
    let same = replay.run == from.run && replay.created_unix_ms == from.created_unix_ms;
    same.then_some(replay)
}

/// Whether every record of the right run was computed from the left one's.
pub fn is_local(left: &Side<'_>, right: &Side<'_>) -> bool {
    replayed(left.manifest, right.manifest)
        .is_some_and(|r| r.at.is_none() && r.skipped == 0 && r.injected > 0)
}

/// What a reader should know of runs into which another one was replayed.
pub(crate) fn notes(left: &Side<'_>, right: &Side<'_>, names: &Labels) -> Vec<Note> {
    let mut notes = Vec::new();
    let sides = [(left, &names.left, right), (right, &names.right, left)];
    for (side, name, other) in sides {
        let Some(replay) = &side.manifest.replay else {
            continue;
        };
        let at = replay
            .at
            .as_ref()
            .map_or_else(|| "at every stage".to_owned(), |at| format!("at \"{at}\""));
        let message = if replayed(other.manifest, side.manifest).is_none() {
            format!(
                "{name} went on with tensors of another run, {}, {at}: it is not what its engine computes by itself",
                replay.run
            )
        } else if is_local(other, side) {
            format!(
                "local errors: {name} was replayed from {} {at}, so each difference was made where it is found, and none is \
                 inherited",
                replay.run
            )
        } else {
            format!(
                "{name} was replayed from {} {at}: there it went on with the tensors of that run, and differences are those \
                 that came up since",
                replay.run
            )
        };
        notes.push(Note {
            kind: "replay",
            message,
        });
    }
    notes
}

/// What `cross` tells: the local error of each stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalReport {
    /// `ok`, or `diverged` where a stage is further off than its rounding explains.
    pub status: Status,
    /// The run that was replayed.
    pub left: String,
    /// The run that it was replayed into.
    pub right: String,
    /// The first record, in causal order, that is beyond what rounding explains.
    pub first: Option<Key>,
    /// Every stage that both runs have, in causal order.
    pub stages: Vec<LocalStage>,
    /// What was replayed.
    pub replay: Replayed,
    /// The runs.
    pub runs: Runs,
    /// What a reader should know.
    pub notes: Vec<Note>,
}

/// The local error of one stage over layers and positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalStage {
    /// The stage.
    pub stage: String,
    /// Records that were compared.
    pub records: u64,
    /// Those of the same bytes.
    pub identical: u64,
    /// Median relative L2.
    #[serde(serialize_with = "num::json")]
    pub median: f64,
    /// What nine in ten do not exceed.
    #[serde(serialize_with = "num::json")]
    pub p90: f64,
    /// The record that is furthest off; none where all are identical.
    pub worst: Option<Worst>,
    /// What rounds the stage's numbers, and how far that explains.
    #[serde(flatten)]
    pub rounding: Rounding,
    /// What was held against the limit: the worst record; where medians are judged, the largest of a layer, or of a few
    /// positions of it that are beyond any chance.
    #[serde(serialize_with = "num::json")]
    pub judged: f64,
    /// The layer of that median; none where no medians are judged.
    pub layer: Option<i32>,
    /// The verdict.
    pub verdict: LocalVerdict,
}

/// Whether a stage's local error is its rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalVerdict {
    /// It is.
    Rounding,
    /// It is larger.
    Beyond,
    /// What rounding would be is not known.
    Unknown,
}

impl LocalReport {
    /// The report of the verdicts on a run and one that it was replayed into; none where it was not.
    pub fn of(verdicts: &Verdicts<'_>) -> Option<Self> {
        let (left, right) = (verdicts.left, verdicts.right);
        let manifests = [left.manifest, right.manifest];
        let replay = replayed(left.manifest, right.manifest)?.clone();
        let mut by_stage: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
        for (i, step) in verdicts.plan.iter().enumerate() {
            if verdicts.outcomes[i].rel_l2().is_some() {
                let stage = step.stage.as_str();
                let rank = verdicts.graph.rank(stage).unwrap_or(usize::MAX);
                by_stage.entry((rank, stage)).or_default().push(i);
            }
        }
        let mut first = None;
        let mut stages = Vec::new();
        for ((_, stage), steps) in by_stage {
            let rounding = Rounding::of(stage, manifests);
            let begins = begins(verdicts, &steps, rounding);
            first = first.into_iter().chain(begins).min();
            stages.push(summary(verdicts, stage, &steps, rounding));
        }
        let beyond = stages.iter().any(|s| s.verdict == LocalVerdict::Beyond);
        Some(Self {
            status: if beyond { Status::Diverged } else { Status::Ok },
            left: left.name.to_owned(),
            right: right.name.to_owned(),
            first: first.map(|step| verdicts.key(step)),
            stages,
            replay,
            runs: Runs {
                left: RunView::of(left),
                right: RunView::of(right),
            },
            notes: Vec::new(),
        })
    }
}

/// The errors of some steps. A NaN of either sign is the largest of all.
fn errors(verdicts: &Verdicts<'_>, steps: &[usize]) -> Vec<f64> {
    let error = |&i: &usize| verdicts.outcomes[i].rel_l2().filter(|error| !error.is_nan());
    let errors = steps.iter().map(error);
    errors.map(|error| error.unwrap_or(f64::NAN)).collect()
}

/// The steps of one stage, by layer.
fn by_layer(verdicts: &Verdicts<'_>, steps: &[usize]) -> BTreeMap<i32, Vec<usize>> {
    let mut layers: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for &i in steps {
        layers.entry(verdicts.key(i).layer).or_default().push(i);
    }
    layers
}

/// The first step of a stage that its rounding does not explain. Where medians are judged, single records are beyond the
/// limit by chance: there it is where most of what follows is beyond it.
fn begins(verdicts: &Verdicts<'_>, steps: &[usize], rounding: Rounding) -> Option<usize> {
    let of_layer = |steps: Vec<usize>| {
        let errors = errors(verdicts, &steps);
        rounding.begins(&errors).map(|at| steps[at])
    };
    by_layer(verdicts, steps).into_values().filter_map(of_layer).min()
}

impl Rounding {
    /// What of a layer's errors is held against the limit. What is not finite is no rounding, however rare.
    fn judged(self, errors: &[f64]) -> f64 {
        let worst = errors.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0);
        match self.limit_of_few() {
            Some(limit) if worst.is_finite() => {
                let few = scan(errors);
                let all = median(&mut errors.to_vec()).unwrap_or(0.0);
                if few > limit { few } else { all }
            }
            _ => worst,
        }
    }

    /// Where errors in causal order begin to be beyond the limit.
    fn begins(self, errors: &[f64]) -> Option<usize> {
        let limit = self.limit?;
        let is_beyond = |limit: f64| move |error: &f64| error.is_nan() || *error > limit;
        if !is_beyond(limit)(&self.judged(errors)) {
            return None;
        }
        let Some(few) = self.limit_of_few() else {
            return errors.iter().position(is_beyond(limit));
        };
        // Where few are off, a record beside them that is beyond the lower limit may be so by chance.
        let all = median(&mut errors.to_vec()).is_some_and(|median| is_beyond(limit)(&median));
        let limit = if all { limit } else { few };
        let beyond: Vec<bool> = errors.iter().map(is_beyond(limit)).collect();
        stretch(&beyond).map(|(from, _)| from)
    }
}

fn summary(verdicts: &Verdicts<'_>, stage: &str, steps: &[usize], rounding: Rounding) -> LocalStage {
    let mut all = errors(verdicts, steps);
    all.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (q * all.len() as f64).ceil() as usize;
        all.get(at.max(1) - 1).copied().unwrap_or(0.0)
    };
    let layers = by_layer(verdicts, steps);
    let judged = layers
        .iter()
        .map(|(&layer, steps)| (rounding.judged(&errors(verdicts, steps)), layer));
    let most = judged.max_by(|a, b| a.0.total_cmp(&b.0));
    let (judged, layer) = most.map_or((0.0, None), |(judged, layer)| (judged, Some(layer)));
    let layer = layer.filter(|_| rounding.is_of_medians());
    let verdict = match rounding.limit {
        None => LocalVerdict::Unknown,
        // a NaN is beyond
        Some(limit) if judged <= limit => LocalVerdict::Rounding,
        Some(_) => LocalVerdict::Beyond,
    };
    let identical = |&&i: &&usize| verdicts.outcomes[i].verdict == Verdict::Identical;
    LocalStage {
        stage: stage.to_owned(),
        records: all.len() as u64,
        identical: steps.iter().filter(identical).count() as u64,
        median: quantile(0.5),
        p90: quantile(0.9),
        worst: Worst::among(verdicts, steps.iter().copied()).filter(|w| w.rel_l2 != 0.0),
        rounding,
        judged,
        layer,
        verdict,
    }
}

impl Rounds {
    /// In a few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Float => "f32",
            Self::Activations => "8-bit inputs",
            Self::HalfCache => "16-bit cache",
            Self::Unknown => "not known",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::{Options, verdicts},
        first::FirstReport,
        render,
        testing::{Memory, manifest},
    };
    use bitnet_trace_schema::{Model, StageGraph};

    fn runs(error: f32) -> (Memory, Memory) {
        let (mut a, mut b) = (Memory::default(), Memory::default());
        for seq in 0..4 {
            for layer in 0..2 {
                for stage in ["attn_norm", "q_proj", "layer_out"] {
                    let off = match (stage, layer) {
                        ("q_proj", _) => 1e-3,
                        ("attn_norm", 1) => error,
                        _ => 0.0,
                    };
                    a.push(seq, layer, stage, &[1.0, 2.0]);
                    b.push(seq, layer, stage, &[1.0 + off, 2.0 + 2.0 * off]);
                }
            }
        }
        (a, b)
    }

    fn manifests() -> [Manifest; 2] {
        let (mut a, mut b) = (manifest("a", "x", 4, &[1; 4]), manifest("b", "y", 4, &[1; 4]));
        a.model = Some(Model {
            weight_types: [("Q4_1".to_owned(), 1)].into(),
            ..Model::default()
        });
        b.replay = Some(Replayed {
            run: "a".into(),
            injected: 24,
            ..Replayed::default()
        });
        [a, b]
    }

    #[test]
    fn a_stage_is_beyond_rounding_where_its_own_error_is() {
        let (graph, options, manifests) = (StageGraph::builtin(), Options::default(), manifests());
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../schemas/cross.schema.json")).expect("JSON");
        let schema = jsonschema::validator_for(&schema).expect("a schema");
        for (error, beyond) in [(1e-7f32, false), (1e-5, true)] {
            let (a, b) = runs(error);
            let (left, right) = (a.side(&manifests[0]), b.side(&manifests[1]));
            let pairs = verdicts(&left, &right, &graph, &options, &|_, _| ()).expect("compared");
            let report = LocalReport::of(&pairs).expect("replayed");
            assert_eq!(report.status == Status::Diverged, beyond);
            let first = report
                .first
                .as_ref()
                .map(|key| (key.seq, key.layer, key.stage.as_str()));
            assert_eq!(first, beyond.then_some((0, 1, "attn_norm")));
            let [norm, product, out] = &report.stages[..] else {
                panic!("{report:?}")
            };
            assert_eq!(norm.verdict == LocalVerdict::Beyond, beyond, "{norm:?}");
            assert_eq!(
                (product.verdict, product.layer.is_some()),
                (LocalVerdict::Rounding, true)
            );
            assert_eq!((out.identical, out.worst.is_none(), out.judged), (8, true, 0.0));
            let json = serde_json::to_value(&report).expect("JSON");
            assert!(schema.is_valid(&json), "{json:#}");
            let text = anstream::adapter::strip_str(&render::cross(&report)).to_string();
            assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
            assert_eq!(text.contains("beyond rounding in attn_norm"), beyond, "{text}");
        }
    }

    #[test]
    fn a_product_is_off_from_where_most_records_are_and_never_for_one_that_is_off_by_chance() {
        let product = Rounding {
            rounds: Rounds::Activations,
            limit: Some(crate::rounding::ACTIVATIONS),
        };
        let chance = [1e-2, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3];
        assert_eq!((product.judged(&chance), product.begins(&chance)), (1e-3, None));
        let later = [1e-2, 1e-3, 1e-3, 4e-3, 4e-3, 4e-3, 4e-3];
        assert_eq!((product.judged(&later), product.begins(&later)), (4e-3, Some(3)));
        let decoding = [1e-2, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2, 3e-2, 3e-2, 4e-2];
        assert_eq!(
            (product.judged(&decoding), product.begins(&decoding)),
            (3e-2, Some(7))
        );
        let nan = [1e-3, 1e-3, f64::NAN, 1e-3];
        assert_eq!(
            (product.judged(&nan).is_nan(), product.begins(&nan)),
            (true, Some(2))
        );
        let float = Rounding {
            rounds: Rounds::Float,
            limit: Some(crate::rounding::FLOAT),
        };
        assert_eq!(float.begins(&[1e-7, 3e-6, 1e-7]), Some(1));
    }

    #[test]
    fn every_difference_of_a_replayed_run_is_an_origin_and_of_another_run_none_is_local() {
        let (graph, options, mut manifests) = (StageGraph::builtin(), Options::default(), manifests());
        let (a, b) = runs(1e-3);
        let origins = |manifests: &[Manifest; 2]| {
            let (left, right) = (a.side(&manifests[0]), b.side(&manifests[1]));
            let pairs = verdicts(&left, &right, &graph, &options, &|_, _| ()).expect("compared");
            let comparison = pairs.comparison();
            let report = FirstReport::of(&comparison);
            let notes = report.common.notes.iter().filter(|n| n.kind == "replay");
            let notes: Vec<_> = notes.map(|n| n.message.clone()).collect();
            (report.origins.len(), notes, LocalReport::of(&pairs).is_some())
        };
        let (places, notes, local) = origins(&manifests);
        assert_eq!(
            (places, local),
            (3, true),
            "q_proj of both layers, attn_norm of one"
        );
        assert!(
            notes[0].starts_with("local errors: b was replayed from a at every stage"),
            "{notes:?}"
        );
        if let Some(replay) = &mut manifests[1].replay {
            replay.created_unix_ms = 7;
        }
        let (places, notes, local) = origins(&manifests);
        assert!(places < 3 && !local, "another run of that name");
        assert!(
            notes[0].contains("went on with tensors of another run"),
            "{notes:?}"
        );
    }
}
