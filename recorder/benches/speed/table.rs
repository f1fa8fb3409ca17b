//! The table that is printed, and kept in BENCHMARKS.md.

use std::path::Path;

/// A figure and what it should reach.
pub struct Row {
    pub what: String,
    pub reach: String,
    pub measured: String,
    pub reached: bool,
}

pub fn render(rows: &[Row], facts: &[String]) -> String {
    let mut text = String::from("| What | Reach | Measured | Reached |\n|---|---|---|---|\n");
    for row in rows {
        let reached = if row.reached { "yes" } else { "no" };
        text += &format!(
            "| {} | {} | {} | {reached} |\n",
            row.what, row.reach, row.measured
        );
    }
    for fact in facts {
        text += &format!("\n- {fact}");
    }
    text
}

/// Puts the table between the marks of `section` in `file`.
pub fn write(file: &Path, section: &str, text: &str) -> Result<(), Box<dyn std::error::Error>> {
    let begin = format!("<!-- {section}: written by `make bench` -->");
    let end = format!("<!-- end of {section} -->");
    let old = std::fs::read_to_string(file)?;
    let (before, rest) = old
        .split_once(&begin)
        .ok_or("the file has no place for the table")?;
    let (_, after) = rest.split_once(&end).ok_or("the file has no end of the table")?;
    std::fs::write(file, format!("{before}{begin}\n\n{text}\n\n{end}{after}"))?;
    Ok(())
}

/// The middle one; of an even number, the upper.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of each side's times, and of the ratios of the pairs, which were measured in turns.
pub fn medians(pairs: &[(f64, f64)]) -> (f64, f64, f64) {
    let of = |f: fn(&(f64, f64)) -> f64| median(&mut pairs.iter().map(f).collect::<Vec<_>>());
    (of(|p| p.0), of(|p| p.1), of(|p| p.0 / p.1))
}
