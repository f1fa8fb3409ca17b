//! The corpus as a document.

use super::{EQUIVALENT, LAYERS, Outcome, Weights, cases::PLACES};
use crate::lab::{DECODED, Key};
use std::fmt::Write;

/// The least part of single-layer faults that must be named exactly on quantised weights.
const QUANTISED_SINGLE: f64 = 0.6;

/// The outcomes of one model.
pub struct Report {
    pub weights: Weights,
    pub prompt_len: usize,
    pub judge: String,
    pub outcomes: Vec<Outcome>,
}

impl Report {
    fn planted(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.shown.is_some())
    }

    /// How many of the faults that are planted in one layer (or in all) are named exactly, and how many there are.
    fn exact(&self, in_one_layer: bool) -> (usize, usize) {
        let of: Vec<_> = self
            .planted()
            .filter(|o| o.case.is_in_one_layer() == in_one_layer)
            .collect();
        (of.iter().filter(|o| o.is_exact()).count(), of.len())
    }

    /// Whether every fault was found, and enough of them at their exact place.
    pub fn reached(&self) -> bool {
        let (single, singles) = self.exact(true);
        let (all, alls) = self.exact(false);
        let least = match self.weights {
            Weights::F32 => 1.0,
            Weights::Q4 => QUANTISED_SINGLE,
        };
        self.planted().count() > 0
            && self.planted().all(Outcome::is_found)
            && all == alls
            && single as f64 >= least * singles as f64
    }

    fn write(&self, out: &mut String) {
        let (planted, found) = (
            self.planted().count(),
            self.planted().filter(|o| o.is_found()).count(),
        );
        let ((all, alls), (single, singles)) = (self.exact(false), self.exact(true));
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("\n## {} weights\n", self.weights.name()));
        line(format!(
            "Judged by {}. {planted} faults, and {} equivalent mutants. {found} of {planted} end with exit code 1. Named exactly: \
             {all} of {alls} in all layers, {single} of {singles} in one layer. {}\n",
            self.judge,
            self.outcomes.len() - planted,
            match (self.reached(), self.weights) {
                (true, _) => "That is enough.",
                (false, Weights::F32) => "**Every one should be.**",
                (false, Weights::Q4) =>
                    "**Every one should end with exit code 1, and every one in all layers and 60 % in one layer be named.**",
            }
        ));
        let heads: Vec<String> = PLACES
            .iter()
            .enumerate()
            .map(|(place, name)| match place {
                4 => format!("{name} (from {})", self.prompt_len / 2),
                5 => format!("{name} (from {})", self.prompt_len + DECODED / 2 - 1),
                _ => (*name).to_owned(),
            })
            .collect();
        line(format!("| Fault | Stage | {} |", heads.join(" | ")));
        line(format!("|---|---|{}", "---|".repeat(PLACES.len())));
        for group in self
            .outcomes
            .chunk_by(|a, b| a.case.fault.class == b.case.fault.class)
        {
            let fault = &group[0].case.fault;
            let spec = fault.to_string();
            let form = spec.split('@').next().unwrap_or_default();
            let cells: Vec<String> = (0..PLACES.len())
                .map(|place| {
                    let outcome = group.iter().find(|o| o.case.place == place);
                    outcome.map(cell).unwrap_or_default()
                })
                .collect();
            line(format!(
                "| `{form}` | {} | {} |",
                fault.first_shown().2,
                cells.join(" | ")
            ));
        }
        self.write_misses(out);
    }

    fn write_misses(&self, out: &mut String) {
        let misses: Vec<_> = self.planted().filter(|o| !o.is_exact()).collect();
        if !misses.is_empty() {
            out.push_str(
                "\n| Missed | Shows first at | By | Engines differ there by | Times | Exit | Named |\n|---|---|---|---|---|---|---|\n",
            );
        }
        for outcome in misses {
            let Some((key, size, noise)) = &outcome.shown else {
                continue;
            };
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} | {} | {} |",
                outcome.case.fault,
                place(key),
                number(*size),
                number(*noise),
                number(size / noise),
                outcome.code,
                outcome.named.as_ref().map(place).unwrap_or_default()
            );
        }
        let equivalent: Vec<String> = self
            .outcomes
            .iter()
            .filter(|o| o.shown.is_none())
            .map(|o| format!("`{}`", o.case.fault))
            .collect();
        if !equivalent.is_empty() {
            let _ = writeln!(out, "\nEquivalent mutants: {}.", equivalent.join(", "));
        }
    }
}

/// ✓ named exactly, ✗ not; by how much the fault changes its own record.
fn cell(outcome: &Outcome) -> String {
    match &outcome.shown {
        None => "equivalent".to_owned(),
        Some((_, size, _)) => {
            let mark = if outcome.is_exact() { '✓' } else { '✗' };
            format!("{mark} {}", number(*size))
        }
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
pub fn document(reports: &[Report]) -> String {
    let mut out = format!(
        "# The fault corpus\n\n\
         Written by `make corpus`. Each class of fault that the Rust engine can be built with (`bitnet-cli run --help` describes them)\n\
         is planted in SmolLM2-135M ({LAYERS} layers): in the first, the middle and the last layer and in all, from position 0, and from a\n\
         later one. The run is held against one of llama.cpp on the same tokens (a prompt and {DECODED} tokens decoded one by one) with\n\
         `bitnet-diff first`. A fault is named exactly when (seq, layer, stage) is the first record that the fault changes by more than\n\
         {EQUIVALENT:e} (relative L2 against the same engine without the fault); one that changes no record of its own by that much is an\n\
         equivalent mutant. ✓ is named exactly, ✗ is not; the number is by how much the fault changes that record.\n"
    );
    for report in reports {
        report.write(&mut out);
    }
    out
}
