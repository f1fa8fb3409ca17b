use super::{BAD, FAINT, GOOD, line, paint, wrap};
use crate::{
    doctor::{Difference, DoctorReport, Health, Observed, Outcome, median},
    num::{bytes, plural, sci, sig},
};

/// `doctor` as text.
pub fn doctor(report: &DoctorReport) -> String {
    let mut out = String::new();
    // What is in order is no news beside what the observer saw.
    let told = |status| report.observer.is_none() || status > Health::Ok;
    for check in report.checks.iter().filter(|c| told(c.status)) {
        let mark = match check.status {
            Health::Ok => paint(GOOD, "✓"),
            Health::Note => "·".into(),
            Health::Problem => paint(BAD, "✗"),
        };
        let text = wrap(&format!("  {}: ", check.name), &check.message);
        line(&mut out, format!("{mark}{}", &text[1..]));
    }
    if let Some(observed) = &report.observer {
        observer(&mut out, observed);
        if let Some(error) = &report.error {
            line(&mut out, paint(BAD, wrap("✗ ", &error.message)));
        }
    }
    out
}

fn observer(out: &mut String, seen: &Observed) {
    let (mark, verdict) = if seen.is_changed() {
        (paint(BAD, "✗"), "recording changes what the program gives")
    } else if seen.undecided().is_none() {
        (
            paint(GOOD, "✓"),
            "recording does not change what the program gives",
        )
    } else {
        (
            paint(BAD, "✗"),
            "nothing tells whether recording changes anything",
        )
    };
    line(out, format!("{mark} {verdict}"));
    let text = match seen.text.outcome {
        Outcome::Same => format!(
            "the same {} in {} without recording and {} with it",
            plural(seen.text.bytes, "byte"),
            plural(seen.runs as u64, "run"),
            2 * seen.runs
        ),
        Outcome::Different => "different with recording".into(),
        Outcome::Unstable => "differs from run to run without recording: it tells nothing".into(),
    };
    line(out, wrap("  text:   ", &text));
    if let Some(difference) = &seen.text.difference {
        let names = if seen.text.outcome == Outcome::Unstable {
            ["one run:", "another:"]
        } else {
            ["without:", "with:   "]
        };
        shown(out, difference, names);
    }
    line(out, wrap("  logits: ", &logits(seen)));
    let time = format!(
        "{} s without, {} s with recording: {} x ({} each, medians)",
        sig(median(&seen.seconds_without), 3),
        sig(median(&seen.seconds_with), 3),
        sig(seen.slowdown, 3),
        plural(seen.runs as u64, "run"),
    );
    line(out, wrap("  time:   ", &time));
    let dropped = match seen.dropped {
        0 => "nothing dropped".to_owned(),
        n => format!("{n} dropped"),
    };
    let recorded = format!(
        "{}, {}, {dropped}",
        plural(seen.records, "record"),
        bytes(seen.bytes)
    );
    line(out, format!("  recorded: {recorded}"));
    for reason in &seen.incomplete {
        line(out, paint(BAD, wrap("  incomplete: ", reason)));
    }
    for note in crate::notes::touched(&seen.observation) {
        line(out, paint(FAINT, wrap("  note: ", note)));
    }
}

fn shown(out: &mut String, difference: &Difference, names: [&str; 2]) {
    let place = match difference.line {
        Some(n) => format!("first in line {n}:"),
        None => "they end differently:".into(),
    };
    line(out, format!("    {place}"));
    line(out, format!("    {} {}", names[0], difference.without));
    line(out, format!("    {} {}", names[1], difference.with));
}

fn logits(seen: &Observed) -> String {
    let Some(logits) = &seen.logits else {
        return "none are recorded (stage logits); the text alone tells".into();
    };
    let missing = match logits.missing {
        0 => String::new(),
        n => format!("; {} in some runs only", plural(n, "record")),
    };
    match logits.outcome {
        Outcome::Same => format!(
            "{}: the same bits recorded alone and with everything else",
            plural(logits.compared, "pair")
        ),
        Outcome::Different => {
            let worst = match logits.worst_rel_l2 {
                Some(worst) => format!(", relative L2 up to {}", sci(worst)),
                None => String::new(),
            };
            format!(
                "{} of {} pairs differ between recorded alone and with everything else{worst}{missing}",
                logits.differing, logits.compared
            )
        }
        Outcome::Unstable => "differ from run to run, also recorded alone: they tell nothing".into(),
    }
}
