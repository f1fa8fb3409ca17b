//! What a reader of a verdict should know of the two runs.

use crate::{
    cross,
    ids::TokenIds,
    num,
    records::Side,
    report::{Labels, Note},
    tolerance::Tolerance,
};
use bitnet_trace_schema::{DType, Manifest, Model, Observation};

/// Weight types whose products do not round the activations.
const FLOAT_TYPES: [&str; 4] = ["F32", "F16", "BF16", "F64"];

/// The notes, most important first.
pub fn notes(left: &Side<'_>, right: &Side<'_>, ids: &TokenIds, tolerance: &Tolerance) -> Vec<Note> {
    let (a, b) = (left.manifest, right.manifest);
    let names = Labels::new(None, left.name, right.name);
    let mut notes = Vec::new();
    let mut add = |kind, message| notes.push(Note { kind, message });
    for (side, name) in [(left, &names.left), (right, &names.right)] {
        if let Some(fault) = &side.manifest.settings.fault {
            add(
                "fault",
                format!("{name} was recorded with a planted fault: {fault}"),
            );
        }
        if let Some(Note { kind, message }) = incomplete(side, name) {
            add(kind, message);
        }
        if let Some(imported) = &side.manifest.imported {
            let files = num::plural(imported.files.len() as u64, ".trace file");
            add(
                "imported",
                format!("{name} comes from {files}, without values: compared by hash and rms only"),
            );
        }
        if side.manifest.observation.positions_counted {
            let message =
                format!("{name}: positions were counted by the recorder, since the graph did not show them");
            add("positions", message);
        }
        let packed = packed(side);
        if !packed.is_empty() {
            let packed = packed.join(", ");
            let message =
                format!("{name} holds {packed}: where the bytes differ, dequantised values are compared");
            add("packed", message);
        }
        for sequence in side.manifest.sequences.iter().filter(|s| s.rewrites > 0) {
            let times = num::plural(sequence.rewrites, "position");
            add(
                "rewrites",
                format!(
                    "{name}: {times} of request {} were given another token id than before",
                    sequence.request
                ),
            );
        }
    }
    for Note { kind, message } in cross::notes(left, right, &names) {
        add(kind, message);
    }
    match (ids.left_known, ids.right_known) {
        (true, true) => {
            let unknown = unknown_ids(left, right) as u64;
            if unknown > 0 {
                let message = format!(
                    "the token ids of {} are not known on both sides, so it is not known that both runs saw the same tokens there",
                    num::plural(unknown, "position")
                );
                add("token_ids", message);
            }
        }
        (false, false) => add(
            "token_ids",
            "neither run has token ids, so it is not known that both saw the same tokens".into(),
        ),
        (known_left, _) => {
            let name = if known_left { &names.right } else { &names.left };
            add(
                "token_ids",
                format!("{name} has no token ids, so it is not known that both runs saw the same tokens"),
            );
        }
    }
    for d in &ids.differences {
        let message = format!(
            "token ids differ from seq={} on ({} against {}): later positions were not compared",
            d.seq, d.left, d.right
        );
        add("token_ids", message);
    }
    if let Some(message) = models(a, b) {
        add("model", message);
    }
    let quantised = quantised(a.model.as_ref()).or_else(|| quantised(b.model.as_ref()));
    if let Some(types) = quantised.filter(|_| tolerance.is_builtin()) {
        let message = format!(
            "the weights are quantised ({types}) and the default tolerance is for F32 weights: two right engines differ here by 1e-2 or more"
        );
        add("quantised", message);
    }
    for (what, x, y) in settings(a, b) {
        add(
            "settings",
            format!("{what}: {} {x}, {} {y}", names.left, names.right),
        );
    }
    if tolerance.sees_no_scale() {
        let message =
            "the tolerance limits the cosine alone, which does not see a wrong scale; limit rel_l2 beside it";
        add("cosine", message.into());
    }
    if same_run(left, right) {
        add("same_run", "both sides are the same run".into());
    }
    notes
}

