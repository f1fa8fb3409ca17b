use super::{
    BAD, FAINT, GOOD, LISTED, STRONG, compared, counted, engine, line, pad, paint, remarks, short, wrap,
};
use crate::{
    compare::Status,
    first::{Divergence, FirstReport, SideView},
    floor::Judgement,
    inputs::Inputs,
    judge::Verdict,
    neighbourhood::Neighbourhood,
    num::{self, cosine, plural, sci, sig, sig_option},
    report::Labels,
};

/// `first` as text. The first line of a divergence is `✗ First divergence at seq=S, layer=L, stage=STAGE`.
pub fn first(report: &FirstReport, labels: &Labels) -> String {
    let mut out = String::new();
    match (&report.first_divergence, report.status()) {
        (Some(d), _) => divergence(&mut out, report, d, labels),
        (None, Status::Error) => {
            let message = report
                .common
                .error
                .as_ref()
                .map(|e| e.message.clone())
                .unwrap_or_default();
            line(&mut out, paint(BAD, wrap("✗ no verdict: ", &message)));
            line(
                &mut out,
                format!("  compared: {}", counted(&report.common.counts)),
            );
        }
        (None, _) => matches(&mut out, report),
    }
    remarks(&mut out, &report.common, labels);
    out
}

fn matches(out: &mut String, report: &FirstReport) {
    let counts = &report.common.counts;
    let compared = plural(counts.compared(), "record");
    let verb = if counts.compared() == 1 {
        "matches"
    } else {
        "match"
    };
    let how = match (counts.identical, counts.within) {
        (_, 0) => "all identical".to_owned(),
        (0, _) => format!("all within {}", report.common.tolerance),
        (i, w) => format!("{i} identical, {w} within {}", report.common.tolerance),
    };
    line(out, format!("{} {compared} {verb}: {how}", paint(GOOD, "✓")));
    if let Some(floor) = &report.common.floor {
        judged(out, floor);
    }
    if let Some(worst) = &report.worst_match {
        line(
            out,
            format!(
                "  furthest apart: {}, relative L2 {}",
                worst.key,
                sci(worst.rel_l2)
            ),
        );
    }
}

fn divergence(out: &mut String, report: &FirstReport, d: &Divergence, labels: &Labels) {
    let key = crate::plan::Key {
        request: d.request,
        seq: d.seq,
        layer: d.layer,
        stage: d.stage.as_str().into(),
    };
    let visit = if d.visit > 0 {
        format!(" (visit {})", d.visit + 1)
    } else {
        String::new()
    };
    line(
        out,
        format!(
            "{} {}{visit}",
            paint(BAD, "✗"),
            paint(STRONG, format!("First divergence at {key}"))
        ),
    );
    let runs = &report.common.runs;
    let width = labels.left.chars().count().max(labels.right.chars().count());
    for (label, view, run) in [
        (&labels.left, &d.left, &runs.left),
        (&labels.right, &d.right, &runs.right),
    ] {
        let engine = match engine(run) {
            unknown if unknown.is_empty() => unknown,
            known => format!("  {}", paint(FAINT, known)),
        };
        match view {
            SideView::Record(r) => {
                let head = pad(&format!("{label} blake3:"), width + 8);
                let rms = sig_option(r.rms, 6);
                let text = format!("  {head} {}...  rms {rms}{engine}", short(&r.blake3));
                line(out, text);
            }
            SideView::Token { token_id } => {
                let head = pad(&format!("{label} token id:"), width + 10);
                line(out, format!("  {head} {token_id}{engine}"));
            }
        }
    }
    measures(out, d, labels);
    evidence(out, &d.inputs);
    if let Some(floor) = &report.common.floor
        && floor.drift
    {
        let text = "no stage makes the error grow more than on sound runs: it drifts beyond the floor, and has no origin that \
            its growth could tell";
        line(out, wrap("  ", text));
    }
    line(out, "");
    line(out, format!("  {}", compared(&report.common.counts)));
    if let Some(floor) = &report.common.floor {
        judged(out, floor);
    }
    if let Some(stopped) = &report.stopped {
        let request = match stopped.request {
            0 => String::new(),
            request => format!("request={request}, "),
        };
        let text = format!(
            "that is up to {request}seq={}; --all compares the other {}",
            stopped.seq,
            plural(stopped.not_compared, "record")
        );
        line(out, wrap("  ", &text));
    }
    if report.inherited > 0 {
        let text = format!(
            "{} of the diverged have inputs that had diverged already",
            report.inherited
        );
        line(out, wrap("  ", &text));
    }
    if report.unplaced > 0 {
        let text = format!(
            "{} of the diverged: inputs unknown, since the vocabulary lacks their stages (--stages adds some)",
            report.unplaced
        );
        line(out, wrap("  ", &text));
    }
    origins(out, report);
}

