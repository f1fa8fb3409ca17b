//! The fault corpus: every class of fault that can be planted in the Rust engine, at several layers and positions, on real
//! models, against a C++ engine. Is each one found, at its exact place, and by which rule?

mod cases;
mod report;
mod rules;

use crate::{
    EXIT_MATCH,
    lab::{self, CALIBRATION, Engine, Feed, Key, Lab, PROMPTS},
    models::{self, MODELS, Model},
};
use anyhow::{Context, Result, ensure};
use bitnet_diff::floor::{Entry, Floor, scan::median};
use bitnet_models::{FAULTS, Fault};
use bitnet_referee::Activations;
use bitnet_trace_store::Filter;
use cases::{Case, cases};
use report::Report;
use rules::{Audited, Judge, Rule, Told};
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf};

/// A fault that should have been found was not, or not at its place.
const EXIT_MISSED: u8 = 1;

/// What is planted, in what, and how it is judged.
#[derive(clap::Args)]
pub struct Args {
    /// Only this model; can be given several times
    #[arg(long, value_name = "NAME", value_parser = MODELS.map(|model| model.name))]
    model: Vec<String>,
    /// Only faults of this class; can be given several times
    #[arg(long, value_name = "NAME", value_parser = class)]
    class: Vec<&'static str>,
    /// Only faults in one layer or in all, from the first position, and with no drawn numbers
    #[arg(long)]
    short: bool,
    /// Decides the numbers that are drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Have `first` judge by this floor, in place of one that is measured on other prompts
    #[arg(long, value_name = "FILE", conflicts_with = "rel_l2")]
    floor: Option<PathBuf>,
    /// Have `first` judge by this relative L2 alone, in place of a floor and of the records' own inputs
    #[arg(long, value_name = "X")]
    rel_l2: Option<String>,
    /// Keep the runs here while they are needed, at most 600 MB [default: target]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write the table into this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
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
    /// How far the faulty run's record is from the exact result, and how far rounding explains.
    local: Option<(f64, f64)>,
}

/// What became of one fault.
struct Outcome {
    case: Case,
    /// `None` for an equivalent mutant.
    shown: Option<Shown>,
    /// What each rule said of it.
    told: Vec<(Rule, Told)>,
}

impl Outcome {
    fn told(&self, rule: Rule) -> Option<&Told> {
        self.told.iter().find(|(of, _)| *of == rule).map(|(_, told)| told)
    }

    fn is_found(&self, rule: Rule) -> bool {
        self.told(rule).is_some_and(|told| told.found)
    }

    /// Whether it is smaller than what the floor says that it can locate at the fault's place.
    fn is_below_the_floor(&self) -> bool {
        let shown = self.shown.as_ref();
        shown.is_some_and(|shown| shown.locatable.is_some_and(|least| shown.median < least))
    }

    fn is_exact(&self, rule: Rule) -> bool {
        let shown = self.shown.as_ref().map(|shown| &shown.key);
        let told = self.told(rule);
        told.is_some_and(|told| told.found && told.named.is_some() && told.named.as_ref() == shown)
    }
}

/// Honest runs (or pairs of them) that a rule was asked about, and how many it called off.
#[derive(Debug, Clone, Copy, Default)]
struct Alarms {
    alarms: usize,
    of: usize,
}

impl Alarms {
    fn count(&mut self, alarm: bool) {
        self.alarms += usize::from(alarm);
        self.of += 1;
    }
}

/// Plants, judges and tells. Returns the exit code.
///
/// # Errors
/// Where something of the set-up is missing, or a program fails.
pub fn run(args: &Args) -> Result<u8> {
    let mut reports = Vec::new();
    for model in models::chosen(&args.model) {
        reports.push(Corpus::new(model, args)?.try_all(args)?);
    }
    lab::publish(&report::document(&reports, args.seed), args.write.as_deref())?;
    Ok(match reports.iter().all(Report::reached) {
        true => EXIT_MATCH,
        false => EXIT_MISSED,
    })
}

