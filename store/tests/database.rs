//! Databases, their index, and completeness.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bitnet_trace_schema::{INDEX_DDL, RunState, run_dir};
use bitnet_trace_store::{Database, Filter, Reason, Run, StoreError, rusqlite};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, SystemTime};
use support::*;

fn count(db: &Database) -> i64 {
    db.sql()
        .query_row("SELECT count(*) FROM records", [], |r| r.get(0))
        .unwrap()
}

fn index(dir: &Path) -> std::path::PathBuf {
    dir.join(run_dir::INDEX)
}

/// Two runs of 16 records each.
fn two_runs() -> tempfile::TempDir {
    let dir = temp();
    write(dir.path(), "b", &records());
    write_run(dir.path(), "a", &[(16, part("a", &records()))], |m| {
        m.created_unix_ms = 3_000
    });
    dir
}

#[test]
fn runs_are_listed_in_the_order_of_their_creation() {
    let dir = two_runs();
    write(dir.path(), "c", &records());
    let db = Database::open(dir.path()).unwrap();
    let names: Vec<_> = db.runs().iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
    let a = &db.runs()[2];
    assert_eq!((a.records, a.parts, a.state), (16, 1, Some(RunState::Complete)));
    assert_eq!(
        a.bytes,
        std::fs::metadata(a.path.join("part-00000.parquet"))
            .unwrap()
            .len()
    );
    assert_eq!((a.engine.name.as_str(), &a.error), ("tester", &None));
    assert!(a.completeness.is_complete());
    assert_eq!(db.newest().unwrap().name(), "a");
    assert_eq!(Run::open(dir.path()).unwrap().name(), "a");
    assert_eq!(db.run("c").unwrap().records(&Filter::default()).len(), 16);
}

#[test]
fn an_unchanged_database_is_not_written_to() {
    let dir = two_runs();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(db.index_path(), Some(index(dir.path()).as_path()));
    let before = (
        std::fs::metadata(index(dir.path())).unwrap().modified().unwrap(),
        count(&db),
    );
    drop(db);
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(
        (
            std::fs::metadata(index(dir.path())).unwrap().modified().unwrap(),
            count(&db)
        ),
        before
    );
}

#[test]
fn a_deleted_index_is_made_again() {
    let dir = two_runs();
    Database::open(dir.path()).unwrap();
    std::fs::remove_file(index(dir.path())).unwrap();
    assert_eq!(count(&Database::open(dir.path()).unwrap()), 32);
    assert!(index(dir.path()).exists());
}

#[test]
fn an_index_that_is_no_database_is_replaced() {
    let dir = two_runs();
    for junk in [
        &b"not a database at all, but long enough to have a header of a hundred bytes"[..],
        &[],
        &[0; 4096],
    ] {
        std::fs::write(index(dir.path()), junk.repeat(5)).unwrap();
        let db = Database::open(dir.path()).unwrap();
        assert_eq!((count(&db), db.index_path().is_some()), (32, true));
    }
}

#[test]
fn an_index_damaged_in_any_page_is_noticed_or_replaced() {
    let dir = two_runs();
    Database::open(dir.path()).unwrap();
    let sound = std::fs::read(index(dir.path())).unwrap();
    for page in 0..sound.len() / 4096 {
        let mut bent = sound.clone();
        bent[page * 4096..page * 4096 + 200].fill(0xff);
        std::fs::write(index(dir.path()), &bent).unwrap();
        let run = Database::open(dir.path()).unwrap().run("a").unwrap();
        assert_eq!(run.records(&Filter::default()).len(), 16, "page {page}");
    }
}

#[test]
fn an_index_of_another_version_is_replaced() {
    let dir = two_runs();
    drop(Database::open(dir.path()).unwrap());
    let sql = Connection::open(index(dir.path())).unwrap();
    sql.execute_batch("PRAGMA user_version = 999; DROP TABLE records; CREATE VIEW v AS SELECT 1 AS x;")
        .unwrap();
    drop(sql);
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((count(&db), db.index_path().is_some()), (32, true));
    assert!(db.sql().prepare("SELECT * FROM v").is_err());
}

