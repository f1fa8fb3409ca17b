//! The fault corpus: every class of fault that can be planted in the Rust engine, at several layers and positions, on a
//! real model, against llama.cpp. Is each one found, and at its exact place?

mod cases;
mod report;

use crate::{
    EXIT_MATCH,
    lab::{self, CALIBRATION, Engine, Feed, Key, Lab, PROMPTS},
};
use anyhow::{Context, Result, ensure};
use bitnet_diff::floor::{Entry, Floor, scan::median};
use bitnet_models::{FAULTS, Fault};
use bitnet_trace_store::Filter;
use cases::{Case, cases};
use report::Report;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A fault that should have been found was not, or not at its place.
const EXIT_MISSED: u8 = 1;

/// A fault that changes its own record by less than this relative L2, about what rounding makes of a record between two
/// right engines on F32 weights at the worst, is an equivalent mutant: no comparison of two engines can show it.
const EQUIVALENT: f64 = 1e-5;

/// Layers of SmolLM2-135M.
const LAYERS: usize = 30;

/// What is planted, in what, and how it is judged.
#[derive(clap::Args)]
pub struct Args {
    /// The weights of SmolLM2-135M; both kinds when not given
    #[arg(long, value_enum)]
    model: Vec<Weights>,
    /// Only faults of this class; can be given several times
    #[arg(long, value_name = "NAME", value_parser = class)]
    class: Vec<&'static str>,
    /// Only faults in one layer or in all, from the first position
    #[arg(long)]
    short: bool,
    /// Judge by this floor, in place of one that is measured on other prompts
    #[arg(long, value_name = "FILE", conflicts_with = "rel_l2")]
    floor: Option<PathBuf>,
    /// Judge by this relative L2, in place of a floor
    #[arg(long, value_name = "X")]
    rel_l2: Option<String>,
    /// Keep the runs here while they are needed, at most 600 MB [default: target]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write the table into this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Weights {
    F32,
    Q4,
}

impl Weights {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Q4 => "Q4_1",
        }
    }
}

fn class(name: &str) -> Result<&'static str, String> {
    let found = FAULTS.iter().find(|class| class.name == name);
    found.map(|class| class.name).ok_or_else(|| {
        let names: Vec<_> = FAULTS.iter().map(|class| class.name).collect();
        format!("it is one of {}", names.join(", "))
    })
}

/// Where a fault shows first, by comparison with the same engine without it.
struct Shown {
    key: Key,
    /// By how much: relative L2.
    size: f64,
    /// The median of that over the positions from there on.
    median: f64,
    /// How far the engines are apart there without it.
    noise: f64,
    /// The least error of its own that the floor could locate in that stage of that layer.
    locatable: Option<f64>,
}

/// What became of one fault.
struct Outcome {
    case: Case,
    /// `None` for an equivalent mutant.
    shown: Option<Shown>,
    /// The exit code of `first`, and what it names.
    code: i32,
    named: Option<Key>,
}

impl Outcome {
    fn is_found(&self) -> bool {
        self.code == 1
    }

    /// Whether it is smaller than what the floor says that it can locate at the fault's place.
    fn is_below_the_floor(&self) -> bool {
        let shown = self.shown.as_ref();
        shown.is_some_and(|shown| shown.locatable.is_some_and(|least| shown.median < least))
    }

    fn is_exact(&self) -> bool {
        let shown = self.shown.as_ref().map(|shown| &shown.key);
        self.is_found() && self.named.is_some() && self.named.as_ref() == shown
    }
}

/// Plants, judges and tells. Returns the exit code.
///
/// # Errors
/// Where something of the set-up is missing, a program fails, or the engines differ without any fault.
pub fn run(args: &Args) -> Result<u8> {
    let models = match args.model.as_slice() {
        [] => &[Weights::F32, Weights::Q4],
        given => given,
    };
    let mut reports = Vec::new();
    for &weights in models {
        reports.push(try_all(weights, args)?);
    }
    lab::publish(&report::document(&reports), args.write.as_deref())?;
    Ok(match reports.iter().all(Report::reached) {
        true => EXIT_MATCH,
        false => EXIT_MISSED,
    })
}

