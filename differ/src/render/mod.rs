//! Reports as text for people: at most about 80 columns, with ANSI styles that the writer may strip.

mod align;
mod calibrate;
mod ci;
mod compare;
mod cross;
mod doctor;
mod export;
mod first;
mod import;
mod judge;
mod plan;
mod query;
mod record;
mod recover;
mod runs;
mod three;
mod tokens;

pub use align::align;
pub use calibrate::calibrate;
pub use ci::{github, junit};
pub use compare::compare;
pub use cross::cross;
pub use doctor::doctor;
pub use export::export;
pub use first::first;
pub use import::import;
pub use judge::judge;
pub use plan::plan;
pub use query::query;
pub use record::record;
pub use recover::recover;
pub use runs::runs;
pub use three::three;
pub use tokens::tokens;

use crate::{
    compare::Counts,
    local::LocalView,
    num::plural,
    report::{Common, Labels, RunView},
};
use anstyle::{AnsiColor, Style};
use std::fmt::Write;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Stages or reasons that are listed before an ellipsis.
const LISTED: usize = 6;

fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Adds a line; writing to a string cannot fail.
fn line(out: &mut String, text: impl std::fmt::Display) {
    let _ = writeln!(out, "{text}");
}

/// The first digits of a hash.
fn short(hash: &str) -> String {
    hash.chars().take(8).collect()
}

/// A run's engine, in brackets.
fn engine(run: &RunView) -> String {
    match run.engine.as_str() {
        "" => String::new(),
        name => format!("({name})"),
    }
}

/// Pads to `width` characters (`{:width$}` counts them as well, but not in styled text).
fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.chars().count())))
}

/// Wraps a text at about 80 columns; lines after the first are indented.
fn wrap(prefix: &str, text: &str) -> String {
    let mut out = String::from(prefix);
    let mut width = prefix.chars().count();
    for (i, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if i > 0 && width + 1 + length > 80 {
            out.push_str("\n    ");
            width = 4;
        } else if i > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out
}

/// `3 records compared: 1 identical, 2 within`.
fn compared(counts: &Counts) -> String {
    let total = plural(counts.compared(), "record");
    match counted(counts) {
        none if none.is_empty() => format!("{total} compared"),
        some => format!("{total} compared: {some}"),
    }
}

fn counted(counts: &Counts) -> String {
    let all = [
        (counts.identical, "identical"),
        (counts.within, "within"),
        (counts.diverged, "diverged"),
    ];
    let some = all.iter().filter(|(n, _)| *n > 0);
    some.map(|(n, what)| format!("{n} {what}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Which rule spoke of how many records.
fn refereed(local: &LocalView) -> String {
    let mut text = format!(
        "{} of both runs recomputed from their own recorded inputs and {}, {} off",
        plural(local.told, "record"),
        local.model,
        local.off
    );
    if local.inherited > 0 {
        let inherited = format!(
            "; {} differ by more than the tolerance, and inherited that",
            local.inherited
        );
        text.push_str(&inherited);
    }
    if local.untold > 0 {
        text.push_str(&format!("; {} could not be told", local.untold));
    }
    text
}

/// What was not compared, and the notes.
fn remarks(out: &mut String, common: &Common, labels: &Labels) {
    if let Some(local) = &common.local {
        line(out, wrap("  referee: ", &refereed(local)));
    }
    given(out, common);
    let sides = [
        (&labels.left, common.counts.missing_right),
        (&labels.right, common.counts.missing_left),
    ];
    for (i, (label, total)) in sides.into_iter().enumerate() {
        if total == 0 {
            continue;
        }
        let of_side = |m: &crate::report::MissingStage| if i == 0 { m.right } else { m.left };
        let stages: Vec<_> = common.missing.iter().filter(|m| of_side(m) > 0).collect();
        let mut shown: Vec<String> = stages
            .iter()
            .take(LISTED)
            .map(|m| format!("{} {}", m.stage, of_side(m)))
            .collect();
        if stages.len() > LISTED {
            shown.push("…".into());
        }
        let text = format!(
            "only in {label}: {} ({})",
            plural(total, "record"),
            shown.join(", ")
        );
        line(out, wrap("  ", &text));
    }
    let extra: u64 = common.missing.iter().map(|m| m.extra_visits).sum();
    if extra > 0 {
        let verb = if extra == 1 {
            "is a further visit"
        } else {
            "are further visits"
        };
        let mut text = format!("of these, {extra} {verb} of keys that both runs have");
        if common.counts.diverged > 0 {
            text.push_str(
                "; visits pair in order, so a pass that only one run made first (a warm-up) makes the rest differ",
            );
        }
        line(out, wrap("  ", &text));
    }
    for group in &common.incomparable {
        let count = plural(group.count, "record");
        let text = format!("not compared: {count}, first {}: {}", group.first, group.message);
        line(out, wrap("  ", &text));
    }
    if common.identical_with_nan > 0 {
        let count = plural(common.identical_with_nan, "record");
        line(
            out,
            format!("  note: {count} hold NaN, the same bytes on both sides"),
        );
    }
    for note in &common.notes {
        line(out, wrap("  note: ", &note.message));
    }
}

/// What both runs were given alike; what they were not, the notes tell.
fn given(out: &mut String, common: &Common) {
    let alike = common.given.iter().filter(|g| g.same == Some(true));
    let texts: Vec<String> = alike
        .map(|g| match (g.what, g.left.as_deref().unwrap_or_default()) {
            ("model", hash) => format!("model {}...", short(hash)),
            ("tokenizer", _) => "tokenizer".to_owned(),
            ("token ids", _) => plural(common.token_ids.equal, "token id"),
            (what, value) => format!("{what} {value}"),
        })
        .collect();
    if !texts.is_empty() {
        line(out, wrap("  the same for both: ", &texts.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_at_80_columns() {
        let text = wrap("  note: ", &"word ".repeat(40));
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.lines().skip(1).all(|l| l.starts_with("    w")), "{text}");
    }
}
