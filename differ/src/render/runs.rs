use super::{BAD, FAINT, STRONG, line, pad, paint, wrap};
use crate::{
    notes,
    num::bytes,
    runs::{RunLine, RunsReport},
};
use bitnet_trace_schema::RunState;

/// `runs` as text: a line a run, oldest first.
pub fn runs(report: &RunsReport) -> String {
    let mut out = String::new();
    line(&mut out, &report.database);
    let width = |of: &dyn Fn(&RunLine) -> usize| report.runs.iter().map(of).max().unwrap_or(0);
    let name = width(&|r| r.name.chars().count()).max(4);
    let engine = width(&|r| engine_name(r).chars().count()).max(6);
    let head = format!(
        "  {} {} {:<9} {:>8} {:>9}  started (UTC)",
        pad("run", name),
        pad("engine", engine),
        "state",
        "records",
        "size"
    );
    line(&mut out, paint(STRONG, head));
    for run in &report.runs {
        let state = run.state.map_or("damaged", RunState::name);
        let text = format!(
            "  {} {} {state:<9} {:>8} {:>9}  {}",
            pad(&run.name, name),
            pad(&engine_name(run), engine),
            run.records,
            bytes(run.bytes),
            utc(run.created_unix_ms),
        );
        line(&mut out, if run.complete { text } else { paint(BAD, text) });
        for reason in run.problems() {
            line(&mut out, wrap("    ", reason));
        }
        if let Some(selection) = &run.selection {
            line(&mut out, paint(FAINT, wrap("    selected: ", selection)));
        }
        for touched in notes::touched(&run.observation) {
            line(&mut out, paint(FAINT, wrap("    ", touched)));
        }
    }
    out
}

fn engine_name(run: &RunLine) -> String {
    format!("{} {}", run.engine, run.engine_version).trim().to_owned()
}

/// Date and time of Unix milliseconds: `2025-01-31 23:59:59`.
pub(super) fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Civil date of a day number (H. Hinnant, "chrono-compatible low-level date algorithms"): years
    // begin in March, so that the leap day is the last.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_827_696_000), "2000-02-29 12:34:56");
        assert_eq!(utc(1_735_689_599_999), "2024-12-31 23:59:59");
    }
}