#[test]
fn a_database_of_someone_else_in_the_indexs_place_is_left_alone() {
    let dir = two_runs();
    let sql = Connection::open(index(dir.path())).unwrap();
    sql.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1);")
        .unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((count(&db), db.index_path()), (32, None));
    assert_eq!(
        sql.query_row("SELECT count(*) FROM mine", [], |r| r.get::<_, i64>(0))
            .unwrap(),
        1
    );
}

#[test]
fn a_changed_part_is_read_again_and_the_others_are_not() {
    let dir = two_runs();
    let db = Database::open(dir.path()).unwrap();
    let ids = |db: &Database, run: &str| -> Vec<i64> {
        let sql =
            "SELECT records.id FROM records JOIN runs ON runs.id = run_id WHERE runs.name = ? ORDER BY 1";
        let mut statement = db.sql().prepare(sql).unwrap();
        statement
            .query_map([run], |r| r.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let (a, b) = (ids(&db, "a"), ids(&db, "b"));
    drop(db);
    let mut changed = records();
    changed[3].meta.stage = "renamed".into();
    write(dir.path(), "a", &changed);
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(ids(&db, "b"), b);
    assert_eq!(ids(&db, "a").len(), a.len());
    let renamed = Filter {
        stage: Some("renamed".into()),
        ..Filter::default()
    };
    assert_eq!(db.run("a").unwrap().records(&renamed).len(), 1);
}

#[test]
fn a_part_changed_within_a_tick_of_the_clock_is_read_again() {
    let dir = temp();
    let path = write(dir.path(), "a", &[record(0, 0, 0, "aaaa", &[1.0])]).join("part-00000.parquet");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let touch = || {
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(then)
            .unwrap()
    };
    touch();
    Database::open(dir.path()).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    write(dir.path(), "a", &[record(0, 0, 0, "bbbb", &[1.0])]);
    touch();
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        size,
        "the test needs files of one size"
    );
    let rows = Run::open(dir.path().join("run=a"))
        .unwrap()
        .records(&Filter::default());
    assert_eq!(rows[0].meta.stage, "bbbb");
}

#[test]
fn a_run_that_changed_while_it_was_open_says_so() {
    let dir = two_runs();
    let run = Run::open(dir.path().join("run=a")).unwrap();
    let rows = run.records(&Filter::default());
    write(dir.path(), "a", &records()[..4]);
    assert!(matches!(run.tensor(&rows[0]), Err(StoreError::Changed { .. })));
    Database::open(dir.path()).unwrap();
    assert_eq!(
        run.records(&Filter::default()),
        rows,
        "its rows are those of the run as it was"
    );
}

#[test]
fn a_removed_run_leaves_the_index() {
    let dir = two_runs();
    Database::open(dir.path()).unwrap();
    std::fs::remove_dir_all(dir.path().join("run=a")).unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((count(&db), db.runs().len()), (16, 1));
}

#[test]
fn a_folder_that_cannot_be_written_is_indexed_in_memory() {
    // Root may write anywhere, so that permissions would not do: here the place is taken by a directory,
    // and there by a link that leads out of the folder.
    let dir = two_runs();
    std::fs::create_dir(index(dir.path())).unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((count(&db), db.index_path()), (32, None));
    assert_eq!(db.run("a").unwrap().records(&Filter::default()).len(), 16);
    std::fs::remove_dir(index(dir.path())).unwrap();

    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, index(dir.path())).unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(
        (count(&db), db.index_path(), elsewhere.exists()),
        (32, None, false)
    );
    let run = db.newest().unwrap();
    drop(db);
    assert_eq!(run.records(&Filter::default()).len(), 16);
}

#[test]
fn a_read_only_database_uses_its_index_while_it_is_current() {
    use std::os::unix::fs::PermissionsExt;
    let dir = two_runs();
    Database::open(dir.path()).unwrap();
    let mode = |m| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(m)).unwrap();
    mode(0o555);
    let db = Database::open(dir.path());
    mode(0o755);
    assert_eq!(count(&db.unwrap()), 32);
}

