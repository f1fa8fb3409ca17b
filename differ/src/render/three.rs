use super::{BAD, GOOD, STRONG, line, pad, paint, wrap};
use crate::{
    compare::Status,
    num::{plural, sci},
    three::ThreeReport,
};

/// Three runs as text: who stands alone, a line a stage.
pub fn three(report: &ThreeReport) -> String {
    let mut out = String::new();
    let names: Vec<&str> = report.runs.iter().map(|r| r.name.as_str()).collect();
    let letters = ["A", "B", "C"];
    match (&report.first_alone, report.status) {
        (Some(first), _) => {
            let text = format!("{} stands alone first at {}", first.run, first.key);
            line(&mut out, format!("{} {}", paint(BAD, "✗"), paint(STRONG, text)));
        }
        (None, Status::Ok) => line(&mut out, format!("{} all three agree", paint(GOOD, "✓"))),
        (None, Status::Diverged) => line(
            &mut out,
            paint(BAD, "✗ they diverge, and none of them stands alone"),
        ),
        (None, Status::Error) => {
            let message = report
                .error
                .as_ref()
                .map(|e| e.message.as_str())
                .unwrap_or_default();
            line(&mut out, paint(BAD, wrap("✗ no verdict: ", message)));
        }
    }
    let legend = letters
        .iter()
        .zip(&names)
        .map(|(letter, name)| format!("{letter} {name}"));
    line(&mut out, wrap("  ", &legend.collect::<Vec<_>>().join(", ")));
    line(&mut out, wrap("  tolerance: ", &report.tolerance));
    line(&mut out, "");
    let width = report
        .stages
        .iter()
        .map(|s| s.stage.len())
        .max()
        .unwrap_or(0)
        .clamp(5, 16);
    let head = format!(
        "  {} {:>6} {:>6} {:>6} {:>6} {:>7}  {:>7} {:>7} {:>7}",
        pad("stage", width),
        "agree",
        "A off",
        "B off",
        "C off",
        "unclear",
        "A-B",
        "A-C",
        "B-C"
    );
    line(&mut out, paint(STRONG, head));
    for s in &report.stages {
        let alone = s.alone.map(|n| {
            let text = format!("{n:>6}");
            if n > 0 { paint(BAD, text) } else { text }
        });
        let distances = s
            .median_rel_l2
            .map(|d| format!("{:>7}", d.map_or("-".to_owned(), sci)));
        let text = format!(
            "  {} {:>6} {} {:>7}  {}",
            pad(&s.stage, width),
            s.agree,
            alone.join(" "),
            s.unclear,
            distances.join(" ")
        );
        line(&mut out, text);
    }
    line(&mut out, "");
    line(
        &mut out,
        wrap(
            "  ",
            "off: it diverges from both others, which agree or are much closer to each other; A-B: median relative L2",
        ),
    );
    if report.missing > 0 {
        let records = plural(report.missing, "record");
        line(&mut out, format!("  not in all three: {records}"));
    }
    if report.incomparable > 0 {
        let records = plural(report.incomparable, "record");
        line(&mut out, format!("  could not be compared: {records}"));
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}
