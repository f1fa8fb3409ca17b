//! Row tables: made, used, made again, and removed.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bitnet_trace_schema::RunState;
use bitnet_trace_store::{Database, Filter, Row, Run};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use support::*;

fn folder(dir: &Path) -> PathBuf {
    dir.join("_index")
}

fn table(dir: &Path, run: &str) -> PathBuf {
    folder(dir).join(format!("run={run}/part-00000.rows"))
}

fn rows(dir: &Path, run: &str) -> Vec<Row> {
    Run::open(dir.join(format!("run={run}"))).unwrap().rows().to_vec()
}

/// A run of 16 records, its table as it was made, and its rows.
fn one_run() -> (tempfile::TempDir, Vec<u8>, Vec<Row>) {
    let dir = temp();
    write(dir.path(), "a", &records());
    let read = rows(dir.path(), "a");
    let bytes = std::fs::read(table(dir.path(), "a")).unwrap();
    (dir, bytes, read)
}

/// What tells a file from one that was written in its place.
fn identity(path: &Path) -> (u64, SystemTime) {
    let found = path.symlink_metadata().unwrap();
    (found.ino(), found.modified().unwrap())
}

/// Every file under a folder.
fn files(dir: &Path) -> Vec<String> {
    let (mut all, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_table_is_made_with_the_index_and_used_while_it_is_current() {
    let dir = temp();
    write(dir.path(), "a", &records());
    Database::open(dir.path()).unwrap();
    let made = identity(&table(dir.path(), "a"));
    let read = rows(dir.path(), "a");
    assert_eq!(read.len(), 16);
    Database::open(dir.path()).unwrap();
    assert_eq!(rows(dir.path(), "a"), read);
    assert_eq!(identity(&table(dir.path(), "a")), made);
    assert_eq!(files(&folder(dir.path())), ["run=a/part-00000.rows"]);
}

#[test]
fn a_table_that_is_read_is_the_one_that_lies_there() {
    // What the table says is believed where its checksum holds: so it is not the part that is read.
    let (dir, _, read) = one_run();
    let part = dir.path().join("run=a/part-00000.parquet");
    let times = std::fs::metadata(&part).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[4..600].fill(0xff); // its first pages cannot be read any more
    std::fs::write(&part, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&part).unwrap();
    file.set_modified(times).unwrap();
    assert_eq!(rows(dir.path(), "a"), read);
    std::fs::remove_file(table(dir.path(), "a")).unwrap();
    assert!(
        Run::open(dir.path().join("run=a")).is_err(),
        "the part cannot be read"
    );
}

/// Bytes of a table that are hashes and moments: they are checked when they are asked for.
fn details(table: &[u8]) -> std::ops::Range<usize> {
    let start = table[24..32].try_into().map(u64::from_ne_bytes).unwrap();
    start as usize..table.len()
}

#[test]
fn spoiled_hashes_and_moments_are_read_from_the_part_and_their_table_is_made_again() {
    let (dir, bytes, read) = one_run();
    let path = table(dir.path(), "a");
    let details = details(&bytes);
    assert_eq!(details.len(), 16 * (32 + 40));
    for at in [details.start, details.start + 16 * 32 + 8, details.end - 1] {
        let mut bent = bytes.clone();
        bent[at] ^= 0x10;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bent).unwrap();
        let run = Run::open(dir.path().join("run=a")).unwrap();
        let rows = run.rows();
        let orders: Vec<i64> = rows.iter().map(|meta| meta.op_index).collect();
        assert_eq!(orders.len(), 16);
        assert!(std::fs::read(&path).unwrap() == bent, "nobody asked for them");
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| assert_eq!(rows.to_vec(), read));
            }
        });
        assert!(std::fs::read(&path).unwrap() == bytes, "byte {at}");
    }
}

