use super::{BAD, FAINT, GOOD, STRONG, line, paint, wrap};
use crate::{
    compare::Status,
    judge::Verdict,
    num::{cosine, plural, sci, sig},
    report::Labels,
    tokens::{Position, TokensReport},
};

/// `tokens` as text: a line a position, with ✓ or ✗.
pub fn tokens(report: &TokensReport, labels: &Labels) -> String {
    let mut out = String::new();
    line(
        &mut out,
        format!(
            "logits of {} and {}, {}",
            labels.left, labels.right, report.tolerance
        ),
    );
    let overlap = format!("top-{}", report.top_k);
    let head = format!(
        "    {:>4} {:>7}  {:<10} {:>8} {:>8}  {:<15} {overlap:>6}",
        "seq", "token", "cosine", "rel. L2", "KL", "top-1"
    );
    line(&mut out, paint(STRONG, head));
    let requests = report.positions.iter().any(|p| p.request != 0);
    let first = report.positions.iter().position(Position::diverged);
    for (i, p) in report.positions.iter().enumerate() {
        let text = position(p, requests, first == Some(i));
        line(&mut out, text.trim_end());
    }
    let matching = report.positions.iter().filter(|p| p.verdict.is_match()).count();
    let total = plural(report.positions.len() as u64, "position");
    let agree = report
        .positions
        .iter()
        .filter(|p| p.top1_agree == Some(true))
        .count();
    // Statistics alone do not tell the most likely token; of a row of NaN there is none, and no agreement.
    let known = report
        .positions
        .iter()
        .filter(|p| p.top1_left.is_some() || p.top1_right.is_some())
        .count();
    let of = if known < report.positions.len() {
        format!(" of {known}")
    } else {
        String::new()
    };
    let mut summary = format!("{matching} of {total} match, top-1 agrees at {agree}{of}");
    if report.positions.iter().any(|p| p.top1_agree == Some(false)) {
        let flips = report.positions.iter().filter(|p| p.top1_flip == Some(true));
        let flips = plural(flips.count() as u64, "flip");
        summary.push_str(&format!(" ({flips} beyond near ties)"));
    }
    let mark = if report.status == Status::Ok {
        paint(GOOD, "✓")
    } else {
        paint(BAD, "✗")
    };
    line(&mut out, format!("{mark} {summary}"));
    if let Some(error) = &report.error {
        line(&mut out, wrap("  no verdict: ", &error.message));
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn position(p: &Position, requests: bool, first: bool) -> String {
    let mark = match p.verdict {
        Verdict::Identical | Verdict::Within => paint(GOOD, "✓"),
        Verdict::Diverged => paint(BAD, "✗"),
        _ => paint(FAINT, "-"),
    };
    let request = if requests {
        format!("{}/", p.request)
    } else {
        String::new()
    };
    let seq = format!("{request}{}", p.seq);
    let token = match (p.token_left, p.token_right) {
        (Some(l), Some(r)) if l != r => format!("{l}|{r}"),
        (Some(id), _) | (None, Some(id)) => id.to_string(),
        _ => "?".into(),
    };
    let number = |x: Option<f64>, f: fn(f64) -> String| x.map_or("-".to_owned(), f);
    let top1 = match (p.top1_left, p.top1_right) {
        (Some(l), Some(r)) if l == r => format!("{l}"),
        (Some(l), Some(r)) => format!("{l}|{r}"),
        _ => "-".into(),
    };
    let overlap = number(p.top_k_overlap, |x| format!("{:.0} %", 100.0 * x));
    let mut text = format!(
        "  {mark} {seq:>4} {token:>7}  {:<10} {:>8} {:>8}  {top1:<15} {overlap:>6}",
        number(p.cosine, cosine),
        number(p.rel_l2, sci),
        number(p.kl, |x| if x == 0.0 { "0".into() } else { sig(x, 2) }),
    );
    match p.verdict {
        Verdict::MissingLeft => text.push_str("  only on the right"),
        Verdict::MissingRight => text.push_str("  only on the left"),
        _ => {}
    }
    if let Some(reason) = p.reason.as_ref().filter(|r| r.kind != "tolerance") {
        text.push_str(&format!("  {}", reason.message));
    }
    if first {
        text.push_str("  ← First divergence");
    }
    text
}