/// The faults of one model.
fn try_all(weights: Weights, args: &Args) -> Result<Report> {
    let lab = Lab::new(args.into.as_deref())?;
    let model = lab::smollm2(&weights.name().to_lowercase())?;
    let prompt = PROMPTS[CALIBRATION];
    let file = match (&args.rel_l2, &args.floor) {
        (Some(_), _) => None,
        (None, Some(floor)) => Some(floor.clone()),
        (None, None) => Some(measured_floor(&lab, &model)?),
    };
    let judge = match (&args.rel_l2, &file) {
        (Some(limit), _) => ["--rel-l2".to_owned(), limit.clone()],
        (None, file) => [
            "--floor".to_owned(),
            file.iter().map(|f| f.display().to_string()).collect(),
        ],
    };
    let judge = judge.each_ref().map(String::as_str);
    let floor =
        file.map(|file| Floor::from_toml(&std::fs::read_to_string(file)?).map_err(anyhow::Error::from));
    let floor = floor.transpose()?;

    lab.record("reference", Engine::LlamaCpp, &model, &Feed::Text(prompt), &[])?;
    let ids = lab.ids("reference")?;
    lab.record("sound", Engine::Rust, &model, &Feed::Ids(&ids), &[])?;
    let (code, control) = lab.ask("first", &["reference", "sound"], &judge)?;
    ensure!(code == 0, "without a fault the engines should match: {control:#}");

    let cases: Vec<Case> = cases(LAYERS, ids.prompt_len)
        .into_iter()
        .filter(|case| args.class.is_empty() || args.class.contains(&case.fault.class.name))
        .filter(|case| !args.short || case.fault.from == 0)
        .collect();
    let bar = lab::progress(cases.len());
    let mut outcomes = Vec::new();
    for case in cases {
        bar.set_message(case.fault.to_string());
        let spec = case.fault.to_string();
        lab.record(
            "faulty",
            Engine::Rust,
            &model,
            &Feed::Ids(&ids),
            &["--fault", &spec],
        )
        .with_context(|| spec.clone())?;
        let (code, first) = lab.ask("first", &["reference", "faulty"], &judge)?;
        ensure!(code != 2, "{spec}: {first:#}");
        outcomes.push(Outcome {
            shown: shown(&lab, &case.fault, floor.as_ref())?,
            case,
            code,
            named: key(&first["first_divergence"]),
        });
        lab.remove("faulty")?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Report {
        weights,
        prompt_len: ids.prompt_len,
        judge: match (&args.rel_l2, &args.floor) {
            (Some(limit), _) => format!("relative L2 <= {limit}"),
            (None, Some(floor)) => format!("the floor {}", floor.display()),
            (None, None) => format!("a floor measured on {CALIBRATION} other prompts"),
        },
        outcomes,
    })
}

/// The floor of both engines as they are recorded here, from other prompts.
fn measured_floor(lab: &Lab, model: &Path) -> Result<PathBuf> {
    let mut runs = Vec::new();
    for (i, prompt) in PROMPTS[..CALIBRATION].iter().enumerate() {
        let names = [format!("cpp-{i}"), format!("rust-{i}")];
        lab.record(&names[0], Engine::LlamaCpp, model, &Feed::Text(prompt), &[])?;
        let ids = lab.ids(&names[0])?;
        lab.record(&names[1], Engine::Rust, model, &Feed::Ids(&ids), &[])?;
        runs.extend(names);
    }
    let names: Vec<&str> = runs.iter().map(String::as_str).collect();
    let floor = lab.calibrate(&names)?;
    names.iter().try_for_each(|run| lab.remove(run))?;
    Ok(floor)
}

/// The first record at which a fault changes what the engine computes.
fn shown(lab: &Lab, fault: &Fault, floor: Option<&Floor>) -> Result<Option<Shown>> {
    let (seq, layer, stage) = fault.first_shown();
    let of = |key: &Key| Filter {
        seq: Some(key.0..=key.0),
        layer: Some(key.1..=key.1),
        stage: Some(key.2.clone()),
        ..Filter::default()
    };
    let own = Filter {
        seq: Some(seq..=i64::MAX),
        layer: (layer < 0 || fault.layer.is_some()).then_some(layer..=layer),
        stage: Some(stage.to_owned()),
        ..Filter::default()
    };
    let changed = lab.distances("sound", "faulty", &own)?;
    let Some(first) = changed.iter().position(|(_, size)| *size > EQUIVALENT) else {
        return Ok(None);
    };
    let (key, size) = changed[first].clone();
    let of_layer = changed[first..].iter().filter(|(other, _)| other.1 == key.1);
    let mut sizes: Vec<f64> = of_layer.map(|(_, size)| *size).collect();
    let noise = lab.distances("reference", "sound", &of(&key))?;
    let noise = noise.first().context("the reference does not have the record")?.1;
    let mut entries = floor.iter().flat_map(|floor| &floor.stages);
    let entry = entries.find(|entry| (entry.layer, &entry.stage) == (key.1, &key.2));
    Ok(Some(Shown {
        size,
        median: median(&mut sizes).unwrap_or(size),
        noise,
        locatable: entry.map(Entry::locatable),
        key,
    }))
}

/// What a `first` document names.
fn key(divergence: &Value) -> Option<Key> {
    Some((
        divergence["seq"].as_i64()?,
        i32::try_from(divergence["layer"].as_i64()?).ok()?,
        divergence["stage"].as_str()?.to_owned(),
    ))
}