#[test]
fn spoiled_hashes_and_moments_of_a_part_that_is_gone_are_not_told() {
    let (dir, bytes, read) = one_run();
    let path = table(dir.path(), "a");
    let mut bent = bytes.clone();
    bent[details(&bytes)].fill(0);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bent).unwrap();
    let run = Run::open(dir.path().join("run=a")).unwrap();
    std::fs::remove_file(dir.path().join("run=a/part-00000.parquet")).unwrap();
    let expected: Vec<Row> = (read.iter().cloned())
        .map(|mut row| {
            row.meta.blake3.clear();
            let stats = &mut row.meta.stats;
            [stats.rms, stats.mean, stats.min, stats.max, stats.abs_max] = [None; 5];
            row
        })
        .collect();
    assert_eq!(run.rows().to_vec(), expected);
}

#[test]
fn a_missing_table_is_made_again() {
    let (dir, bytes, read) = one_run();
    for gone in [
        table(dir.path(), "a"),
        folder(dir.path()).join("run=a"),
        folder(dir.path()),
    ] {
        if gone.is_dir() {
            std::fs::remove_dir_all(gone).unwrap();
        } else {
            std::fs::remove_file(gone).unwrap();
        }
        assert_eq!(rows(dir.path(), "a"), read);
        assert_eq!(std::fs::read(table(dir.path(), "a")).unwrap(), bytes);
    }
}

#[test]
fn a_table_that_is_cut_off_or_spoiled_is_made_again() {
    let (dir, bytes, read) = one_run();
    let path = table(dir.path(), "a");
    let check = |spoiled: &[u8], what: &str| {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, spoiled).unwrap();
        assert_eq!(rows(dir.path(), "a"), read, "{what}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    };
    for length in (0..bytes.len()).step_by(13) {
        check(&bytes[..length], &format!("{length} bytes"));
    }
    for at in (0..bytes.len()).step_by(7) {
        let mut bent = bytes.clone();
        bent[at] ^= 1 << (at % 8);
        check(&bent, &format!("byte {at}"));
    }
    let ends = bytes.len() / 64 * 64 - 64;
    check(&[&bytes[..ends], &[0; 64]].concat(), "zeros at its end");
    check(&[&bytes[..], &[0; 64]].concat(), "longer than it says");
    check(b"someone's notes", "something else");
    let mut other = bytes.clone();
    other[8] += 1;
    check(&other, "another version");
}

#[test]
fn a_table_of_another_part_is_not_used() {
    let (dir, _, _) = one_run();
    write(dir.path(), "b", &records()[..5]);
    let read = rows(dir.path(), "b");
    let bytes = std::fs::read(table(dir.path(), "b")).unwrap();
    std::fs::copy(table(dir.path(), "a"), table(dir.path(), "b")).unwrap();
    assert_eq!(rows(dir.path(), "b"), read);
    assert_eq!(std::fs::read(table(dir.path(), "b")).unwrap(), bytes);
}

#[test]
fn the_table_of_a_part_that_changed_is_made_again() {
    let (dir, old, read) = one_run();
    let open = Run::open(dir.path().join("run=a")).unwrap();
    let mut changed = records();
    changed[3].meta.stage = "renamed".into();
    write(dir.path(), "a", &changed);
    // Who opened the run before sees it as it was.
    let is_renamed = |row: &Row| row.meta.stage == "renamed";
    assert_eq!(
        rows(dir.path(), "a").iter().filter(|row| is_renamed(row)).count(),
        1
    );
    assert_eq!(open.rows().to_vec(), read);
    // The other one's table is back, of the old time: it is not taken for that of the new part.
    std::fs::write(table(dir.path(), "a"), old).unwrap();
    assert_eq!(
        rows(dir.path(), "a").iter().filter(|row| is_renamed(row)).count(),
        1
    );
}

#[test]
fn rows_outlive_their_table_and_their_run() {
    let (dir, _, read) = one_run();
    let run = Run::open(dir.path().join("run=a")).unwrap();
    let all = run.rows();
    drop(run);
    write(dir.path(), "a", &records()[..3]);
    assert_eq!(rows(dir.path(), "a").len(), 3);
    std::fs::remove_dir_all(folder(dir.path())).unwrap();
    all.release();
    assert_eq!(all.to_vec(), read);
}

#[test]
fn a_link_in_place_of_a_table_is_replaced_and_not_followed() {
    let (dir, bytes, read) = one_run();
    let path = table(dir.path(), "a");
    let elsewhere = dir.path().join("elsewhere");
    for content in [bytes.clone(), b"mine".to_vec()] {
        std::fs::write(&elsewhere, &content).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(rows(dir.path(), "a"), read);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), content);
    }
}

