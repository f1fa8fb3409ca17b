//! The same comparison, as far as they can make it, by DuckDB and by pandas with NumPy: cosine similarity alone.

use crate::Fallible;
use crate::measure;
use crate::runs::{LEFT, RIGHT, Shape};
use crate::table::{Row, medians};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

const ROUNDS: usize = 5;

pub fn rows(database: &Path, python: &Path, shape: &Shape, bytes: usize) -> Fallible<Vec<Row>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/speed/peers.py"))
        .args([database.join(LEFT), database.join(RIGHT)])
        .arg(threads.to_string())
        .env("OMP_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut asked), Some(told)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the peers cannot be asked".into());
    };
    let mut told = BufReader::new(told);
    let mut rows = Vec::new();
    for (peer, name) in [
        ("duckdb", "DuckDB's `list_cosine_similarity` join"),
        ("pandas", "pandas' merge and NumPy"),
    ] {
        let mut pairs = Vec::new();
        for _ in 0..ROUNDS {
            writeln!(asked, "{peer}")?;
            let mut line = String::new();
            told.read_line(&mut line)?;
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(1).map(|n| n.parse()) != Some(Ok(shape.records)) {
                return Err(format!("{peer} said {line:?}").into());
            }
            pairs.push((words[0].parse()?, measure::whole(database)?.all()));
        }
        let (theirs, ours, ratio) = medians(&pairs);
        let rate = |seconds: f64| 2.0 * bytes as f64 / seconds / 1e9;
        rows.push(Row {
            what: format!(
                "runs {}, opened, compared and reported, against {name}",
                shape.name
            ),
            reach: "≥ 25 ×".into(),
            measured: format!("{ratio:.1} × ({:.2} GB/s; {:.2} GB/s)", rate(ours), rate(theirs)),
            reached: ratio >= 25.0,
        });
    }
    drop(asked);
    child.wait()?;
    Ok(rows)
}
