//! The corpus as a document.

use super::{Alarms, Outcome, Rule, cases::PLACES};
use crate::{
    lab::{DECODED, Key},
    models::Model,
};
use std::{collections::BTreeMap, fmt::Write};

/// The least part of the faults that the emulated rule must name exactly, on quantised weights and on others.
const EMULATED: (f64, f64) = (0.9, 0.95);
/// The least part of single-layer faults that `first` must name exactly, on quantised weights and on others.
const SINGLE: (f64, f64) = (0.6, 1.0);

/// The outcomes of one model.
pub struct Report {
    pub model: &'static Model,
    pub layers: usize,
    pub prompt_len: usize,
    /// What `first` judged by.
    pub floor: String,
    pub alarms: BTreeMap<Rule, Alarms>,
    pub outcomes: Vec<Outcome>,
}

/// How many of some, of how many.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part(usize, usize);

impl Part {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>, is: impl Fn(&Outcome) -> bool) -> Self {
        outcomes.fold(Self(0, 0), |Self(some, all), outcome| {
            Self(some + usize::from(is(outcome)), all + 1)
        })
    }

    fn is_at_least(self, part: f64) -> bool {
        self.0 as f64 >= part * self.1 as f64
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.0, self.1)
    }
}

impl Report {
    fn planted(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.shown.is_some())
    }

    /// The rules that the model was judged by.
    fn rules(&self) -> impl Iterator<Item = Rule> {
        let told = |rule: &Rule| self.outcomes.iter().any(|outcome| outcome.told(*rule).is_some());
        Rule::ALL.into_iter().filter(told)
    }

    /// How many of the faults that are planted in one layer (or in all) a rule names exactly.
    fn exact(&self, rule: Rule, in_one_layer: bool) -> Part {
        let placed = |o: &&Outcome| o.case.is_in_one_layer() == in_one_layer;
        Part::of(self.planted().filter(placed), |o| o.is_exact(rule))
    }

    /// Of those that a rule finds and can tell the side of, how many it says to be in the faulty engine alone.
    fn right_side(&self, rule: Rule) -> Option<Part> {
        let told = |o: &&Outcome| {
            let told = o.told(rule);
            told.is_some_and(|told| told.found && told.right_side.is_some())
        };
        let right = |o: &Outcome| o.told(rule).is_some_and(|told| told.right_side == Some(true));
        let part = Part::of(self.planted().filter(told), right);
        (part.1 > 0).then_some(part)
    }

    /// Whether `first` found every fault and called no honest pair different, and named all that sit in every layer, and
    /// enough of the others, exactly.
    fn first_reached(&self) -> bool {
        let rule = Rule::First;
        self.alarms(rule).alarms == 0
            && self.planted().all(|o| o.is_found(rule))
            && self.exact(rule, false).is_at_least(1.0)
            && self.exact(rule, true).is_at_least(self.least(SINGLE))
    }

    /// Whether the emulated rule named enough faults exactly, and never accused the wrong side or an honest run.
    fn emulated_reached(&self) -> bool {
        let rule = Rule::Emulated;
        let sides = self.right_side(rule);
        self.alarms(rule).alarms == 0
            && Part::of(self.planted(), |o| o.is_exact(rule)).is_at_least(self.least(EMULATED))
            && sides.is_none_or(|sides| sides.is_at_least(1.0))
    }

    /// Which of two parts is due: on quantised weights the first.
    fn least(&self, (quantised, other): (f64, f64)) -> f64 {
        match self.model.is_quantised {
            true => quantised,
            false => other,
        }
    }

    /// Whether what is due was reached, and by at least one fault. Nothing is due of the other rules: they show what a floor,
    /// emulation and replay are worth by themselves.
    pub fn reached(&self) -> bool {
        self.planted().count() > 0 && self.first_reached() && self.emulated_reached()
    }

    fn alarms(&self, rule: Rule) -> Alarms {
        self.alarms.get(&rule).copied().unwrap_or_default()
    }

    fn write_score(&self, out: &mut String) {
        let (planted, name, layers) = (self.planted().count(), self.model.name, self.layers);
        let equivalent = self.outcomes.len() - planted;
        let _ = writeln!(
            out,
            "\n## {name}\n\n{layers} layers; {planted} faults, and {equivalent} equivalent mutants.\n\n\
             | Rule | Exit 1 | Exact, in all layers | Exact, in one layer | Right side, of those found | False alarms |\n\
             |---|---|---|---|---|---|"
        );
        for rule in self.rules() {
            let alarms = self.alarms(rule);
            let _ = writeln!(
                out,
                "| {} ({}) | {} | {} | {} | {} | {} of {} |",
                rule.name(),
                rule.letter(),
                Part::of(self.planted(), |o| o.is_found(rule)),
                self.exact(rule, false),
                self.exact(rule, true),
                self.right_side(rule)
                    .map_or("can't tell".to_owned(), |part| part.to_string()),
                alarms.alarms,
                alarms.of
            );
        }
        let below = Part::of(self.planted(), Outcome::is_below_the_floor);
        let verdict = |reached| if reached { "reached" } else { "**missed**" };
        let _ = writeln!(
            out,
            "\nDue of F: no false alarm, each fault found, and named exactly all of those in all layers and {} % of those in one: {}.\n\
             Due of E: no false alarm, {} % named exactly, the right side in all that are found: {}.\n\
             P and F are judged by {}; {} are smaller than what it can locate.",
            self.least(SINGLE) * 100.0,
            verdict(self.first_reached()),
            self.least(EMULATED) * 100.0,
            verdict(self.emulated_reached()),
            self.floor,
            below,
        );
    }

    fn write_cases(&self, out: &mut String) {
        let name = self.model.name;
        let heads: Vec<String> = PLACES
            .iter()
            .enumerate()
            .map(|(place, name)| match place {
                4 => format!("{name} (from {})", self.prompt_len / 2),
                5 => format!("{name} (from {})", self.prompt_len + DECODED / 2 - 1),
                _ => (*name).to_owned(),
            })
            .collect();
        let _ = writeln!(
            out,
            "\n## {name}, case by case\n\n| Fault | Stage | {} |\n|---|---|{}",
            heads.join(" | "),
            "---|".repeat(PLACES.len())
        );
        let same = |a: &Outcome, b: &Outcome| {
            (a.case.fault.class, a.case.fault.value) == (b.case.fault.class, b.case.fault.value)
        };
        for group in self.outcomes.chunk_by(same) {
            let case = &group[0].case;
            let spec = case.fault.to_string();
            let form = spec.split('@').next().unwrap_or_default();
            let cells: Vec<String> = (0..PLACES.len())
                .map(|place| {
                    let outcome = group.iter().find(|o| o.case.place == place);
                    outcome.map(|outcome| self.cell(outcome)).unwrap_or_default()
                })
                .collect();
            let drawn = if case.is_drawn { " (drawn)" } else { "" };
            let stage = case.fault.first_shown().2;
            let _ = writeln!(out, "| `{form}`{drawn} | {stage} | {} |", cells.join(" | "));
        }
        self.write_misses(out);
    }

    /// A letter for each rule that named it exactly, a dot for one that did not, and how much the fault changes its record.
    fn cell(&self, outcome: &Outcome) -> String {
        let Some(shown) = &outcome.shown else {
            return "equivalent".to_owned();
        };
        let mark = |rule| {
            if outcome.is_exact(rule) {
                Rule::letter(rule)
            } else {
                '·'
            }
        };
        let marks: String = self.rules().map(mark).collect();
        format!("{marks} {}", number(shown.size))
    }

    fn write_misses(&self, out: &mut String) {
        let missed = |o: &&Outcome| self.rules().any(|rule| !o.is_exact(rule));
        let misses: Vec<_> = self.planted().filter(missed).collect();
        if !misses.is_empty() {
            let rules: Vec<String> = self
                .rules()
                .map(|rule| format!("{} says", rule.letter()))
                .collect();
            let _ = writeln!(
                out,
                "\n| Missed by a rule | Shows first at | By | Local error | Of rounding | Median from there | \
                 Engines differ there by | Locatable from | {} |\n|---|---|---|---|---|---|---|---|{}",
                rules.join(" | "),
                "---|".repeat(rules.len())
            );
        }
        for outcome in misses {
            let Some(shown) = &outcome.shown else { continue };
            let said: Vec<String> = self.rules().map(|rule| said(outcome, rule)).collect();
            let local = |of: fn((f64, f64)) -> f64| shown.local.map(|l| number(of(l))).unwrap_or_default();
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |",
                outcome.case.fault,
                place(&shown.key),
                number(shown.size),
                local(|local| local.0),
                local(|local| local.1),
                number(shown.median),
                number(shown.noise),
                shown.locatable.map(number).unwrap_or_default(),
                said.join(" | ")
            );
        }
        let equivalent: Vec<String> = self
            .outcomes
            .iter()
            .filter(|o| o.shown.is_none())
            .map(|o| {
                let rules = self.rules().filter(|rule| o.is_found(*rule));
                let found: String = rules.map(Rule::letter).collect();
                match found.as_str() {
                    "" => format!("`{}`", o.case.fault),
                    found => format!("`{}` (found by {found})", o.case.fault),
                }
            })
            .collect();
        if !equivalent.is_empty() {
            let _ = writeln!(out, "\nEquivalent mutants: {}.", equivalent.join(", "));
        }
    }
}

