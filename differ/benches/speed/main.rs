//! How fast two runs are compared: against what this machine reads from memory on the same threads, measured in turns
//! with it, and against programs that read the same files.
//!
//! `cargo bench -p bitnet-diff --bench speed [-- --write BENCHMARKS.md]` (`make bench`). Runs are recorded for it, on a
//! disk (`BENCH_DIR`), and lie in the page cache when they are compared. `--python=PROGRAM` runs the peers.
#![allow(missing_docs)]

#[path = "../../../recorder/benches/speed/machine.rs"]
mod machine;
mod measure;
mod memory;
mod peers;
mod read;
mod runs;
#[path = "../../../recorder/benches/speed/table.rs"]
mod table;

use std::path::PathBuf;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = std::env::var_os("BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let option = |name: &str| args.iter().find_map(|a| a.strip_prefix(name));
    if let Some(database) = option("--memory-child=") {
        return memory::child(database.as_ref());
    }
    let disk = machine::file_system(&dir)?;
    if machine::IN_MEMORY.contains(&disk.as_str()) {
        return Err(format!(
            "{} is on {disk}: set BENCH_DIR to a directory on a disk",
            dir.display()
        )
        .into());
    }
    let python =
        option("--python=").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/venv/bin/python"));
    let tmp = tempfile::tempdir_in(&dir)?;
    let mut rows = Vec::new();
    for shape in runs::SHAPES {
        if option("--only=").is_none_or(|only| only.contains(shape.name)) {
            let database = tmp.path().join(shape.name);
            let bytes = runs::record(&database, &shape, 1, &[runs::LEFT, runs::RIGHT, runs::WRONG])?;
            rows.extend(measure::rows(&database, &shape, bytes)?);
            if shape.name == "M" {
                rows.extend(peers::rows(&database, python.as_ref(), &shape, bytes)?);
                rows.extend(memory::rows(&shape, bytes, tmp.path())?);
            }
            std::fs::remove_dir_all(&database)?;
        }
    }
    let text = table::render(&rows, &machine::facts("bitnet-diff", &disk));
    println!("{text}");
    if let Some(at) = args.iter().position(|a| a == "--write") {
        let file = args.get(at + 1).ok_or("--write needs a file")?;
        table::write(file.as_ref(), "the differ", &text)?;
    }
    Ok(())
}
