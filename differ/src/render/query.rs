use super::{FAINT, STRONG, line, pad, paint, short, wrap};
use crate::{
    num::{sci, sig, sig_option},
    query::{Cell, QueryReport},
};

/// Width of a run's column: rms, largest absolute value, hash.
const COLUMN: usize = 27;
/// And of the relative L2 beside them, in every column but the first.
const DISTANCE: usize = 8;

/// `query` as text: a line a key, a column a run. `fold` puts the runs below each other, for narrow
/// terminals or many runs.
pub fn query(report: &QueryReport, fold: bool) -> String {
    let mut out = String::new();
    let names: Vec<&str> = report.runs.iter().map(|r| r.name.as_str()).collect();
    line(&mut out, format!("{}: {}", report.database, names.join(", ")));
    let requests = report.records.iter().any(|r| r.key.request != 0);
    let key = |r: &crate::query::QueryRow| {
        let request = if requests {
            format!("{}/", r.key.request)
        } else {
            String::new()
        };
        let visit = if r.visit > 0 {
            format!("#{}", r.visit + 1)
        } else {
            String::new()
        };
        (
            format!("{request}{}", r.key.seq),
            r.key.layer.to_string(),
            format!("{}{visit}", r.key.stage),
        )
    };
    let stages = report.records.iter().map(|r| key(r).2.chars().count());
    let width = stages.max().unwrap_or(0).max(5);
    let run_width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let measures = format!("{:>9} {:>8} {:<8}", "rms", "abs max", "blake3");
    let with_distance = format!("{measures} rel. L2");
    let head = format!("  seq layer {}", pad("stage", width));
    if fold {
        line(
            &mut out,
            paint(
                STRONG,
                format!("{head} {} {with_distance}", pad("run", run_width)),
            ),
        );
    } else {
        let above = names.iter().enumerate().map(|(i, n)| pad(n, width_of(i)));
        let above: Vec<String> = above.collect();
        let above = format!("{}  {}", " ".repeat(head.len()), above.join("  "));
        line(&mut out, paint(STRONG, above.trim_end()));
        let columns = (0..names.len()).map(|i| if i == 0 { &measures } else { &with_distance });
        let columns: Vec<&str> = columns.map(String::as_str).collect();
        let columns = format!("{head}  {}", columns.join("  "));
        line(&mut out, paint(STRONG, columns.trim_end()));
    }
    for record in &report.records {
        let (seq, layer, stage) = key(record);
        let start = format!("{seq:>5} {layer:>5} {}", pad(&stage, width));
        let present = || record.cells.iter().flatten();
        if fold {
            for (i, c) in present().enumerate() {
                let start = if i == 0 {
                    start.clone()
                } else {
                    " ".repeat(start.chars().count())
                };
                let text = format!("{start} {} {}", pad(&c.run, run_width), cell(c, 1));
                line(&mut out, text.trim_end());
            }
        } else {
            let cells = record.cells.iter().enumerate();
            let cells = cells.map(|(i, c)| c.as_ref().map_or(pad("-", width_of(i)), |c| cell(c, i)));
            let text = format!("{start}  {}", cells.collect::<Vec<_>>().join("  "));
            line(&mut out, text.trim_end());
        }
        for c in present() {
            if let Some(values) = &c.values {
                let shown: Vec<String> = values.iter().map(|&x| sig(x, 5)).collect();
                let rest = c.record.shape.iter().product::<i64>() as usize > values.len();
                let more = if rest { ", …" } else { "" };
                let text = format!(
                    "{} {} {:?} [{}{more}]",
                    c.run,
                    c.record.dtype,
                    c.record.shape,
                    shown.join(", ")
                );
                line(&mut out, paint(FAINT, format!("        {text}")));
            }
        }
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}

fn width_of(column: usize) -> usize {
    if column == 0 { COLUMN } else { COLUMN + DISTANCE }
}

fn cell(c: &Cell, column: usize) -> String {
    let odd = c.record.nan_count + c.record.inf_count;
    let rms = match odd {
        0 => sig_option(c.record.rms, 5),
        _ => format!("!{}", sig_option(c.record.rms, 4)),
    };
    let text = format!(
        "{rms:>9} {:>8} {}",
        sig_option(c.record.abs_max, 4),
        short(&c.record.blake3)
    );
    match (column, c.rel_l2) {
        (0, _) => text,
        (_, distance) => format!("{text} {:>7}", distance.map_or_else(String::new, sci)),
    }
}