#[test]
fn links_in_place_of_the_folders_are_left_alone() {
    for link in ["_index", "_index/run=a"] {
        let (dir, _, read) = one_run();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(dir.path().join(link), &elsewhere).unwrap();
        symlink(&elsewhere, dir.path().join(link)).unwrap();
        let there = elsewhere.join(
            table(dir.path(), "a")
                .strip_prefix(dir.path().join(link))
                .unwrap(),
        );
        std::fs::write(&there, b"mine").unwrap();
        assert_eq!(rows(dir.path(), "a"), read);
        write(dir.path(), "a", &records()[..4]);
        assert_eq!(rows(dir.path(), "a").len(), 4);
        std::fs::remove_dir_all(dir.path().join("run=a")).unwrap();
        Database::open(dir.path()).unwrap();
        assert!(dir.path().join(link).is_symlink(), "{link}");
        assert_eq!(std::fs::read(there).unwrap(), b"mine");
    }
}

#[test]
fn a_pipe_or_a_folder_in_place_of_a_table_is_not_waited_for() {
    let (dir, bytes, read) = one_run();
    let path = table(dir.path(), "a");
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    assert_eq!(rows(dir.path(), "a"), read);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(rows(dir.path(), "a"), read);
    assert!(
        files(&folder(dir.path())).is_empty(),
        "nothing is left of the attempt"
    );
}

#[test]
fn where_no_table_can_be_written_its_bytes_are_kept_in_memory() {
    // Root may write anywhere, so that permissions would not do: here the folder's place is taken by a file.
    let (dir, _, read) = one_run();
    std::fs::remove_dir_all(folder(dir.path())).unwrap();
    std::fs::write(folder(dir.path()), "mine").unwrap();
    let run = Run::open(dir.path().join("run=a")).unwrap();
    for _ in 0..2 {
        assert_eq!(run.rows().to_vec(), read);
    }
    write(dir.path(), "a", &records()[..4]);
    assert_eq!(rows(dir.path(), "a").len(), 4);
    assert_eq!(std::fs::read(folder(dir.path())).unwrap(), b"mine");
    // The rows are those of the run as it was.
    assert_eq!(run.rows().to_vec(), read);
}

#[test]
fn a_read_only_database_uses_its_tables() {
    let (dir, _, read) = one_run();
    let mode = |m| {
        for path in [
            folder(dir.path()).join("run=a"),
            folder(dir.path()),
            dir.path().into(),
        ] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(m)).unwrap();
        }
    };
    mode(0o555);
    let again = rows(dir.path(), "a");
    mode(0o755);
    assert_eq!(again, read);
}

#[test]
fn a_run_alone_gets_no_tables() {
    let (dir, _, read) = one_run();
    let copy = dir.path().join("copies/latest");
    std::fs::create_dir_all(&copy).unwrap();
    for file in ["run.json", "part-00000.parquet"] {
        std::fs::copy(dir.path().join("run=a").join(file), copy.join(file)).unwrap();
    }
    let run = Run::open(&copy).unwrap();
    assert_eq!(run.records(&Filter::default()), read);
    assert_eq!(
        files(&dir.path().join("copies")),
        ["latest/part-00000.parquet", "latest/run.json"]
    );
}

