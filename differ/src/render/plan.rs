use super::{STRONG, line, pad, paint};
use crate::{plan::PlanLine, report::Labels};

/// A plan as text: for each stage, what pairs and what does not.
pub fn plan(lines: &[PlanLine], labels: &Labels) -> String {
    let mut out = String::new();
    let title = format!(
        "pairs of {} and {} by request, seq, layer, stage and visit",
        labels.left, labels.right
    );
    line(&mut out, title);
    let width = lines
        .iter()
        .map(|l| l.stage.chars().count())
        .max()
        .unwrap_or(0)
        .max(5);
    let head = format!(
        "  {} {:>8} {:>10} {:>11}",
        pad("stage", width),
        "paired",
        "left only",
        "right only"
    );
    line(&mut out, paint(STRONG, head));
    for l in lines {
        let stage = pad(&l.stage, width);
        line(
            &mut out,
            format!(
                "  {stage} {:>8} {:>10} {:>11}",
                l.paired, l.left_only, l.right_only
            ),
        );
    }
    out
}