/// How recording may have touched a run, in words.
pub(crate) fn touched(observation: &Observation) -> Vec<&'static str> {
    let facts = [
        (
            observation.fusion_may_differ == Some(true),
            "recording had operators computed one by one, which may keep the engine from fusing them",
        ),
        (
            observation.threads_may_differ == Some(true),
            "recording may have changed how many threads computed",
        ),
        (
            observation.positions_counted,
            "positions were counted by the recorder, since the graph did not show them",
        ),
    ];
    facts
        .into_iter()
        .filter_map(|(is_so, text)| is_so.then_some(text))
        .collect()
}

/// For runs that diverge: where recording itself may have changed the numbers.
pub(crate) fn observation(left: &Side<'_>, right: &Side<'_>) -> Vec<Note> {
    let names = Labels::new(None, left.name, right.name);
    let mut notes = Vec::new();
    for (side, name) in [(left, &names.left), (right, &names.right)] {
        let computed = Observation {
            positions_counted: false, // always noted
            ..side.manifest.observation.clone()
        };
        notes.extend(touched(&computed).into_iter().map(|fact| Note {
            kind: "observation",
            message: format!("{name}: {fact}; `bitnet-diff doctor --observer` tells whether it matters"),
        }));
    }
    notes
}

/// The packed dtypes of a side's records.
fn packed(side: &Side<'_>) -> Vec<&'static str> {
    let dtypes = side.records.dtypes().into_iter();
    dtypes.filter(|d| d.is_packed()).map(DType::name).collect()
}

/// The note on an incomplete run.
pub(crate) fn incomplete(side: &Side<'_>, name: &str) -> Option<Note> {
    (!side.incomplete.is_empty()).then(|| Note {
        kind: "incomplete",
        message: format!("{name} is incomplete: {}", side.incomplete.join("; ")),
    })
}

/// Positions that both runs have records of, and not both an id.
fn unknown_ids(left: &Side<'_>, right: &Side<'_>) -> usize {
    let known = |side: &Side<'_>, request: i32, seq: i64| {
        let sequence = side.manifest.sequences.iter().find(|s| s.request == request);
        let id = sequence.and_then(|s| s.ids.get(usize::try_from(seq).ok()?));
        matches!(id, Some(Some(_)))
    };
    let of_right = right.records.positions();
    let both = left
        .records
        .positions()
        .into_iter()
        .filter(|at| of_right.contains(at));
    both.filter(|&(request, seq)| !known(left, request, seq) || !known(right, request, seq))
        .count()
}

/// Whether both sides are one directory, by whatever path.
fn same_run(left: &Side<'_>, right: &Side<'_>) -> bool {
    let real = |side: &Side<'_>| std::fs::canonicalize(&side.path).ok();
    let same_path = || left.path == right.path || real(left).is_some_and(|path| Some(path) == real(right));
    left.name == right.name && same_path()
}

fn models(a: &Manifest, b: &Manifest) -> Option<String> {
    let (a, b) = (a.model.as_ref()?, b.model.as_ref()?);
    match (&a.blake3, &b.blake3) {
        (Some(x), Some(y)) if x != y => {
            let short = |hash: &str| hash.chars().take(8).collect::<String>();
            Some(format!(
                "the model files differ: {}... ({}) and {}... ({})",
                short(x),
                a.path,
                short(y),
                b.path
            ))
        }
        _ => None,
    }
}

fn quantised(model: Option<&Model>) -> Option<String> {
    let types = model?.weight_types.keys();
    let quantised: Vec<&str> = types
        .map(String::as_str)
        .filter(|t| !FLOAT_TYPES.contains(t))
        .collect();
    (!quantised.is_empty()).then(|| quantised.join(", "))
}

/// Settings that change an engine's numbers and that both runs tell differently.
fn settings(a: &Manifest, b: &Manifest) -> Vec<(&'static str, String, String)> {
    let (a, b) = (&a.settings, &b.settings);
    let mut found = Vec::new();
    let mut compare = |what, x: Option<String>, y: Option<String>| {
        if let (Some(x), Some(y)) = (x, y)
            && x != y
        {
            found.push((what, x, y));
        }
    };
    let text = |x: Option<u32>| x.map(|x| x.to_string());
    let on = |x: Option<bool>| x.map(|x| if x { "on" } else { "off" }.to_owned());
    compare("threads", text(a.threads), text(b.threads));
    compare("KV cache type", a.kv_type.clone(), b.kv_type.clone());
    compare("flash attention", on(a.flash_attention), on(b.flash_attention));
    found
}