#[test]
fn a_run_needs_no_index_and_makes_none() {
    let (dir, bytes, read) = one_run();
    let index = dir.path().join("index.sqlite");
    assert!(!index.exists());
    Database::open(dir.path()).unwrap();
    assert!(index.exists());
    // What stands in the index's place keeps it in memory, and leaves the tables where they are.
    std::fs::remove_file(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    std::fs::remove_dir_all(folder(dir.path())).unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(db.index_path(), None);
    assert_eq!(db.run("a").unwrap().rows().to_vec(), read);
    assert_eq!(std::fs::read(table(dir.path(), "a")).unwrap(), bytes);
}

#[test]
fn runs_and_parts_that_are_gone_lose_their_tables() {
    let (dir, ..) = one_run();
    let parts = [(16, part("b", &records())), (4, part("b", &records()[..4]))];
    write_run(dir.path(), "b", &parts, |m| m.state = RunState::Complete);
    write(dir.path(), "c", &records());
    Database::open(dir.path()).unwrap();
    let left = |expected: &[&str]| assert_eq!(files(&folder(dir.path())), expected);
    let a = "run=a/part-00000.rows";
    left(&[
        a,
        "run=b/part-00000.rows",
        "run=b/part-00001.rows",
        "run=c/part-00000.rows",
    ]);
    // A part that is gone; a run that is gone; a run that cannot be read any more.
    std::fs::remove_file(dir.path().join("run=b/part-00001.parquet")).unwrap();
    write_run(dir.path(), "b", &parts[..1], |_| {});
    Database::open(dir.path()).unwrap();
    left(&[a, "run=b/part-00000.rows", "run=c/part-00000.rows"]);
    std::fs::remove_dir_all(dir.path().join("run=b")).unwrap();
    Database::open(dir.path()).unwrap();
    left(&[a, "run=c/part-00000.rows"]);
    write_run(dir.path(), "c", &[(1, b"a text file".to_vec())], |_| {});
    assert!(Run::open(dir.path().join("run=c")).is_err());
    Database::open(dir.path()).unwrap();
    left(&[a]);
    // Of a run that no index knows, too; what is no run's is left alone.
    for stray in ["run=stray", "notes"] {
        std::fs::create_dir(folder(dir.path()).join(stray)).unwrap();
        std::fs::write(folder(dir.path()).join(stray).join("x"), "x").unwrap();
    }
    Run::open(dir.path().join("run=a")).unwrap();
    left(&["notes/x", a, "run=stray/x"]);
    Database::open(dir.path()).unwrap();
    left(&["notes/x", a]);
}

#[test]
fn what_another_process_left_is_removed_when_it_is_old() {
    let (dir, ..) = one_run();
    let run = folder(dir.path()).join("run=a");
    let (old, new) = (
        run.join(".part-00000.rows.1.0.new"),
        run.join(".part-00000.rows.2.0.new"),
    );
    for file in [&old, &new] {
        std::fs::write(file, "half a table").unwrap();
    }
    let then = SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(then)
        .unwrap();
    std::fs::remove_file(table(dir.path(), "a")).unwrap();
    rows(dir.path(), "a");
    assert_eq!((old.exists(), new.exists()), (false, true));
}

#[test]
fn many_threads_may_make_a_table_at_once() {
    let (dir, bytes, read) = one_run();
    for _ in 0..5 {
        std::fs::remove_dir_all(folder(dir.path())).unwrap();
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| assert_eq!(rows(dir.path(), "a"), read));
            }
        });
        assert_eq!(std::fs::read(table(dir.path(), "a")).unwrap(), bytes);
        assert_eq!(files(&folder(dir.path())).len(), 1);
    }
}

#[test]
fn many_processes_may_make_a_table_at_once() {
    const ROLE: &str = "BITNET_TRACE_STORE_TEST_TABLES";
    if let Ok(dir) = std::env::var(ROLE) {
        assert_eq!(rows(Path::new(&dir), "a").len(), 16);
        return;
    }
    let (dir, bytes, _) = one_run();
    std::fs::remove_dir_all(folder(dir.path())).unwrap();
    let child = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "many_processes_may_make_a_table_at_once"])
            .env(ROLE, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [child(), child(), child(), child()];
    assert!(children.iter_mut().all(|c| c.wait().unwrap().success()));
    assert_eq!(std::fs::read(table(dir.path(), "a")).unwrap(), bytes);
}
