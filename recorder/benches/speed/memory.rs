//! Memory: a run ten times larger than its queue, in a process of its own.

use crate::table::Row;
use bitnet_trace::{Recorder, Tap};
use std::path::Path;
use std::process::Command;

const QUEUE: usize = 64 << 20;
/// What the writer keeps beside the queue: a page of values, the scalar columns of a row group, and buffers for encoding.
const CONSTANT: usize = 48 << 20;
const MIB: f64 = (1 << 20) as f64;

/// Most memory that this process ever had resident, in bytes.
fn peak() -> Result<usize, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

/// Records ten queues of mixed tensors, or the first of them only, and prints the peak.
pub fn child(mode: &str, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let tmp = tempfile::tempdir_in(dir)?;
    let recorder = Recorder::builder(tmp.path())
        .run("memory")
        .queue_bytes(QUEUE)
        .build()?;
    let source = vec![0.5f32; 327_680];
    let (mut bytes, mut seq) = (0, 0);
    while bytes < 10 * QUEUE {
        for elements in [64, 960, 2560, 2560, 49_152, 327_680] {
            recorder.record(Tap::new("x", 0, seq), &source[..elements]);
            bytes += elements * 4;
        }
        seq += 1;
        if mode == "first" {
            break;
        }
    }
    assert_eq!(recorder.finish()?.dropped, 0);
    println!("{}", peak()?);
    Ok(())
}

pub fn rows(_: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let run = |mode: &str| -> Result<usize, Box<dyn std::error::Error>> {
        let me = std::env::current_exe()?;
        let out = Command::new(me).arg(format!("--memory-child={mode}")).output()?;
        Ok(String::from_utf8(out.stdout)?.trim().parse()?)
    };
    let (first, all) = (run("first")?, run("all")?);
    let taken = all.saturating_sub(first);
    Ok(vec![Row {
        what: format!(
            "memory of a run of {} MiB, queue_bytes {} MiB",
            (10 * QUEUE) >> 20,
            QUEUE >> 20
        ),
        reach: format!("≤ queue_bytes + {} MiB", CONSTANT >> 20),
        measured: format!("{:.0} MiB more than after its first tensors", taken as f64 / MIB),
        reached: taken <= QUEUE + CONSTANT,
    }])
}
