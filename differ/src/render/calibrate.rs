use super::{GOOD, STRONG, line, pad, paint, wrap};
use crate::{
    floor::CalibrateReport,
    num::{plural, sci},
};

/// `calibrate` as text: a line a stage.
pub fn calibrate(report: &CalibrateReport) -> String {
    let mut out = String::new();
    let text = format!(
        "{}: the floor of {}, {} of {}",
        report.floor,
        plural(report.pairs as u64, "pair"),
        plural(report.runs as u64, "run"),
        plural(report.prompts as u64, "prompt")
    );
    line(&mut out, format!("{} {text}", paint(GOOD, "✓")));
    line(&mut out, "");
    let width = report
        .stages
        .iter()
        .map(|s| s.stage.len())
        .max()
        .unwrap_or(0)
        .clamp(5, 24);
    let head = format!(
        "  {} {:>6}  {:>7} {:>7} {:>7}  {:>9}",
        pad("stage", width),
        "layers",
        "first",
        "last",
        "max",
        "locatable"
    );
    line(&mut out, paint(STRONG, head));
    for s in &report.stages {
        let text = format!(
            "  {} {:>6}  {:>7} {:>7} {:>7}  {:>9}",
            pad(&s.stage, width),
            s.layers,
            sci(s.first),
            sci(s.last),
            sci(s.max),
            sci(s.locatable)
        );
        line(&mut out, text);
    }
    line(&mut out, "");
    let legend = "relative L2: median of the first and of the last layer, largest of a record; locatable: the smallest error \
        made in the stage that a comparison with this floor can tell from what its inputs bring";
    line(&mut out, wrap("  ", legend));
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}