#[test]
fn many_threads_may_open_a_database_at_once() {
    let dir = two_runs();
    for _ in 0..5 {
        let _ = std::fs::remove_file(index(dir.path()));
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    let db = Database::open(dir.path()).unwrap();
                    assert_eq!((count(&db), db.index_path().is_some()), (32, true));
                    assert_eq!(db.run("b").unwrap().records(&Filter::default()).len(), 16);
                });
            }
        });
    }
}

#[test]
fn many_processes_may_open_a_database_at_once() {
    const ROLE: &str = "BITNET_TRACE_STORE_TEST_DIR";
    if let Ok(dir) = std::env::var(ROLE) {
        assert_eq!(count(&Database::open(dir).unwrap()), 32);
        return;
    }
    let dir = two_runs();
    let child = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "many_processes_may_open_a_database_at_once"])
            .env(ROLE, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [child(), child(), child(), child()];
    assert!(children.iter_mut().all(|c| c.wait().unwrap().success()));
}

#[test]
fn an_empty_database_has_no_newest_run_and_gets_no_index() {
    let dir = temp();
    std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((db.runs().len(), db.index_path()), (0, None));
    assert!(matches!(db.newest(), Err(StoreError::NoRuns { .. })));
    let message = Run::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("notes.txt") && message.contains("BITNET_TRACE_DIR"),
        "{message}"
    );
    assert!(!index(dir.path()).exists());
}

