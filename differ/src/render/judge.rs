use super::{BAD, FAINT, GOOD, LISTED, STRONG, line, pad, paint, wrap};
use crate::{
    local::{Finding, JudgeReport, JudgedRun, SideView, StageView, Who},
    num::{factor, plural, sci},
    report::Labels,
};

/// `judge` as text: who is off and where, what is off, and a line a stage.
pub fn judge(report: &JudgeReport, labels: &Labels) -> String {
    let mut out = String::new();
    verdict(&mut out, report, labels);
    line(&mut out, "");
    for run in &report.runs {
        let label = label(&run.run.name, report, labels);
        line(&mut out, wrap(&format!("  {label}: "), &computes(run)));
    }
    let model = format!("{} ({})", report.model.path, report.model.arch);
    line(&mut out, wrap("  model: ", &model));
    if !report.findings.is_empty() {
        findings(&mut out, report, labels);
    }
    stages(&mut out, report, labels);
    refused(&mut out, report);
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn verdict(out: &mut String, report: &JudgeReport, labels: &Labels) {
    let two = report.runs.len() > 1;
    let name = |who| match who {
        Who::Right => &labels.right,
        _ if two => &labels.left,
        _ => &report.runs[0].run.name,
    };
    let records = plural(report.told, "record");
    match (&report.origin, report.verdict) {
        (Some(origin), verdict) => {
            let who = match verdict {
                Who::Both => format!("both are off; {} first", name(origin.side)),
                _ => format!("{} is off, first", name(origin.side)),
            };
            let text = format!("{who} at {}", origin.first);
            line(out, format!("{} {}", paint(BAD, "✗"), paint(STRONG, text)));
            line(out, wrap("  ", &by_how_much(origin)));
        }
        (None, Who::Inherited) => {
            let text = "neither is off: the difference is inherited";
            line(out, format!("{} {}", paint(GOOD, "✓"), paint(STRONG, text)));
            let text = format!(
                "each of {records} is the exact result of its own recorded inputs, but for rounding; what lies \
                 between the runs is rounding that was carried on"
            );
            line(out, wrap("  ", &text));
        }
        (None, Who::Unknown) => {
            let message = report.error.as_ref().map(|e| e.message.as_str());
            line(
                out,
                paint(BAD, wrap("✗ can't tell: ", message.unwrap_or_default())),
            );
        }
        (None, _) => {
            let text = if two { "neither is off" } else { "nothing is off" };
            line(out, format!("{} {}", paint(GOOD, "✓"), paint(STRONG, text)));
            let text =
                format!("each of {records} is the exact result of its own recorded inputs, but for rounding");
            line(out, wrap("  ", &text));
        }
    }
}

fn by_how_much(origin: &Finding) -> String {
    let mut text = format!(
        "relative L2 {} from the exact result of its own recorded inputs; rounding explains {}",
        sci(origin.rel_l2),
        sci(origin.expected)
    );
    if let Some(scale) = origin.scale {
        text.push_str(&format!("; it is the exact result times {}", factor(scale)));
    }
    text
}

fn label<'a>(run: &'a str, report: &JudgeReport, labels: &'a Labels) -> &'a str {
    match &report.runs[..] {
        [_, right] if right.run.name == run && labels.right != run => &labels.right,
        [left, _] if left.run.name == run => &labels.left,
        _ => run,
    }
}

fn computes(run: &JudgedRun) -> String {
    let engine = match run.run.engine.as_str() {
        "" => "an engine that is not named",
        engine => engine,
    };
    let mut text = format!("{engine}, {} cache", run.kv_type);
    for (dtype, rounding) in run.rounding.iter().filter(|(dtype, _)| *dtype != "F32") {
        text.push_str(&format!("; {dtype} products with activations {}", rounding.how));
        if !rounding.known {
            text.push_str(&format!(
                " at best ({} off, so it is not known)",
                sci(rounding.rel_l2)
            ));
        }
    }
    if run.attention != "not rounded" {
        text.push_str(&format!("; queries and probabilities {}", run.attention));
    }
    text
}

fn findings(out: &mut String, report: &JudgeReport, labels: &Labels) {
    line(out, "");
    let head = format!(
        "  {:<14} {:<12} {:<12} {:<9} {:>11} {:>9}",
        "off", "run", "layers", "seq", "records", "worst"
    );
    line(out, paint(STRONG, head));
    for finding in report.findings.iter().take(2 * LISTED) {
        let text = format!(
            "  {} {} {} {} {:>11} {:>9}",
            pad(&finding.first.stage, 14),
            pad(&cut(label(&finding.run, report, labels), 12), 12),
            pad(&cut(&ranges(&finding.layers), 12), 12),
            pad(&span(finding.seq), 9),
            format!("{}/{}", finding.off, finding.told),
            sci(finding.worst_rel_l2)
        );
        line(out, paint(BAD, text));
    }
    if let Some(more) = report.findings.len().checked_sub(2 * LISTED).filter(|&n| n > 0) {
        line(out, format!("  … and {more} more"));
    }
}

fn stages(out: &mut String, report: &JudgeReport, labels: &Labels) {
    line(out, "");
    let two = report.runs.len() > 1;
    let columns = match two {
        true => format!(
            " {:>10} {:>10} {:>9}  verdict",
            cut(&labels.left, 10),
            cut(&labels.right, 10),
            "apart"
        ),
        false => format!(" {:>10} {:>10}  verdict", "median", "worst"),
    };
    let head = format!("  {} {:>9}{columns}", pad("stage", 14), "rounding");
    line(out, paint(STRONG, head));
    for stage in &report.stages {
        let worst = |side: Option<SideView>| side.map_or("-".to_owned(), |side| sci(side.worst));
        let numbers = match two {
            true => format!(
                " {:>10} {:>10} {:>9}",
                worst(stage.left),
                worst(stage.right),
                stage.apart.map_or("-".to_owned(), sci)
            ),
            false => format!(
                " {:>10} {:>10}",
                stage.left.map_or("-".to_owned(), |side| sci(side.median)),
                worst(stage.left)
            ),
        };
        let text = format!("  {} {:>9}{numbers}", pad(&stage.stage, 14), sci(stage.expected));
        line(out, format!("{text}  {}", said(stage, labels, two)));
    }
    line(out, "");
    let text = match two {
        true => {
            "rounding: the largest relative L2 from the exact result that it explains; then the worst of each run, \
             and the median between the runs"
        }
        false => "rounding: the largest relative L2 from the exact result that it explains",
    };
    line(out, paint(FAINT, wrap("  ", text)));
}

fn said(stage: &StageView, labels: &Labels, two: bool) -> String {
    match stage.verdict {
        Who::Clean => paint(GOOD, "clean"),
        Who::Inherited => "inherited".to_owned(),
        Who::Unknown => paint(FAINT, "can't tell"),
        Who::Both => paint(BAD, "both off"),
        Who::Left if two => paint(BAD, format!("{} off", cut(&labels.left, 12))),
        Who::Left => paint(BAD, "off"),
        Who::Right => paint(BAD, format!("{} off", cut(&labels.right, 12))),
    }
}

fn refused(out: &mut String, report: &JudgeReport) {
    let total: u64 = report.refused.iter().map(|r| r.count).sum();
    if total == 0 || report.told == 0 {
        return;
    }
    let records = plural(total, "record");
    line(out, format!("  can't tell of {records}:"));
    for refused in report.refused.iter().take(LISTED) {
        let text = format!(
            "{} of {} in {}, because {}",
            refused.count, refused.stage, refused.run, refused.reason
        );
        line(out, wrap("    ", &text));
    }
    if report.refused.len() > LISTED {
        line(out, "    …");
    }
}

fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn span([first, last]: [i64; 2]) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

/// `0-5,7`.
fn ranges(numbers: &[i32]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut all: Vec<[i64; 2]> = Vec::new();
    for n in numbers.into_iter().map(i64::from) {
        match all.last_mut() {
            Some([_, last]) if *last + 1 == n => *last = n,
            _ => all.push([n, n]),
        }
    }
    all.into_iter().map(span).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_as_ranges() {
        for (layers, text) in [
            (vec![], ""),
            (vec![-1], "-1"),
            (vec![3, 0, 1, 2], "0-3"),
            (vec![0, 1, 5, 7, 8], "0-1,5,7-8"),
        ] {
            assert_eq!(ranges(&layers), text);
        }
    }
}
