use super::{BAD, FAINT, GOOD, line, paint, wrap};
use crate::{
    num::{bytes, plural},
    recover::{Outcome, RecoverLine, RecoveriesReport},
};
use bitnet_trace_schema::RunState;

/// `recover` as text: a line a run, and what was saved of it.
pub fn recover(report: &RecoveriesReport) -> String {
    let mut out = String::new();
    for run in &report.runs {
        one(&mut out, run);
    }
    out
}

fn one(out: &mut String, run: &RecoverLine) {
    let holds = format!(
        "{} in {}",
        plural(run.records, "record"),
        plural(run.parts as u64, "part")
    );
    let cause = run.cause.as_deref().unwrap_or_default();
    let (style, text) = match (run.outcome, run.state) {
        (Outcome::Recovered, _) => (GOOD, format!("✓ {}: recovered; it has {holds}", run.run)),
        (Outcome::Ended, Some(RunState::Recovered)) => (
            FAINT,
            format!("· {}: it was recovered before; it has {holds}", run.run),
        ),
        (Outcome::Ended, state) => {
            let state = state.map_or("ended", RunState::name);
            (
                FAINT,
                format!("· {}: {state}, nothing to do; it has {holds}", run.run),
            )
        }
        (Outcome::Live, _) => (FAINT, format!("· {}: {cause}", run.run)),
        (Outcome::Failed, _) => (BAD, format!("✗ {}: it cannot be recovered: {cause}", run.run)),
    };
    line(out, paint(style, wrap("", &text)));
    for part in &run.recovered {
        let saved = format!(
            "{}: {} of the open part saved, {} at its end cut off",
            part.file,
            plural(part.records, "record"),
            bytes(part.cut_bytes)
        );
        line(out, wrap("    ", &saved));
        if let Some(problem) = &part.problem {
            line(out, wrap("    ", problem));
        }
    }
    for note in &run.notes {
        line(out, wrap("    ", note));
    }
}
