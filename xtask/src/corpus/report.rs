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

    /// Whether every fault was found that can be, and enough of them named exactly. On F32 weights that is all of them; on
    /// quantised ones, what lies below the floor can't be found.
    pub fn reached(&self) -> bool {
        let (single, singles) = self.exact(true);
        let (all, alls) = self.exact(false);
        let (least, hidden) = match self.weights {
            Weights::F32 => (1.0, false),
            Weights::Q4 => (QUANTISED_SINGLE, true),
        };
        self.planted().count() > 0
            && self
                .planted()
                .all(|o| o.is_found() || (hidden && o.is_below_the_floor()))
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
        let equivalent = self.outcomes.len() - planted;
        line(format!("Judged by {}.\n", self.judge));
        line(format!(
            "- Planted: {planted} faults, and {equivalent} that turned out to be equivalent mutants."
        ));
        let lost = self.planted().filter(|o| !o.is_found());
        let below = lost.filter(|o| o.is_below_the_floor()).count();
        line(format!(
            "- `first` ends with exit code 1: {found} of {planted}{}",
            match planted - found {
                0 => ".".to_owned(),
                lost => format!(
                    "; of the {lost} others, {below} are smaller than what the floor says that it can locate at their place."
                ),
            }
        ));
        line(format!(
            "- Named exactly: {all} of {alls} in all layers, {single} of {singles} in one layer."
        ));
        line(format!(
            "- Due: {}{}\n",
            match self.weights {
                Weights::F32 => "every one with exit code 1, named exactly.",
                Weights::Q4 =>
                    "every one above the floor with exit code 1; named exactly, every one in all layers and 60 % in one layer.",
            },
            if self.reached() {
                " Reached."
            } else {
                " **Missed.**"
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
                "\n| Missed | Shows first at | By | Median from there | Engines differ there by | Locatable from | Exit | Named |\n|---|---|---|---|---|---|---|---|\n",
            );
        }
        for outcome in misses {
            let Some(shown) = &outcome.shown else { continue };
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} | {} | {} | {} |",
                outcome.case.fault,
                place(&shown.key),
                number(shown.size),
                number(shown.median),
                number(shown.noise),
                shown.locatable.map(number).unwrap_or_default(),
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
        Some(shown) => {
            let mark = if outcome.is_exact() { '✓' } else { '✗' };
            format!("{mark} {}", number(shown.size))
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
