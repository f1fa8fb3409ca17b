//! Records a database and says how long it takes to index and to open.
//!
//! `cargo run --release -p bitnet-trace-store --example index_speed [RECORDS [FLOATS]]`
use bitnet_trace::{Recorder, Slice, Tap};
use bitnet_trace_store::{Database, Filter, Run};
use std::error::Error;
use std::time::Instant;

fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    println!("{what:<48} {:9.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let records = args.next().transpose()?.unwrap_or(100_000);
    let floats = args.next().transpose()?.unwrap_or(576);
    let dir = tempfile::tempdir()?;
    let recorder = Recorder::builder(dir.path()).run("a").build()?;
    let data: Vec<f32> = (0..floats).map(|i| (i as f32).sin()).collect();
    let stages = [
        "attn_norm",
        "q_proj",
        "k_proj",
        "v_proj",
        "attn_out",
        "ffn_norm",
        "ffn_down",
        "layer_out",
    ];
    timed("record", || {
        for i in 0..records {
            let (layer, seq) = ((i / stages.len() % 30) as i32, (i / stages.len() / 30) as i64);
            recorder.record(
                Tap::new(stages[i % stages.len()], layer, seq),
                &Slice::new(&data, &[floats]),
            );
        }
        recorder.finish()
    })?;
    let db = timed("open the database, index it", || Database::open(dir.path()))?;
    println!(
        "{} records of {floats} floats, {} dropped",
        db.runs()[0].records,
        records as u64 - db.runs()[0].records
    );
    drop(db);
    timed("open it again, unchanged", || Database::open(dir.path()))?;
    let run = timed("open the run", || Run::open(dir.path().join("run=a")))?;
    let rows = timed("take all rows", || run.records(&Filter::default()));
    let one = Filter {
        seq: Some(3..=3),
        ..Filter::default()
    };
    let some = timed("take the rows of one token", || run.records(&one));
    println!("{} rows of {}", some.len(), rows.len());
    let sum = timed("sum every value", || -> Result<f64, Box<dyn Error>> {
        let mut sum = 0.0;
        for row in &rows {
            let tensor = run.tensor(row)?;
            sum += tensor
                .values()
                .unwrap_or_default()
                .iter()
                .map(|&x| f64::from(x))
                .sum::<f64>();
        }
        Ok(sum)
    })?;
    let copied = rows
        .iter()
        .filter(|&r| run.tensor(r).is_ok_and(|t| !t.is_zero_copy()))
        .count();
    println!("sum {sum:.3}, {copied} tensors copied");
    let index = std::fs::metadata(dir.path().join("index.sqlite"))?.len();
    println!("index.sqlite has {:.1} MB", index as f64 / 1e6);
    Ok(())
}
