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
#[path = "../../fuzz/src/rows.rs"]
mod rows_check;
#[path = "../../fuzz/src/run.rs"]
mod run_check;
mod support;

use bitnet_trace::{Layout, Recorder, Tap, TensorView};
use bitnet_trace_schema::{DType, Manifest, RunState};
use bitnet_trace_store::{RecoverOptions, RecoverOutcome, Run, recover};
use parquet::basic::Compression;
use replay::replay;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;

#[test]
fn every_seed_of_a_part_is_read_or_refused() {
    replay("part", 100, part_check::check);
}

#[test]
fn every_seed_of_a_row_table_is_read_or_the_part_in_its_place() {
    replay("rows", 300, rows_check::check);
}

#[test]
fn the_seed_of_a_whole_row_table_is_the_table_of_its_part() {
    let dir = temp();
    let (run, table) = rows_check::run(dir.path());
    assert_eq!(Run::open(run).unwrap().rows().len(), kinds().len());
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/rows/whole");
    assert!(
        std::fs::read(&table).unwrap() == std::fs::read(seed).unwrap(),
        "write the seeds again"
    );
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

#[test]
fn the_seed_of_a_dying_run_is_recovered_with_every_record() {
    let dir = temp();
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/run/dying");
    for (name, bytes) in archive::unpack(&std::fs::read(seed).unwrap()) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let options = RecoverOptions {
        other_machine: true,
        ..RecoverOptions::default()
    };
    let report = recover(dir.path(), options).unwrap();
    assert!(
        matches!(report.outcome, RecoverOutcome::Recovered { .. }),
        "{report:?}"
    );
    assert_eq!(read::all(dir.path()).unwrap().len(), 36);
}

/// A run as its recorder leaves it that dies: pages, rows without a page, token ids.
fn dying(db: &Path) -> PathBuf {
    let layout = Layout {
        page_bytes: 256,
        row_group_bytes: 1024,
        ..Layout::default()
    };
    let recorder = Recorder::builder(db)
        .run("dying")
        .layout(layout)
        .fixed(0)
        .build()
        .unwrap();
    recorder.tokens(0, 0, &[1, 2, 3]);
    for seq in 0..12 {
        let values: Vec<f32> = (0..seq * 5).map(|i| i as f32).collect();
        recorder.record(Tap::new("attn_norm", 0, seq), &values);
        let blocks = TensorView::new(DType::Q4_0, &[32], &[7; 18]);
        recorder.record(Tap::new("k_cache", 0, seq), &blocks);
        recorder.record(Tap::new("ids", -1, seq), &[seq][..]);
    }
    std::thread::sleep(Duration::from_secs(2)); // until the writer has nothing to do but to journal
    let copy = db.join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(recorder.run_dir().unwrap()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    recorder.finish().unwrap();
    let path = copy.join("run.json");
    let mut manifest: Manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (manifest.owner.host, manifest.owner.boot_id) = ("elsewhere".into(), "another".into());
    std::fs::write(&path, serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    copy
}

/// A run's directory as an archive.
fn pack(run: &Path) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir(run)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    let file = |path: &PathBuf| {
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

    // `fuzz/src/rows.rs` has the part's seed as it was when this was built: where that has changed, run it twice.
    let dir = temp();
    let (run, table) = rows_check::run(dir.path());
    Run::open(run).unwrap();
    let whole = std::fs::read(table).unwrap();
    let changed = |at: usize, to: u64| {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&to.to_ne_bytes());
        rows_check::put_right(&mut bytes);
        bytes
    };
    put("rows/whole", &whole);
    put("rows/cut_off", &whole[..whole.len() - 640]);
    put("rows/version", &changed(8, 0));
    put("rows/most_rows", &changed(112, u64::from(u32::MAX)));
    put("rows/no_positions", &changed(120, 0));
    put("rows/no_names", &changed(128, 0));
    let end = whole.len() - 8;
    put("rows/moments", &changed(end, 1));
    let hashes = whole[24..32].try_into().map(u64::from_ne_bytes).unwrap();
    put("rows/hashes", &changed(hashes as usize, 1));

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
    put("run/dying", &pack(&dying(&dir.path().join("living"))));
}
