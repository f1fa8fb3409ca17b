//! Measures a [`Floor`] on runs that are declared sound.

use super::{ENOUGH_PROMPTS, Entry, Floor, Level, Source, VERSION, scan::scan, tracks::tracks};
use crate::{
    Error,
    compare::{Options, verdicts},
    judge::Verdict,
    num,
    records::Side,
    report::Note,
};
use bitnet_trace_schema::StageGraph;
use std::collections::{BTreeMap, HashMap};

/// A floor, and what its user should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The floor.
    pub floor: Floor,
    /// Notes, most important first.
    pub notes: Vec<Note>,
}

/// What was measured of a stage of a layer.
#[derive(Default)]
struct Samples {
    /// Largest scan of each prompt.
    error_scans: BTreeMap<usize, f64>,
    gain_scans: BTreeMap<usize, f64>,
    errors: Vec<f64>,
    gains: Vec<f64>,
}

/// Compares every two runs of a prompt (that is, of the same prompt token ids), and takes what they differ by for the
/// floor. `progress` is called with the pairs done and all pairs.
///
/// # Errors
/// [`Error::NoPairs`] where no two runs are of one prompt, and those of [`verdicts`].
pub fn calibrate(
    runs: &[Side<'_>],
    graph: &StageGraph,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Calibration, Error> {
    let prompts = prompts(runs);
    let mut notes = Vec::new();
    let mut note = |kind, message| notes.push(Note { kind, message });
    for alone in prompts.iter().filter(|runs| runs.len() == 1) {
        let name = runs[alone[0]].name;
        note(
            "alone",
            format!("{name} is the only run of its prompt and was left out"),
        );
    }
    let groups: Vec<&Vec<usize>> = prompts.iter().filter(|runs| runs.len() > 1).collect();
    let total: usize = groups.iter().map(|g| g.len() * (g.len() - 1) / 2).sum();
    if total == 0 {
        return Err(Error::NoPairs { runs: runs.len() });
    }
    let mut samples: HashMap<(i32, String), Samples> = HashMap::new();
    let (mut done, mut unusable) = (0, 0);
    for (prompt, group) in groups.iter().enumerate() {
        for (i, &left) in group.iter().enumerate() {
            for &right in &group[i + 1..] {
                let pairs = verdicts(&runs[left], &runs[right], graph, options, &|_, _| ())?;
                let odd = pairs.outcomes.iter().filter(|o| {
                    o.verdict == Verdict::Incomparable
                        || (o.verdict.is_compared() && o.rel_l2().is_none_or(|e| !e.is_finite()))
                });
                unusable += odd.count() as u64;
                for track in tracks(&pairs.plan, &pairs.outcomes, graph) {
                    let of = samples.entry((track.layer, track.stage.to_owned())).or_default();
                    let (errors, gains) = (track.errors(), track.gains());
                    raise(&mut of.error_scans, prompt, scan(&errors));
                    raise(&mut of.gain_scans, prompt, scan(&gains));
                    of.errors.extend(errors);
                    of.gains.extend(gains);
                }
                done += 1;
                progress(done, total);
            }
        }
    }
    if groups.len() < ENOUGH_PROMPTS {
        let few = num::plural(groups.len() as u64, "prompt");
        note(
            "few_prompts",
            format!(
                "{few} only: below {ENOUGH_PROMPTS}, expect false alarms; record more prompts with each engine"
            ),
        );
    }
    if unusable > 0 {
        let records = num::plural(unusable, "pair");
        note(
            "unusable",
            format!(
                "{records} of records could not be compared, or held NaN or infinity, and say nothing here"
            ),
        );
    }
    let sources = groups.iter().enumerate().flat_map(|(prompt, group)| {
        let of = move |&run: &usize| Source::of(runs[run].name, prompt, runs[run].manifest);
        group.iter().map(of)
    });
    let sources: Vec<Source> = sources.collect();
    let mut models: Vec<_> = sources.iter().filter_map(|s| s.model.as_ref()).collect();
    models.sort();
    models.dedup();
    if models.len() > 1 {
        let message = "the runs are of different model files: the floor holds what these differ by, too";
        note("model", message.into());
    }
    Ok(Calibration {
        floor: Floor {
            version: VERSION,
            prompts: groups.len(),
            pairs: total,
            runs: sources,
            stages: entries(samples, graph),
        },
        notes,
    })
}

fn raise(scans: &mut BTreeMap<usize, f64>, prompt: usize, scan: f64) {
    let largest = scans.entry(prompt).or_default();
    *largest = largest.max(scan);
}

/// Request, and the ids of its prompt.
type Prompt = (i32, Vec<Option<i32>>);

/// Runs by prompt, in the order of their first runs. A prompt is its token ids; where its length is not known, all ids.
fn prompts(runs: &[Side<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Vec<Prompt>, Vec<usize>)> = Vec::new();
    for (run, side) in runs.iter().enumerate() {
        let manifest = side.manifest;
        let prompt = |s: &bitnet_trace_schema::Sequence| {
            let known = manifest.prompt_tokens.filter(|_| s.request == 0);
            let len = known.and_then(|n| usize::try_from(n).ok()).unwrap_or(s.ids.len());
            (s.request, s.ids[..len.min(s.ids.len())].to_vec())
        };
        let ids: Vec<_> = manifest.sequences.iter().map(prompt).collect();
        match groups.iter_mut().find(|(known, _)| *known == ids) {
            Some((_, runs)) => runs.push(run),
            None => groups.push((ids, vec![run])),
        }
    }
    groups.into_iter().map(|(_, runs)| runs).collect()
}

/// In the order of layers, then of the vocabulary.
fn entries(samples: HashMap<(i32, String), Samples>, graph: &StageGraph) -> Vec<Entry> {
    let entry = |((layer, stage), mut of): ((i32, String), Samples)| {
        let scans = |of: BTreeMap<usize, f64>| of.into_values().collect::<Vec<_>>();
        Some(Entry {
            prompts: of.error_scans.len(),
            records: of.errors.len() as u64,
            error: Level::of(&scans(of.error_scans), &mut of.errors)?,
            gain: Level::of(&scans(of.gain_scans), &mut of.gains)?,
            stage,
            layer,
        })
    };
    let mut entries: Vec<Entry> = samples.into_iter().filter_map(entry).collect();
    entries.sort_by_cached_key(|e| {
        let rank = graph.rank(&e.stage).unwrap_or(usize::MAX);
        (graph.place(&e.stage, e.layer), e.layer, rank, e.stage.clone())
    });
    entries
}
