//! `compare` and `first` through the library, in turns with reading as many bytes from memory.

use crate::Fallible;
use crate::read::Buffer;
use crate::runs::{LEFT, RIGHT, Shape, WRONG};
use crate::table::{Row, median, medians};
use bitnet_diff::{CompareReport, FirstReport, Options, StoredRecords, compare};
use bitnet_diff::{compare::Until, records::at_once};
use bitnet_trace_schema::StageGraph;
use bitnet_trace_store::{Filter, Run, StoreError};
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Instant;

const ROUNDS: usize = 15;
/// Bytes of memory that are read: more than caches hold, whatever the size of the runs.
const MEMORY: usize = 1 << 30;

/// Both runs, opened.
pub fn open(database: &Path, right: &str) -> Fallible<(StoredRecords, StoredRecords)> {
    let run = |name: &str| -> Result<_, StoreError> {
        let run = Run::open(database.join(name))?;
        Ok(StoredRecords::new(run, &Filter::default()))
    };
    let (left, right) = at_once(|| run(LEFT), || run(right));
    Ok((left?, right?))
}

/// Seconds for opening two runs, comparing them, and making the report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub open: f64,
    pub compare: f64,
    pub report: f64,
}

impl Times {
    pub fn all(self) -> f64 {
        self.open + self.compare + self.report
    }
}

/// Opens, compares and reports.
pub fn whole(database: &Path) -> Fallible<Times> {
    let start = Instant::now();
    let (left, right) = open(database, RIGHT)?;
    let open = start.elapsed().as_secs_f64();
    let (a, b) = (left.side(), right.side());
    let (graph, options) = (StageGraph::builtin(), Options::default());
    let start = Instant::now();
    let comparison = compare(&a, &b, &graph, &options, &|_, _| ())?;
    let compared = start.elapsed().as_secs_f64();
    let counts = comparison.counts;
    if counts.within != left.rows().len() as u64 {
        return Err(format!("not all records are within the tolerance: {counts:?}").into());
    }
    let start = Instant::now();
    black_box(CompareReport::of(&comparison));
    Ok(Times {
        open,
        compare: compared,
        report: start.elapsed().as_secs_f64(),
    })
}

pub fn rows(database: &Path, shape: &Shape, bytes: usize) -> Fallible<Vec<Row>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let both = 2 * bytes;
    let buffer = Buffer::new(MEMORY);
    // The index is made, and the files are read, once.
    whole(database)?;
    let (mut compared, mut opened, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let read = buffer.read(both, threads);
        let time = whole(database)?;
        compared.push((read, time.compare));
        opened.push((read, time.all()));
        times.push(time);
    }
    let rate = |seconds: f64| both as f64 / seconds / 1e9;
    let of = |f: fn(&Times) -> f64| median(&mut times.iter().map(f).collect::<Vec<_>>()) * 1e3;
    let least = if shape.name == "T" { 0.2 } else { 0.7 };
    let (_, _, ratio) = medians(&compared);
    let (read, whole, all) = medians(&opened);
    let mut rows = vec![
        Row {
            what: format!(
                "`compare` of two runs, {}, {threads} threads, end to end",
                shape.about
            ),
            reach: format!("≥ {least} × reading memory"),
            measured: format!("{all:.2} × ({:.1} GB/s; {:.1} GB/s)", rate(whole), rate(read)),
            reached: all >= least,
        },
        Row {
            what: "of that the comparison, runs open".into(),
            reach: format!("≥ {least} × reading memory"),
            measured: format!(
                "{ratio:.2} × (opening {:.1} ms, comparing {:.1} ms, report {:.1} ms)",
                of(|t| t.open),
                of(|t| t.compare),
                of(|t| t.report)
            ),
            reached: ratio >= least,
        },
    ];
    if shape.name == "M" {
        rows.push(first(database)?);
    }
    Ok(rows)
}

/// `first` where the first record is wrong, with opening, against comparing everything.
fn first(database: &Path) -> Fallible<Row> {
    let (left, right) = open(database, WRONG)?;
    let (a, b) = (left.side(), right.side());
    let graph = StageGraph::builtin();
    let run = |options: &Options| -> Fallible<f64> {
        let start = Instant::now();
        let comparison = compare(&a, &b, &graph, options, &|_, _| ())?;
        let report = FirstReport::of(&comparison);
        let seconds = start.elapsed().as_secs_f64();
        let found = report.first_divergence.ok_or("no divergence")?;
        if (found.seq, found.layer, found.stage.as_str()) != (0, 0, "attn_norm") {
            return Err(format!("found {found:?}").into());
        }
        Ok(seconds)
    };
    let all = Options::default();
    let early = Options {
        until: Until::Divergence,
        ..Options::default()
    };
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        pairs.push((run(&early)?, run(&all)?));
    }
    let (early, all, ratio) = medians(&pairs);
    Ok(Row {
        what: "`first` where the first record diverges, runs open".into(),
        reach: "≤ 0.1 × the whole comparison".into(),
        measured: format!("{ratio:.3} × ({:.2} ms; {:.1} ms)", early * 1e3, all * 1e3),
        reached: ratio <= 0.1,
    })
}
