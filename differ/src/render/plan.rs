use super::{FAINT, STRONG, line, pad, paint, wrap};
use crate::{
    mapping::Which,
    num::plural,
    plan::{PlanLine, PlanReport},
    report::Labels,
};

/// A plan as text: for each stage what pairs and how, and why the rest does not.
pub fn plan(report: &PlanReport, labels: &Labels) -> String {
    let mut out = String::new();
    let lines = &report.plan;
    let total = |count: &dyn Fn(&PlanLine) -> u64| lines.iter().map(count).sum::<u64>();
    let title = format!(
        "{} of {} and {}; {} of the one alone, {} of the other",
        plural(total(&|l| l.paired), "pair"),
        labels.left,
        labels.right,
        plural(total(&|l| l.left_only), "record"),
        total(&|l| l.right_only),
    );
    line(&mut out, wrap("", &title));
    let width = lines.iter().map(|l| l.stage.chars().count()).max();
    let width = width.unwrap_or(0).clamp(5, 20);
    let head = format!(
        "  {} {:>8} {:>8} {:>8} {:>8} {:>9} {:>10}",
        pad("stage", width),
        "paired",
        "by key",
        "alias",
        "mapping",
        "left only",
        "right only"
    );
    line(&mut out, paint(STRONG, head));
    for l in lines {
        let text = format!(
            "  {} {:>8} {:>8} {:>8} {:>8} {:>9} {:>10}",
            pad(&l.stage, width),
            l.paired,
            l.by_key,
            l.by_alias,
            l.by_mapping,
            l.left_only,
            l.right_only
        );
        line(&mut out, text);
    }
    let name = |run: Which| match run {
        Which::Left => labels.left.as_str(),
        Which::Right => labels.right.as_str(),
    };
    let names = lines.iter().flat_map(|l| {
        l.names.iter().map(|n| {
            let op = if n.op.is_empty() {
                String::new()
            } else {
                format!("/{}", n.op)
            };
            let by = format!("{:?}", n.by).to_lowercase();
            format!("{}: {} calls it {}{op} ({by})", l.stage, name(n.run), n.name)
        })
    });
    section(&mut out, "names", names);
    let layouts = lines.iter().flat_map(|l| {
        let told = l.layouts.iter().filter(|r| r.rule != "same");
        told.map(|r| format!("{} {}: {}", l.stage, r.records, r.message))
    });
    section(&mut out, "layouts", layouts);
    for (by_design, title) in [(true, "missing by design"), (false, "unmatched")] {
        let missing = lines.iter().flat_map(|l| {
            let missing = l.missing.iter().filter(move |m| m.by_design == by_design);
            missing.map(|m| format!("{} {}: {}", l.stage, m.records, m.message))
        });
        section(&mut out, title, missing);
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn section(out: &mut String, title: &str, entries: impl Iterator<Item = String>) {
    let mut entries = entries.peekable();
    if entries.peek().is_some() {
        line(out, paint(FAINT, format!("  {title}")));
    }
    for entry in entries {
        line(out, wrap("    ", &entry));
    }
}