/// One model, with its honest runs.
struct Corpus {
    model: &'static Model,
    lab: Lab,
    file: PathBuf,
    /// What `first` judges by: options, and the floor where it is one.
    limit: [String; 2],
    floor: Option<Floor>,
    /// The rules of the referee, with the reference as each sees it. Where nothing is rounded, they are one.
    judges: Vec<(Rule, Judge, Audited)>,
    /// What is expected of rounding is told by the sound run.
    sound: Audited,
    ids: lab::Ids,
    alarms: BTreeMap<Rule, Alarms>,
}

impl Corpus {
    /// Records both engines on honest prompts, and counts who cries wolf.
    fn new(model: &'static Model, args: &Args) -> Result<Self> {
        let lab = Lab::new(args.into.as_deref())?;
        let file = (model.file)(&lab)?;
        let mut judges = vec![(Rule::Emulated, Judge::new(&file, Activations::Found)?)];
        if model.is_quantised {
            judges.push((Rule::Local, Judge::new(&file, Activations::Exact)?));
        }
        let mut alarms: BTreeMap<Rule, Alarms> = BTreeMap::new();
        let mut audit = |run: &str| -> Result<Vec<Audited>> {
            let mut all = Vec::new();
            for (rule, judge) in &judges {
                let audited = judge.audit(&lab, run)?;
                alarms.entry(*rule).or_default().count(!judge.is_clean(&audited));
                all.push(audited);
            }
            Ok(all)
        };
        let activations = ["--activations", model.activations];
        let mut replayed = Alarms::default();
        let mut engines = |names: [&str; 2], prompt: &str| -> Result<()> {
            lab.record(names[0], model.cpp, &file, &Feed::Text(prompt), &[])?;
            let ids = Feed::Ids(&lab.ids(names[0])?);
            lab.record(names[1], Engine::Rust, &file, &ids, &activations)?;
            let (code, _) = lab.cross(names[0], Engine::Rust, &file, &ids, &activations)?;
            replayed.count(code != 0);
            Ok(())
        };
        let limit = match (&args.rel_l2, &args.floor) {
            (Some(limit), _) => ["--rel-l2".to_owned(), limit.clone()],
            (None, Some(floor)) => ["--floor".to_owned(), floor.display().to_string()],
            (None, None) => {
                let mut runs = Vec::new();
                for (i, prompt) in PROMPTS[..CALIBRATION].iter().enumerate() {
                    let names = [format!("cpp-{i}"), format!("rust-{i}")];
                    engines([&names[0], &names[1]], prompt)?;
                    for name in &names {
                        audit(name)?;
                    }
                    runs.extend(names);
                }
                let names: Vec<&str> = runs.iter().map(String::as_str).collect();
                let floor = lab.calibrate(&names)?;
                names.iter().try_for_each(|run| lab.remove(run))?;
                ["--floor".to_owned(), floor.display().to_string()]
            }
        };
        let floor = match args.rel_l2 {
            Some(_) => None,
            None => Some(Floor::from_toml(&std::fs::read_to_string(&limit[1])?)?),
        };
        engines(["reference", "sound"], PROMPTS[CALIBRATION])?;
        let reference = audit("reference")?;
        let sound = audit("sound")?.remove(0);
        let mut corpus = Self {
            model,
            ids: lab.ids("reference")?,
            file,
            limit,
            floor,
            judges: judges
                .into_iter()
                .zip(reference)
                .map(|((rule, judge), reference)| (rule, judge, reference))
                .collect(),
            sound,
            alarms,
            lab,
        };
        corpus.alarms.insert(Rule::Replayed, replayed);
        for rule in [Rule::Propagated, Rule::First] {
            let told = corpus.first(rule, "sound")?;
            corpus.alarms.entry(rule).or_default().count(told.found);
        }
        Ok(corpus)
    }