#[test]
fn an_unknown_run_is_told_with_those_that_exist() {
    let dir = two_runs();
    let message = Database::open(dir.path())
        .unwrap()
        .run("rust")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("\"rust\"") && message.contains("b, a"),
        "{message}"
    );
    assert!(matches!(
        Run::open(dir.path().join("run=rust")),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn paths_that_are_neither_run_nor_database_are_told_apart() {
    let dir = two_runs();
    let file = dir.path().join("run=a/part-00000.parquet");
    assert!(matches!(Run::open(&file), Err(StoreError::NotADirectory { .. })));
    assert!(matches!(
        Database::open(&file),
        Err(StoreError::NotADirectory { .. })
    ));
    assert!(matches!(
        Database::open(dir.path().join("x")),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        Database::open(dir.path().join("run=a")),
        Err(StoreError::IsARun { .. })
    ));
}

#[test]
fn a_copy_of_a_run_under_any_name_can_be_opened_alone() {
    let dir = two_runs();
    let copy = dir.path().join("copies/latest");
    std::fs::create_dir_all(&copy).unwrap();
    for file in ["run.json", "part-00000.parquet"] {
        std::fs::copy(dir.path().join("run=a").join(file), copy.join(file)).unwrap();
    }
    let run = Run::open(&copy).unwrap();
    assert_eq!((run.name(), run.records(&Filter::default()).len()), ("a", 16));
    assert!(!index(&dir.path().join("copies")).exists());
    std::fs::rename(&copy, dir.path().join("run=renamed")).unwrap();
    assert_eq!(
        Run::open(dir.path().join("run=renamed")).unwrap().name(),
        "renamed"
    );
}

#[test]
fn a_broken_run_hides_neither_itself_nor_the_others() {
    let dir = two_runs();
    write_run(dir.path(), "broken", &[(1, b"a text file".to_vec())], |m| {
        m.created_unix_ms = 9_000
    });
    let lost = dir.path().join("run=lost");
    std::fs::create_dir(&lost).unwrap();
    let db = Database::open(dir.path()).unwrap();
    assert_eq!((count(&db), db.runs().len()), (32, 4));
    let summary = |name: &str| db.runs().iter().find(|r| r.name == name).unwrap();
    assert!(
        summary("broken")
            .error
            .as_ref()
            .unwrap()
            .contains("not a Parquet file")
    );
    assert!(summary("lost").error.as_ref().unwrap().contains("no run.json"));
    assert_eq!((summary("lost").state, summary("a").error.as_ref()), (None, None));
    assert!(matches!(db.run("broken"), Err(StoreError::NotParquet { .. })));
    assert!(matches!(db.run("lost"), Err(StoreError::NoManifest { .. })));
    assert_eq!(Run::open(dir.path().join("run=a")).unwrap().name(), "a");
    // The newest run is broken: it is an error, and not silently another run.
    std::fs::remove_dir(&lost).unwrap();
    assert!(matches!(
        Run::open(dir.path()),
        Err(StoreError::NotParquet { .. })
    ));
}

#[test]
fn a_run_repaired_later_is_indexed() {
    let dir = two_runs();
    write_run(dir.path(), "c", &[(1, b"a text file".to_vec())], |_| {});
    assert_eq!(count(&Database::open(dir.path()).unwrap()), 32);
    write(dir.path(), "c", &records());
    assert_eq!(count(&Database::open(dir.path()).unwrap()), 48);
}

#[test]
fn every_way_to_be_incomplete_has_its_reason() {
    let dir = temp();
    let parts = [(16, part("a", &records()))];
    let reasons = |edit: &dyn Fn(&mut bitnet_trace_schema::Manifest), files: &[&str]| {
        let path = write_run(dir.path(), "a", &parts, |m| edit(m));
        files
            .iter()
            .for_each(|f| std::fs::write(path.join(f), &parts[0].1).unwrap());
        let reasons = Run::open(&path).unwrap().completeness().reasons().to_vec();
        std::fs::remove_dir_all(path).unwrap();
        reasons
    };
    assert_eq!(reasons(&|_| {}, &[]), []);
    assert_eq!(
        reasons(&|m| m.dropped.total = 2, &[]),
        [Reason::Dropped {
            total: 2,
            reasons: vec![]
        }]
    );
    assert_eq!(
        reasons(
            &|m| (m.state, m.failure) = (RunState::Failed, Some("disk full".into())),
            &[]
        ),
        [Reason::Failed {
            failure: "disk full".into()
        }]
    );
    assert_eq!(
        reasons(&|m| m.state = RunState::Recording, &[]),
        [Reason::Recovered {
            pid: u32::MAX,
            parts: vec![]
        }]
    );
    let pid = std::process::id();
    assert_eq!(
        reasons(&|m| (m.state, m.owner.pid) = (RunState::Recording, pid), &[]),
        [Reason::Recording { pid }]
    );
    assert_eq!(
        reasons(&|_| {}, &["part-00001.parquet.open"]),
        [Reason::OpenPart {
            file: "part-00001.parquet.open".into()
        }]
    );
    assert_eq!(
        reasons(&|_| {}, &["part-00001.parquet"]),
        [Reason::UnlistedPart {
            file: "part-00001.parquet".into()
        }]
    );
    assert_eq!(
        reasons(&|m| m.records = 17, &[]),
        [Reason::Records {
            listed: 17,
            found: 16
        }]
    );
    let missing = |m: &mut bitnet_trace_schema::Manifest| {
        let mut second = m.parts[0].clone();
        second.file = "part-00001.parquet".into();
        m.parts.push(second);
    };
    assert_eq!(
        reasons(&missing, &[]),
        [Reason::MissingPart {
            file: "part-00001.parquet".into()
        }]
    );
}

#[test]
fn a_crashed_run_shows_the_parts_that_were_sealed() {
    let dir = temp();
    let parts = [(16, part("a", &records())), (16, part("a", &records()))];
    let path = write_run(dir.path(), "a", &parts, |m| {
        m.state = RunState::Recording;
        (m.parts, m.records) = (vec![], 0);
    });
    let run = Run::open(path).unwrap();
    assert_eq!(run.records(&Filter::default()).len(), 32);
    let recovered = Reason::Recovered {
        pid: u32::MAX,
        parts: vec![],
    };
    assert_eq!(run.completeness().reasons(), [recovered]);
}

#[test]
fn the_index_answers_sql() {
    let dir = two_runs();
    let db = Database::open(dir.path()).unwrap();
    let (name, shape, engine): (String, String, String) = db
        .sql()
        .query_row(
            "SELECT runs.name, shape, json_extract(manifest, '$.engine.version') FROM records
             JOIN runs ON runs.id = run_id WHERE stage = 'logits' AND seq = 1 ORDER BY runs.name",
            [],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
        )
        .unwrap();
    assert_eq!(
        (name.as_str(), shape.as_str(), engine.as_str()),
        ("a", "[33]", "1")
    );
    assert!(INDEX_DDL.contains("CREATE TABLE records"));
}
