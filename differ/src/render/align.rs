use super::{BAD, FAINT, GOOD, STRONG, line, pad, paint, wrap};
use crate::{
    align::{AlignReport, AlignStatus, PairView},
    mapping::Which,
    num::{plural, sci},
    report::Labels,
};
use std::collections::BTreeMap;

/// Tensors that are listed of each reason.
const LISTED: usize = 4;

/// An alignment as text: how many tensors were matched, by stage, and why the others were not.
pub fn align(report: &AlignReport, labels: &Labels) -> String {
    let mut out = String::new();
    let mark = match report.status {
        AlignStatus::Ok => paint(GOOD, "✓"),
        AlignStatus::Partial => paint(BAD, "✗"),
    };
    let title = format!(
        "{mark} {} of {} tensors of {} are those of {} ({} tensors), by their values",
        report.matched, report.tensors_right, labels.right, labels.left, report.tensors_left
    );
    line(&mut out, title);
    line(
        &mut out,
        format!("  over {}", plural(report.positions, "common position")),
    );
    stages(&mut out, &report.pairs);
    for (run, label) in [(Which::Left, &labels.left), (Which::Right, &labels.right)] {
        alone(&mut out, report, run, label);
    }
    match &report.mapping {
        Some(file) => line(&mut out, format!("  mapping: {file}")),
        None => line(
            &mut out,
            "  -o FILE writes the mapping, for --mapping of first, compare and tokens",
        ),
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn stages(out: &mut String, pairs: &[PairView]) {
    let mut stages: Vec<(&str, Vec<&PairView>)> = Vec::new();
    for pair in pairs {
        match stages.iter_mut().find(|s| s.0 == pair.stage) {
            Some(stage) => stage.1.push(pair),
            None => stages.push((&pair.stage, vec![pair])),
        }
    }
    if stages.is_empty() {
        return;
    }
    let width = stages
        .iter()
        .map(|s| s.0.chars().count())
        .max()
        .unwrap_or(0)
        .clamp(5, 20);
    let head = format!(
        "  {} {:>7} {:>8} {:>8} {:>8}  layout",
        pad("stage", width),
        "matched",
        "median",
        "max",
        "next"
    );
    line(out, paint(STRONG, head));
    for (stage, pairs) in stages {
        let mut distances: Vec<f64> = pairs.iter().map(|p| p.distance).collect();
        distances.sort_by(f64::total_cmp);
        let next = pairs.iter().map(|p| p.next).fold(f64::INFINITY, f64::min);
        let next = if next.is_finite() { sci(next) } else { "-".into() };
        let mut layouts: BTreeMap<&str, usize> = BTreeMap::new();
        for layout in pairs.iter().filter_map(|p| p.layout) {
            *layouts.entry(layout.as_str()).or_default() += 1;
        }
        let layouts: Vec<String> = layouts
            .into_iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        let text = format!(
            "  {} {:>7} {:>8} {:>8} {next:>8}  {}",
            pad(stage, width),
            pairs.len(),
            sci(distances[(distances.len() - 1) / 2]),
            sci(distances[distances.len() - 1]),
            layouts.join(", ")
        );
        line(out, text.trim_end());
    }
}

fn alone(out: &mut String, report: &AlignReport, run: Which, label: &str) {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for alone in report.alone.iter().filter(|a| a.run == run) {
        let text = match alone.kind {
            "far" | "tells_nothing" => alone.tensor.to_string(),
            _ => format!("{} ({})", alone.tensor, alone.message),
        };
        reasons.entry(alone.kind).or_default().push(text);
    }
    if reasons.is_empty() {
        return;
    }
    line(out, paint(FAINT, format!("  not matched, of {label}")));
    for (kind, tensors) in reasons {
        let words = match kind {
            "far" => "nothing in the other run is near",
            "tells_nothing" => "too few or too uniform values",
            "taken" => "the nearest is nearer to another",
            "unclear" => "candidates too much alike",
            _ => "several tensors of the same values, of another number in the other run",
        };
        let more = if tensors.len() > LISTED { ", …" } else { "" };
        let shown = tensors[..tensors.len().min(LISTED)].join(", ");
        let text = format!("{} {words}: {shown}{more}", tensors.len());
        line(out, wrap("    ", &text));
    }
}