    /// The faults of the model.
    fn try_all(self, args: &Args) -> Result<Report> {
        let spec = self.judges[0].1.referee.spec();
        let (arch, layers) = (spec.arch, spec.n_layer);
        let cases: Vec<Case> = cases(arch, layers, self.ids.prompt_len, args.seed)
            .into_iter()
            .filter(|case| args.class.is_empty() || args.class.contains(&case.fault.class.name))
            .filter(|case| !args.short || (case.fault.from == 0 && !case.is_drawn))
            .collect();
        let bar = lab::progress(cases.len());
        let mut outcomes = Vec::new();
        for case in cases {
            let spec = case.fault.to_string();
            bar.set_message(format!("{}: {spec}", self.model.name));
            outcomes.push(self.try_one(case).with_context(|| spec)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Report {
            model: self.model,
            layers,
            prompt_len: self.ids.prompt_len,
            floor: match (&args.rel_l2, &args.floor) {
                (Some(limit), _) => format!("relative L2 <= {limit}"),
                (None, Some(floor)) => format!("the floor {}", floor.display()),
                (None, None) => format!("a floor measured on {CALIBRATION} other prompts"),
            },
            alarms: self.alarms,
            outcomes,
        })
    }

    /// Records one fault, once, and asks every rule.
    fn try_one(&self, case: Case) -> Result<Outcome> {
        let spec = case.fault.to_string();
        let options = ["--activations", self.model.activations, "--fault", &spec];
        self.lab.record(
            "faulty",
            Engine::Rust,
            &self.file,
            &Feed::Ids(&self.ids),
            &options,
        )?;
        let mut told = vec![(Rule::Propagated, self.first(Rule::Propagated, "faulty")?)];
        let mut own = None;
        for (rule, judge, reference) in &self.judges {
            let faulty = judge.audit(&self.lab, "faulty")?;
            told.push((*rule, judge.told(reference, &faulty)));
            own.get_or_insert(faulty);
        }
        told.push((Rule::Replayed, self.replayed(&options)?));
        told.push((Rule::First, self.first(Rule::First, "faulty")?));
        let shown = self.shown(&case.fault, own.as_ref())?;
        self.lab.remove("faulty")?;
        Ok(Outcome { case, shown, told })
    }

    /// What `first` says of a run: by its distance from the reference alone, or as a user runs it.
    fn first(&self, rule: Rule, run: &str) -> Result<Told> {
        let mut options: Vec<&str> = self.limit.iter().map(String::as_str).collect();
        if rule == Rule::Propagated {
            options.push("--local=never");
        }
        let (code, first) = self.lab.ask("first", &["reference", run], &options)?;
        ensure!(matches!(code, 0 | 1), "{first:#}");
        Ok(Told {
            found: code != 0,
            named: key(&first["first_divergence"]),
            right_side: None,
        })
    }

    /// What `cross` says of the faulty engine.
    fn replayed(&self, options: &[&str]) -> Result<Told> {
        let ids = Feed::Ids(&self.ids);
        let (code, cross) = self
            .lab
            .cross("reference", Engine::Rust, &self.file, &ids, options)?;
        Ok(Told {
            found: code != 0,
            named: key(&cross["first"]),
            right_side: None,
        })
    }

    /// The first record at which a fault changes what the engine computes by more than rounding explains.
    fn shown(&self, fault: &Fault, faulty: Option<&Audited>) -> Result<Option<Shown>> {
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
        let judge = &self.judges[0].1;
        let changed = self.lab.distances("sound", "faulty", &own)?;
        let is_shown = |(key, size): &(Key, f64)| {
            let explained = judge.expected(&self.sound, key);
            explained.is_none_or(|explained| *size > explained)
        };
        let Some(first) = changed.iter().position(is_shown) else {
            return Ok(None);
        };
        let (key, size) = changed[first].clone();
        let of_layer = changed[first..].iter().filter(|(other, _)| other.1 == key.1);
        let mut sizes: Vec<f64> = of_layer.map(|(_, size)| *size).collect();
        let noise = self.lab.distances("reference", "sound", &of(&key))?;
        let noise = noise.first().context("the reference does not have the record")?.1;
        let mut entries = self.floor.iter().flat_map(|floor| &floor.stages);
        let entry = entries.find(|entry| (entry.layer, &entry.stage) == (key.1, &key.2));
        Ok(Some(Shown {
            size,
            median: median(&mut sizes).unwrap_or(size),
            noise,
            locatable: entry.map(Entry::locatable),
            local: faulty.and_then(|faulty| faulty.local(&key)),
            key,
        }))
    }
}

/// What a document of `first` or `cross` names.
fn key(divergence: &Value) -> Option<Key> {
    Some((
        divergence["seq"].as_i64()?,
        i32::try_from(divergence["layer"].as_i64()?).ok()?,
        divergence["stage"].as_str()?.to_owned(),
    ))
}
