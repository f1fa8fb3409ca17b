//! What recording costs: ratios against a baseline that is measured in turns with it, and their medians.
//!
//! `cargo bench -p bitnet-trace --bench speed [-- --write BENCHMARKS.md]` (`make bench`). Numbers on a file system in
//! memory say nothing of a disk: there it ends, unless `BENCH_DIR` names another directory.
#![allow(missing_docs)]

mod engine;
mod machine;
mod memory;
mod table;
mod writer;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = std::env::var_os("BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    if let Some(mode) = args.iter().find_map(|a| a.strip_prefix("--memory-child=")) {
        return memory::child(mode, &dir);
    }
    let disk = machine::file_system(&dir)?;
    if machine::IN_MEMORY.contains(&disk.as_str()) {
        return Err(format!(
            "{} is on {disk}: set BENCH_DIR to a directory on a disk",
            dir.display()
        )
        .into());
    }
    let only = args.iter().find_map(|a| a.strip_prefix("--only="));
    let mut rows = Vec::new();
    for (name, measure) in [
        ("engine", engine::rows as fn(&std::path::Path) -> _),
        ("writer", writer::rows),
        ("memory", memory::rows),
    ] {
        if only.is_none_or(|only| only == name) {
            let measured: Result<Vec<table::Row>, Box<dyn std::error::Error>> = measure(&dir);
            rows.extend(measured?);
        }
    }
    let text = table::render(&rows, &machine::facts("bitnet-trace", &disk));
    println!("{text}");
    if let Some(at) = args.iter().position(|a| a == "--write") {
        let file = args.get(at + 1).ok_or("--write needs a file")?;
        table::write(file.as_ref(), "the recorder", &text)?;
    }
    Ok(())
}
