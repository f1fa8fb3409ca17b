use super::{BAD, FAINT, GOOD, STRONG, compared, line, pad, paint, remarks, wrap};
use crate::{
    compare::Status,
    num::sci,
    report::Labels,
    summary::{CompareReport, LayerError, StageSummary},
};

/// `compare` as text: a line a stage, then the error over the layers.
pub fn compare(report: &CompareReport, labels: &Labels) -> String {
    let mut out = String::new();
    let common = &report.common;
    let compared = compared(&common.counts);
    let mark = match report.status() {
        Status::Ok => paint(GOOD, "✓"),
        _ => paint(BAD, "✗"),
    };
    line(
        &mut out,
        format!("{mark} {} and {}: {compared}", labels.left, labels.right),
    );
    line(&mut out, wrap("  tolerance: ", &common.tolerance));
    if let Some(at) = &report.first_divergence {
        line(&mut out, format!("  first divergence: {at}"));
    }
    if let Some(error) = &common.error {
        line(&mut out, wrap("  no verdict: ", &error.message));
    }
    line(&mut out, "");
    table(&mut out, &report.stages);
    if let Some(stage) = &report.growth_stage
        && report.growth.iter().any(|l| l.max_rel_l2 != 0.0)
    {
        growth(&mut out, stage, &report.growth);
    }
    line(&mut out, "");
    remarks(&mut out, common, labels);
    while out.ends_with("\n\n") {
        out.pop();
    }
    out
}

fn table(out: &mut String, stages: &[StageSummary]) {
    let width = stages
        .iter()
        .map(|s| s.stage.len())
        .max()
        .unwrap_or(0)
        .clamp(5, 16);
    let head = format!(
        "  {} {:>6} {:>6} {:>6} {:>5}  {:>7} {:>7}  worst",
        pad("stage", width),
        "ident.",
        "within",
        "diver.",
        "other",
        "median",
        "max"
    );
    line(out, paint(STRONG, head));
    for s in stages {
        let c = &s.counts;
        let other = c.incomparable + c.missing_left + c.missing_right;
        let number = |x: Option<f64>| x.map_or("-".to_owned(), sci);
        let mut worst = String::new();
        if let Some(w) = s.worst.as_ref().filter(|w| !w.rel_l2.eq(&0.0)) {
            worst = format!("seq={} layer={}", w.key.seq, w.key.layer);
        }
        let diverged = format!("{:>6}", c.diverged);
        let diverged = if c.diverged > 0 {
            paint(BAD, diverged)
        } else {
            diverged
        };
        let text = format!(
            "  {} {:>6} {:>6} {diverged} {other:>5}  {:>7} {:>7}  {worst}",
            pad(&s.stage, width),
            c.identical,
            c.within,
            number(s.median_rel_l2),
            number(s.max_rel_l2),
        );
        line(out, text.trim_end());
    }
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

fn growth(out: &mut String, stage: &str, layers: &[LayerError]) {
    line(out, "");
    line(
        out,
        paint(
            STRONG,
            format!("  relative L2 of {stage} over the layers (median)"),
        ),
    );
    line(out, format!("  {}", bars(layers)));
    for row in layers.chunks(5) {
        let cells = row.iter().map(|l| {
            let layer = paint(FAINT, format!("{:>4}", l.layer));
            format!("{layer} {:>8}", sci(l.median_rel_l2))
        });
        line(out, format!(" {}", cells.collect::<Vec<_>>().join(" ")));
    }
}

/// One bar a layer, at most 76 of them, on a logarithmic scale of at least one decade.
fn bars(layers: &[LayerError]) -> String {
    let step = layers.len().div_ceil(76).max(1);
    let sizes: Vec<f64> = layers
        .iter()
        .step_by(step)
        .map(|l| l.median_rel_l2.log10())
        .collect();
    let finite = || sizes.iter().copied().filter(|x| x.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| {
        (l.min(x), h.max(x))
    });
    let span = (high - low).max(1.0);
    let bar = |x: f64| match x {
        x if x.is_nan() || x == f64::INFINITY => '!',
        x if x == f64::NEG_INFINITY => '_',
        x => BARS[(((x - low) / span * 7.0).round() as usize).min(7)],
    };
    sizes.iter().map(|&x| bar(x)).collect()
}