/// What a rule names, where that is not the fault's place.
fn said(outcome: &Outcome, rule: Rule) -> String {
    match outcome.told(rule) {
        Some(told) if told.found && !outcome.is_exact(rule) => {
            told.named.as_ref().map(place).unwrap_or("no place".to_owned())
        }
        Some(told) if told.found => "✓".to_owned(),
        _ => "nothing".to_owned(),
    }
}

fn place((seq, layer, stage): &Key) -> String {
    format!("{seq}, {layer}, {stage}")
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_infinite() => "∞".to_owned(),
        0.01..1000.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

/// The document of all models.
pub fn document(reports: &[Report], seed: u64) -> String {
    let mut out = format!(
        "# The fault corpus\n\n\
         Written by `make corpus`. Each class of fault that the Rust engine can be built with (`bitnet-cli run --help` describes them)\n\
         is planted in its run of a real or a random model: in the first, the middle and the last layer and in all, from position 0, and\n\
         from a later one. A class with a number has one that is fixed and one that is drawn (seed {seed}). The run is held against one of\n\
         llama.cpp (of BitNet, bitnet.cpp) on the same tokens: a prompt, and {DECODED} tokens decoded one by one.\n\n\
         - P, propagated: `bitnet-diff first REFERENCE FAULTY --floor FLOOR --local=never`, each record against the other engine's.\n\
         - L, local: `bitnet-diff judge REFERENCE FAULTY --activations exact`, each record against the exact result of its own recorded\n\
         \x20 inputs, with no knowledge of how an engine rounds activations. On F32 weights none are rounded, and this is E.\n\
         - E, emulated: `bitnet-diff judge REFERENCE FAULTY`: the same, with the rounding that is found by trying. It needs no calibration.\n\
         - R, replayed: `bitnet-diff cross REFERENCE -- FAULTY ENGINE`, what the engine makes of the reference's inputs, against what\n\
         \x20 rounding explains ([limits](REPLAY.md)). It needs no calibration. A floor of replayed pairs would serve it worse: it is one of\n\
         \x20 errors against those of their inputs, which a replayed stage does not inherit.\n\
         - F, first: `bitnet-diff first REFERENCE FAULTY --floor FLOOR`, as it is run: each record as by E where the model's mathematics\n\
         \x20 tell, and as by P where they do not.\n\n\
         A fault is named exactly when (seq, layer, stage) is the first record that the fault changes by more than rounding explains, against\n\
         the same engine without the fault: relative L2 2e-6 for stages that are computed element by element, 5e-6 for products in F32, 1e-4\n\
         for products with rounded activations. One that changes no record of its own by that much is an equivalent mutant. False alarms are\n\
         among honest runs on {} prompts (R: pairs; P and F: the one pair that the floor was not measured on). One of\n\
         R's limits, for products of SmolLM2-Q4_1, was set on most of these prompts: that model's count is no independent one.\n",
        crate::lab::CALIBRATION + 1
    );
    for report in reports {
        report.write_score(&mut out);
    }
    out.push_str(
        "\nIn what follows a letter stands for a rule that names the place exactly, a dot for one that does not; the number is by how much\n\
         the fault changes that record (relative L2).\n",
    );
    for report in reports {
        report.write_cases(&mut out);
    }
    out
}