/// What a verdict by a floor rests on, and how small an error it can tell.
fn judged(out: &mut String, floor: &Judgement) {
    if let Some(largest) = floor.largest.as_ref() {
        let text = format!(
            "closest to the floor's limit: layer={}, stage={}, at {} of it",
            largest.layer,
            largest.stage,
            sig(largest.of_limit, 2)
        );
        line(out, wrap("  ", &text));
    }
    if let (Some(median), Some(worst)) = (floor.locatable, floor.locatable_worst) {
        let text = format!(
            "not locatable: an error made in one stage below relative L2 {} (median of the stages; up to {})",
            sci(median),
            sci(worst)
        );
        line(out, wrap("  ", &text));
    }
}

fn measures(out: &mut String, d: &Divergence, labels: &Labels) {
    let source = &d.tolerance.source;
    let with_source = match d.reason.kind {
        "tolerance" | "hash" | "floor" => format!("{} ({source})", d.reason.message),
        "local" => {
            let sides = [("the left side", &labels.left), ("the right side", &labels.right)];
            let named = |text: String, (side, label): (&str, &String)| text.replacen(side, label, 1);
            sides.into_iter().fold(d.reason.message.clone(), named)
        }
        _ => d.reason.message.clone(),
    };
    let Some(m) = &d.metrics else {
        line(out, wrap("  ", &with_source));
        return;
    };
    let mut first = with_source;
    if let Some(index) = &d.nonfinite_index {
        first.push_str(&format!(", first at {index:?}"));
    }
    let by_distance = matches!(d.reason.kind, "tolerance" | "floor");
    let told = |gate: &str| by_distance && d.reason.message.contains(gate);
    // Of rows of different length, the measures tell of their common part only.
    let whole = d.reason.kind != "future_mass";
    if whole && !told("relative L2") && m.rel_l2.is_finite() {
        first.push_str(&format!(", relative L2 {}", sci(m.rel_l2)));
    }
    if whole && !told("cosine") && m.cosine.is_finite() {
        first.push_str(&format!(", cosine {}", cosine(m.cosine)));
    }
    line(out, wrap("  ", &first));
    if let (Some(index), Some(left), Some(right)) = (&d.max_abs_index, m.max_abs_left, m.max_abs_right) {
        let (size, left, right) = (sig(m.max_abs, 3), sig(left, 5), sig(right, 5));
        line(
            out,
            format!("  max |Δ| {size} at {index:?}: {left} against {right}"),
        );
    }
    if let Some(scale) = m.wrong_scale().filter(|_| whole) {
        line(out, format!("  looks like a scale of {}", num::factor(scale)));
    }
    // A fault of some heads, say, and not of all.
    if let (Some(row), Some(worst)) = (m.worst_row, m.worst_row_rel_l2)
        && worst > 2.0 * m.rel_l2
    {
        let rows = plural(m.rows, "row");
        line(
            out,
            format!("  worst of {rows}: row {row}, relative L2 {}", sci(worst)),
        );
    }
    if let Some(around) = &d.neighbourhood {
        neighbourhood(out, around, labels);
    }
    if let (SideView::Record(l), SideView::Record(r)) = (&d.left, &d.right)
        && l.dtype != r.dtype
    {
        line(
            out,
            format!("  dtype {} against {}: compared by value", l.dtype, r.dtype),
        );
    }
}

