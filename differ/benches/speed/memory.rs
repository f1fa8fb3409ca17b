//! Memory: the peak of a process that compares two runs, and of one that compares runs several times as long.

use crate::Fallible;
use crate::measure;
use crate::runs::{LEFT, RIGHT, Shape, record};
use crate::table::Row;
use std::path::Path;
use std::process::Command;

/// How much longer than the shape says: several parts, and twice as many.
const TIMES: [usize; 2] = [6, 12];
const MOST: usize = 200_000_000;

/// Most memory that this process ever had resident, mapped files included, in bytes.
fn peak() -> Fallible<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

/// Compares the runs of a database, and prints the peak.
pub fn child(database: &Path) -> Fallible<()> {
    measure::whole(database)?;
    println!("{}", peak()?);
    Ok(())
}

pub fn rows(shape: &Shape, bytes: usize, tmp: &Path) -> Fallible<Vec<Row>> {
    let run = |database: &Path| -> Fallible<usize> {
        let option = format!("--memory-child={}", database.display());
        let out = Command::new(std::env::current_exe()?).arg(option).output()?;
        Ok(String::from_utf8(out.stdout)?.trim().parse()?)
    };
    let mut peaks = [0; 2];
    for (times, peak) in TIMES.into_iter().zip(&mut peaks) {
        let long = tmp.join("long");
        record(&long, shape, times, &[LEFT, RIGHT])?;
        // The first time indexes them.
        run(&long)?;
        *peak = run(&long)?;
        std::fs::remove_dir_all(&long)?;
    }
    let [once, more] = peaks;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    Ok(vec![Row {
        what: format!(
            "peak memory, comparing two runs of {:.0} MB and {} tensors; of twice as much",
            mb(TIMES[0] * bytes),
            TIMES[0] * shape.records
        ),
        reach: format!("< {:.0} MB, whatever the length", mb(MOST)),
        measured: format!("{:.0} MB; {:.0} MB", mb(once), mb(more)),
        reached: once < MOST && more < MOST && mb(more) < 1.1 * mb(once),
    }])
}
