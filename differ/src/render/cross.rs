use super::{BAD, GOOD, STRONG, line, pad, paint, wrap};
use crate::{
    cross::{LocalReport, LocalStage, LocalVerdict},
    num::{plural, sci},
};

/// `cross` as text: a line a stage.
pub fn cross(report: &LocalReport) -> String {
    let mut out = String::new();
    let of = |verdict| report.stages.iter().filter(move |s| s.verdict == verdict);
    let beyond: Vec<_> = of(LocalVerdict::Beyond).map(|s| s.stage.as_str()).collect();
    let stages = plural(report.stages.len() as u64, "stage");
    let (left, right) = (&report.left, &report.right);
    let told = match beyond.as_slice() {
        [] => format!(
            "{} {right}, given the inputs of {left}: {stages} differ by rounding at most",
            paint(GOOD, "✓")
        ),
        some => format!(
            "{} {right}, given the inputs of {left}: beyond rounding in {}",
            paint(BAD, "✗"),
            some.join(", ")
        ),
    };
    line(&mut out, wrap("", &told));
    if let Some(first) = &report.first {
        let place = format!(
            "  first at seq={}, layer={}, stage={}",
            first.seq, first.layer, first.stage
        );
        line(&mut out, wrap("", &place));
    }
    line(&mut out, "");
    let width = report
        .stages
        .iter()
        .map(|s| s.stage.len())
        .max()
        .unwrap_or(0)
        .clamp(5, 16);
    let head = format!(
        "  {} {:>7} {:>7} {:>7} {:>7}  {:>7}  {:<12} at seq:layer",
        pad("stage", width),
        "median",
        "90 %",
        "worst",
        "judged",
        "limit",
        "rounds",
    );
    line(&mut out, paint(STRONG, head.trim_end()));
    for stage in &report.stages {
        line(&mut out, row(stage, width));
    }
    line(&mut out, "");
    let text = "  Relative L2 of each stage's output, given the same inputs. Judged is the worst record or, of products with \
                8-bit activations, the largest median of a layer, or of a few positions that are beyond any chance.";
    line(&mut out, wrap("", text));
    let replay = &report.replay;
    let counts = format!(
        "  replayed: {} of {left}, {} skipped, {} rows that its engine left out",
        plural(replay.injected, "record"),
        replay.skipped,
        replay.pruned
    );
    line(&mut out, wrap("", &counts));
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn row(stage: &LocalStage, width: usize) -> String {
    let mark = match stage.verdict {
        LocalVerdict::Rounding => " ".to_owned(),
        LocalVerdict::Beyond => paint(BAD, "✗"),
        LocalVerdict::Unknown => "?".to_owned(),
    };
    let worst = stage.worst.as_ref();
    let place = worst.map_or(String::new(), |w| format!("{}:{}", w.key.seq, w.key.layer));
    let text = format!(
        "{mark} {} {:>7} {:>7} {:>7} {:>7}  {:>7}  {:<12} {place}",
        pad(&stage.stage, width),
        sci(stage.median),
        sci(stage.p90),
        sci(worst.map_or(0.0, |w| w.rel_l2)),
        sci(stage.judged),
        stage.rounding.limit.map_or_else(|| "-".to_owned(), sci),
        stage.rounding.rounds.text(),
    );
    text.trim_end().to_owned()
}
