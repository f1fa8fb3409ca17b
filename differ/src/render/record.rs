use super::{BAD, GOOD, line, paint, wrap};
use crate::{
    num::{bytes, plural},
    recording::RecordReport,
};

/// `record` as text.
pub fn record(report: &RecordReport) -> String {
    let mut out = String::new();
    for recorded in &report.runs {
        let run = &recorded.run;
        let mark = if run.complete && run.records > 0 {
            paint(GOOD, "✓")
        } else {
            paint(BAD, "✗")
        };
        let what = format!(
            "{} of {}, {}, {}",
            plural(run.records, "record"),
            plural(recorded.stages.len() as u64, "stage"),
            plural(recorded.tokens, "token"),
            bytes(run.bytes)
        );
        let dropped = match run.dropped {
            0 => String::new(),
            n => format!(", {n} dropped"),
        };
        line(&mut out, format!("{mark} recorded {}: {what}{dropped}", run.name));
        line(&mut out, format!("  {}", run.path));
        if let Some(selection) = &run.selection {
            line(&mut out, wrap("  selected: ", selection));
        }
        if let Some(threads) = recorded.threads.filter(|&n| n > 1 && run.observation.graph_split) {
            let slow = format!(
                "{threads} threads computed, started anew for each recorded node, which is slow: with one it is faster \
                 (--threads-hint 1, or the program's own option), as with a narrower --select"
            );
            line(&mut out, wrap("  note: ", &slow));
        }
        for reason in run.problems() {
            line(&mut out, wrap("  ", reason));
        }
    }
    if let Some(error) = &report.error {
        // As every error: in one line, so that a path in it stays whole.
        line(&mut out, format!("error: {}", error.message));
    }
    out
}