/// The values around the one in question, a line a side, in columns.
fn neighbourhood(out: &mut String, around: &Neighbourhood, labels: &Labels) {
    let width = labels
        .left
        .chars()
        .count()
        .max(labels.right.chars().count())
        .clamp(6, 12);
    let columns = around.from..around.from + around.left.len() as u64;
    let head = columns.map(|column| match column == around.at {
        true => format!("{:>8}", format!("[{column}]")),
        false => format!("{column:>8}"),
    });
    let head: String = head.collect();
    line(out, paint(FAINT, format!("    {}{head}", pad("column", width))));
    for (label, values) in [(&labels.left, &around.left), (&labels.right, &around.right)] {
        let label: String = label.chars().take(width).collect();
        let values: String = values.iter().map(|&x| format!("{:>8}", sig(x, 3))).collect();
        line(out, format!("    {}{values}", pad(&label, width)));
    }
}

fn evidence(out: &mut String, inputs: &Inputs) {
    let shown = inputs.compared.iter().take(LISTED).map(|i| {
        let error = match (i.verdict, i.rel_l2) {
            (Verdict::Identical, _) => "identical".to_owned(),
            (_, Some(x)) => format!("relative L2 {}", sci(x)),
            (_, None) => "compared by hash".to_owned(),
        };
        let layer = if i.layer < 0 {
            String::new()
        } else {
            format!(" of layer {}", i.layer)
        };
        let records = if i.records > 1 {
            format!(", worst of {} positions", i.records)
        } else {
            String::new()
        };
        format!("{}{layer} ({error}{records})", i.stage)
    });
    let shown: Vec<String> = shown.collect();
    if !shown.is_empty() {
        let clean = inputs.compared.iter().all(|i| i.verdict.is_match());
        let word = if clean { "inputs clean: " } else { "inputs: " };
        line(out, wrap(&format!("  {word}"), &shown.join(", ")));
    }
    if !inputs.not_compared.is_empty() {
        let names = &inputs.not_compared;
        let mut shown: Vec<&str> = names.iter().map(String::as_str).take(LISTED).collect();
        let more = format!("{} more", names.len().saturating_sub(LISTED));
        if names.len() > LISTED {
            shown.push(&more);
        }
        let text = format!(
            "not compared between: {}; the fault may be there already",
            shown.join(", ")
        );
        line(out, wrap("  ", &text));
    }
}

/// Origins beyond the first, a line for each layer and stage.
fn origins(out: &mut String, report: &FirstReport) {
    let groups = &report.origins;
    if groups.len() < 2 && groups.iter().all(|g| g.records < 2) {
        return;
    }
    let text = match groups.len() {
        1 => "it begins at one place, inputs clean:".to_owned(),
        n => format!("{n} independent origins, each with clean inputs:"),
    };
    line(out, format!("  {text}"));
    for origin in groups.iter().take(LISTED) {
        let positions = plural(origin.records, "record");
        let worst = origin
            .worst
            .as_ref()
            .map(|w| match w.rel_l2 {
                x if x.is_nan() => ", not finite".to_owned(),
                x => format!(", relative L2 up to {}", sci(x)),
            })
            .unwrap_or_default();
        let place = format!("layer={}, stage={}", origin.layer, origin.stage);
        line(
            out,
            format!("    {place}: {positions} from seq={}{worst}", origin.seq),
        );
    }
    if groups.len() > LISTED {
        line(
            out,
            format!("    … {} more (--format json has all)", groups.len() - LISTED),
        );
    }
}
