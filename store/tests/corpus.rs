//! The seeds of the fuzz targets that belong to this crate, and changes of them.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../fuzz/src/archive.rs"]
mod archive;
#[path = "../../fuzz/src/part.rs"]
mod part_check;
#[path = "../../fuzz/src/read.rs"]
mod read;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/run.rs"]
mod run_check;
mod support;

use bitnet_trace_schema::{DType, RunState};
use parquet::basic::Compression;
use replay::replay;
use std::path::Path;
use support::*;

#[test]
fn every_seed_of_a_part_is_read_or_refused() {
    replay("part", 100, part_check::check);
}

#[test]
fn every_seed_of_a_run_is_read_or_refused_and_reading_it_again_changes_nothing() {
    replay("run", 100, run_check::check);
}

#[test]
fn a_run_that_is_whole_is_read_through_its_archive() {
    let dir = temp();
    let run = write(dir.path(), "golden", &records());
    let data = pack(&run);
    assert_eq!(archive::pack(&archive::unpack(&data)), data);
    run_check::check(&data);
}

/// Every kind of row.
fn kinds() -> Vec<Record> {
    let mut all = records()[..4].to_vec();
    all.push(record(9, 0, 0, "empty", &[]));
    all[1].values = None;
    let mut raw = record(10, 0, 0, "raw", &[]);
    (raw.meta.dtype, raw.meta.shape, raw.meta.num_elements) = (DType::F64, vec![2], 2);
    (raw.values, raw.raw) = (None, Some(vec![7; 16]));
    all.push(raw);
    all
}

/// A run's directory as an archive.
fn pack(run: &Path) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir(run)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    let file = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    };
    archive::pack(&files.iter().map(file).collect::<Vec<_>>())
}

/// Parts as other writers make them: uncompressed, so that a change reaches the decoders behind the compression.
#[test]
#[ignore = "writes the seeds anew; for a change of the format"]
fn the_seeds_can_be_written_again() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/golden/v1/run=golden");
    let put = |name: &str, bytes: &[u8]| std::fs::write(seeds.join(name), bytes).unwrap();

    let plain = part("golden", &kinds());
    let groups = properties("golden").set_max_row_group_row_count(Some(2));
    let groups = file(&batch(&kinds()), groups);
    let zstd = properties("golden").set_compression(Compression::ZSTD(Default::default()));
    let zstd = zstd.set_column_compression(values_path(), Compression::UNCOMPRESSED);
    put("part/plain", &plain);
    put("part/row_groups", &groups);
    put("part/zstd", &file(&batch(&kinds()), zstd));
    put("part/no_rows", &part("golden", &[]));
    put(
        "part/golden",
        &std::fs::read(golden.join("part-00001.parquet")).unwrap(),
    );

    let dir = temp();
    put("run/golden", &pack(&golden));
    put(
        "run/plain",
        &pack(&write_parts(
            dir.path(),
            "golden",
            &[(6, plain.clone()), (6, groups.clone())],
        )),
    );
    let failed = write_run(dir.path(), "failed", &[(6, part("failed", &kinds()))], |m| {
        m.state = RunState::Failed;
        m.parts.clear();
    });
    put("run/failed", &pack(&failed));
}
