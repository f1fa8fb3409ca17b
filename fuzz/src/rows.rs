//! A row table, beside the part that it claims to be of.

use bitnet_trace_schema::journal::checksum;
use bitnet_trace_store::{Located, Rows, Run};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The part, of which the seeds are tables: its size, time and footer stand in them.
const PART: &[u8] = include_bytes!("../seeds/part/plain");

const MANIFEST: &str = r#"{"format_version": 1, "run": "golden", "state": "failed", "created_unix_ms": 1,
    "owner": {"pid": 4294967295}, "writer": {"name": "w", "version": "1"}, "engine": {"name": "e"}, "values": "full"}"#;

/// Writes the run whose table is tried into a database, and says where it is, and its table when it is opened.
pub fn run(database: &Path) -> (PathBuf, PathBuf) {
    let run = database.join("run=golden");
    std::fs::create_dir(&run).expect("a folder");
    std::fs::write(run.join("run.json"), MANIFEST).expect("written");
    let part = run.join("part-00000.parquet");
    std::fs::write(&part, PART).expect("written");
    let file = std::fs::File::options().write(true).open(&part).expect("a file");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_modified(then).expect("a time");
    let table = database.join("_index/run=golden/part-00000.rows");
    std::fs::create_dir_all(table.parent().expect("a folder")).expect("a folder");
    (run, table)
}

/// Bytes are a table of which every row can be read, or the part is read in its place: as they are, and with length and
/// checksum put right, so that what comes after these is reached.
pub fn check(data: &[u8]) {
    thread_local! {
        static TRIED: (tempfile::TempDir, (PathBuf, PathBuf)) = {
            let dir = tempfile::tempdir().expect("a folder");
            let run = run(dir.path());
            (dir, run)
        };
    }
    TRIED.with(|(_, (run, table))| {
        read(run, table, data);
        let mut right = data.to_vec();
        put_right(&mut right);
        if right != data {
            read(run, table, &right);
        }
    });
}

/// Writes length and checksum of a table into its preamble, where there is one. Those of hashes and moments are left as
/// they are.
pub fn put_right(table: &mut [u8]) {
    let length = table.len() as u64;
    if let Some((preamble, rest)) = table.split_first_chunk_mut::<40>() {
        preamble[16..24].copy_from_slice(&length.to_ne_bytes());
        let end = preamble[24..32].try_into().map_or(0, u64::from_ne_bytes);
        let end = end.saturating_sub(40).min(rest.len() as u64) as usize;
        preamble[32..].copy_from_slice(&checksum(&[&rest[..end]]).to_ne_bytes());
    }
}

fn read(run: &Path, table: &Path, data: &[u8]) {
    // Not in place of its bytes, which may be mapped.
    let _ = std::fs::remove_file(table);
    std::fs::write(table, data).expect("written");
    let run = &Run::open(run).expect("the part can be read");
    let mut rows = run.rows();
    touch(run, &rows);
    let mut row = 0;
    rows.retain(|_| {
        row += 1;
        row % 3 > 0
    });
    rows.release();
    touch(run, &rows);
}

fn touch(run: &Run, rows: &Rows) {
    let mut end = 0;
    for row in 0..rows.len() {
        let (meta, at) = (rows.meta(row), rows.at(row));
        assert_eq!(rows.standing(row), meta.into());
        assert_eq!(
            (rows.num_elements(row), rows.hash(row).copied()),
            (meta.num_elements, meta.hash())
        );
        let _ = (
            meta.to_record(),
            rows.form(row),
            rows.has_nan(row),
            run.tensor(at),
        );
        let position = rows.position(row);
        assert_eq!((position.request, position.seq), (meta.request, meta.seq));
        assert!(row < position.end && position.end <= rows.len());
        assert!(
            row < end && position.end == end || row == end,
            "positions follow each other"
        );
        end = position.end;
        let columns = rows.columns(row..row + 1).expect("a row of one part");
        assert_eq!(
            (columns.places.len(), columns.form(0), columns.values(0)),
            (1, rows.form(row), at.values)
        );
    }
    let places: Vec<_> = rows.places().collect();
    assert!(places.is_sorted_by(|a, b| a < b));
    let mut located = Located::default();
    run.locate((0..rows.len()).map(|row| rows.at(row)), &mut located);
    assert_eq!(located.values.len(), rows.len());
}
