use super::{FAINT, STRONG, line, pad, paint, short};
use crate::{
    num::{sci, sig, sig_option},
    query::{Cell, QueryReport},
};

/// Width of a run's column: rms, largest absolute value, hash, relative L2.
const COLUMN: usize = 35;

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
    let measures = format!("{:>9} {:>8} {:<8} {:>7}", "rms", "abs max", "blake3", "rel. L2");
    let head = format!("  seq layer {}", pad("stage", width));
    if fold {
        line(
            &mut out,
            paint(STRONG, format!("{head} {} {measures}", pad("run", run_width))),
        );
    } else {
        let above: Vec<String> = names.iter().map(|n| pad(n, COLUMN)).collect();
        let above = format!("{}  {}", " ".repeat(head.len()), above.join("  "));
        line(&mut out, paint(STRONG, above.trim_end()));
        let columns = vec![measures; names.len()];
        line(&mut out, paint(STRONG, format!("{head}  {}", columns.join("  "))));
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
                let text = format!("{start} {} {}", pad(&c.run, run_width), cell(c));
                line(&mut out, text.trim_end());
            }
        } else {
            let cells = record
                .cells
                .iter()
                .map(|c| c.as_ref().map_or(pad("-", COLUMN), cell));
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
    out
}

fn cell(c: &Cell) -> String {
    let odd = c.record.nan_count + c.record.inf_count;
    let rms = if odd > 0 {
        format!("!{}", sig_option(c.record.rms, 4))
    } else {
        sig_option(c.record.rms, 5)
    };
    let distance = c.rel_l2.map_or_else(String::new, sci);
    format!(
        "{rms:>9} {:>8} {} {distance:>7}",
        sig_option(c.record.abs_max, 4),
        short(&c.record.blake3)
    )
}
