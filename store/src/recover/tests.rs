//! Runs of processes that died, made by hand: recorders of their own are in `tests/`.

use super::*;
use crate::{Completeness, Filter, Reason, Run};
use bitnet_trace_schema::journal::{self, PageAt, PendingRows, checksum};
use bitnet_trace_schema::part::{EncodeError, PageBytes, PartEncoder, Row, Sink};
use bitnet_trace_schema::{DType, Layout, RecordMeta, Stats};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use tempfile::TempDir;

thread_local! {
    /// Steps that are left before the recovery "is killed".
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

pub(super) fn step(name: &'static str) -> Result<(), String> {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 0 {
        Err(format!("killed at {name}"))
    } else {
        Ok(())
    }
}

const LAYOUT: Layout = Layout {
    page_bytes: 512,
    row_group_bytes: 2048,
    row_group_rows: 1000,
    part_bytes: u64::MAX,
};

/// A writer as the recorder's is: file and journal.
struct Writing {
    file: File,
    journal: File,
    pending: PendingRows,
    /// Size of the journal after each page, and the rows that were pushed by then.
    pages: Vec<(u64, u64)>,
    rows: u64,
}

impl Sink for Writing {
    type Error = EncodeError;

    fn row(&mut self, row: &Row<'_>) -> Result<(), EncodeError> {
        let floats = row.values.map(|v| v.len() as u64 / 4);
        self.pending.push(row.meta, floats, row.raw).unwrap();
        self.rows += 1;
        Ok(())
    }

    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), EncodeError> {
        self.file.write_all(page.head)?;
        self.file.write_all(page.values)?;
        let at = PageAt {
            offset: page.offset,
            bytes: (page.head.len() + page.values.len()) as u32,
            checksum: checksum(&[page.head, page.values]),
        };
        assert_eq!(self.pending.len(), page.rows);
        self.journal.write_all(self.pending.page(&at))?;
        self.pending.clear();
        self.pages.push((self.journal.metadata()?.len(), self.rows));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        Ok(self.file.write_all(bytes)?)
    }
}

/// Element `i` of record `seq`.
fn value(seq: i64, i: usize) -> f32 {
    (seq * 31 + i as i64) as f32 / 7.0 - 20.0
}

/// Record `seq`: of 1 to 300 floats, or raw, or of none.
fn record(seq: i64) -> (RecordMeta, Option<Vec<u8>>, Option<Vec<u8>>) {
    let n = [16, 1, 300, 0, 64, 3][seq as usize % 6];
    let dtype = if seq % 4 == 1 { DType::F64 } else { DType::F32 };
    let floats: Vec<f32> = (0..n).map(|i| value(seq, i)).collect();
    let bytes: Vec<u8> = match dtype {
        DType::F32 => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => floats.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
    };
    let meta = RecordMeta {
        seq,
        stage: "attn_out".into(),
        name: format!("t{seq}").into(),
        op_index: seq,
        shape: vec![n as i64],
        dtype,
        num_elements: n as i64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        stats: Stats::of_f32(&floats),
        ..RecordMeta::empty()
    };
    match dtype {
        DType::F32 => (meta, Some(bytes), None),
        _ => (meta, None, Some(bytes)),
    }
}

/// A run of a process that died after it had pushed `rows` records into its second part, the first of which
/// holds one. The last rows wait for their page, in as many entries as `tell` says.
struct Crashed {
    _dir: TempDir,
    path: PathBuf,
    /// Size of the journal after each page of the open part, and rows by then.
    pages: Vec<(u64, u64)>,
}

fn manifest_of(run: &str) -> Manifest {
    let json = serde_json::json!({
        "format_version": 1, "run": run, "state": "recording", "created_unix_ms": 1,
        "owner": { "pid": u32::MAX }, "writer": { "name": "w", "version": "1" }, "engine": { "name": "e" },
        "values": "full", "sequences": [{ "request": 0, "ids": [1, 2] }],
    });
    Manifest::from_json(json.to_string().as_bytes()).unwrap()
}

fn crashed(rows: i64, tell: usize) -> Crashed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run=a");
    fs::create_dir(&path).unwrap();
    let write = |number: u32, seqs: std::ops::Range<i64>, end: bool| {
        let name = run_dir::part_name(number);
        let mut journal = vec![];
        journal::header("a", number, "w version 1", &mut journal);
        journal::tokens(0, 2 * i64::from(number), 0, &[7, 8], &mut journal);
        let mut file = File::create(path.join(format!("{name}.journal"))).unwrap();
        file.write_all(&journal).unwrap();
        let mut out = Writing {
            file: File::create(path.join(format!("{name}.open"))).unwrap(),
            journal: file,
            pending: PendingRows::default(),
            pages: vec![],
            rows: 0,
        };
        let mut part = PartEncoder::new("a", "w version 1", LAYOUT).unwrap();
        let last = seqs.end;
        for seq in seqs {
            let (meta, values, raw) = record(seq);
            let row = Row {
                meta: &meta,
                values: values.as_deref(),
                raw: raw.as_deref(),
            };
            part.push(&row, &mut out).unwrap();
            if tell > 0 && (last - seq) as usize <= tell {
                let mut entry = vec![];
                out.pending.rows(part.pending().1, &mut entry).unwrap();
                out.journal.write_all(&entry).unwrap();
            }
        }
        if end {
            part.finish(&mut out).unwrap();
            let open = path.join(format!("{name}.open"));
            fs::rename(open, path.join(&name)).unwrap();
        }
        out.pages
    };
    write(0, 0..1, true); // sealed; its process had no time to say so, nor to remove the journal
    let pages = if rows > 0 {
        write(1, 1..1 + rows, false)
    } else {
        vec![]
    };
    fs::write(path.join("run.json"), manifest_of("a").to_json()).unwrap();
    Crashed {
        _dir: dir,
        path,
        pages,
    }
}

/// Every file of a directory: name, kind, bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| {
            let bytes = fs::read(dir.join(&name)).unwrap_or_default();
            (name, bytes)
        })
        .collect()
}

/// How many records the run has; each is the one that was written, by its hash and its statistics.
fn check(path: &Path) -> usize {
    let run = Run::open(path).unwrap();
    let rows = run.records(&Filter::default());
    for (i, row) in rows.iter().enumerate() {
        let (meta, values, raw) = record(i as i64);
        assert_eq!(row.meta, meta);
        let tensor = run.tensor(row).unwrap();
        let bytes = tensor
            .values()
            .map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        assert_eq!(bytes.is_some(), values.is_some());
        let original = bytes.or_else(|| tensor.raw().map(|r| r.to_vec())).unwrap();
        assert_eq!(blake3::hash(&original).to_hex().to_string(), meta.blake3);
        assert_eq!(Some(original), values.or(raw));
    }
    rows.len()
}

fn done(path: &Path) -> Recovery {
    match recover(path, RecoverOptions::default()).unwrap().outcome {
        RecoverOutcome::Recovered { recovery } => recovery,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_record_that_the_journal_has_is_recovered_and_a_second_recovery_changes_no_byte() {
    for (rows, tell) in [(0, 0), (1, 1), (2, 9), (40, 0), (41, 1), (42, 9)] {
        let run = crashed(rows, tell);
        let told = if tell > 0 {
            rows as u64
        } else {
            run.pages.last().map_or(0, |p| p.1)
        };
        let recovery = done(&run.path);
        assert_eq!(
            recovery.parts.iter().map(|p| p.records).sum::<u64>(),
            told,
            "{rows} {tell}"
        );
        let after = contents(&run.path);
        let mut expected = vec!["part-00000.parquet", "run.json"];
        if told > 0 {
            expected.insert(1, "part-00001.parquet");
        }
        assert_eq!(after.keys().collect::<Vec<_>>(), expected);
        assert_eq!(check(&run.path), told as usize + 1);
        let (manifest, _) = scan::manifest(&run.path).unwrap();
        let ids = &manifest.sequences[0].ids;
        let expected: &[Option<i32>] = if rows > 0 {
            &[Some(7), Some(8), Some(7), Some(8)]
        } else {
            &[Some(7), Some(8)]
        };
        assert_eq!((manifest.state, &ids[..]), (RunState::Recovered, expected));
        assert_eq!(manifest.records, told + 1);
        let again = recover(&run.path, RecoverOptions::default()).unwrap();
        let state = RunState::Recovered;
        assert_eq!(again.outcome, RecoverOutcome::Ended { state });
        assert_eq!(contents(&run.path), after);
    }
}

#[test]
fn any_reader_recovers_and_says_that_the_run_is_not_complete() {
    let run = crashed(10, 10);
    let open = Run::open(&run.path).unwrap();
    let Completeness::Incomplete { reasons } = open.completeness() else {
        panic!("a run that crashed is not complete")
    };
    let parts = vec![("part-00001.parquet".to_owned(), 10)];
    assert_eq!(reasons, &[Reason::Recovered { pid: u32::MAX, parts }]);
    assert_eq!(
        reasons[0].to_string(),
        "process 4294967295 ended without closing the run: what its queue held is lost; 10 records of \
         part-00001.parquet, which was open, were recovered"
    );
}

#[test]
fn a_recovery_that_is_killed_at_any_step_is_ended_by_the_next_with_the_same_bytes() {
    let recovered = |kill: usize| {
        let run = crashed(30, 4);
        LEFT.set(kill);
        let killed = matches!(
            recover(&run.path, RecoverOptions::default()).unwrap().outcome,
            RecoverOutcome::Blocked { .. }
        );
        LEFT.set(usize::MAX);
        let open = run.path.join("part-00001.parquet.open");
        if killed && open.exists() {
            // it may have been writing, and the note of what is cut is from before that
            let mut file = fs::OpenOptions::new().append(true).open(open).unwrap();
            file.write_all(&[7; 100]).unwrap();
        }
        if killed {
            done(&run.path);
        }
        assert_eq!(check(&run.path), 31);
        let mut files = contents(&run.path);
        let (mut manifest, _) = scan::manifest(&run.path).unwrap();
        if let Some(recovery) = &mut manifest.recovery {
            recovery.unix_ms = 0;
            if kill == 0 {
                recovery.parts[0].cut_bytes -= 100; // nothing was noted before
            }
        }
        files.insert("run.json".into(), manifest.to_json().into());
        (files, killed)
    };
    let (whole, killed) = recovered(usize::MAX);
    assert!(!killed);
    let mut kill = 0;
    loop {
        let (files, killed) = recovered(kill);
        assert_eq!(files, whole, "killed at step {kill}");
        if !killed {
            break;
        }
        kill += 1;
    }
    assert_eq!(kill, 7, "planned, noted, part, cut, written, sealed, removed");
}

#[test]
fn a_journal_that_ends_anywhere_gives_the_records_of_its_whole_entries() {
    let whole = crashed(30, 0);
    let name = "part-00001.parquet.journal";
    let journal = fs::read(whole.path.join(name)).unwrap();
    let mut lengths: Vec<usize> = whole
        .pages
        .iter()
        .flat_map(|p| [p.0 as usize - 1, p.0 as usize, p.0 as usize + 1])
        .collect();
    lengths.extend([0, 7, 8, 9, 30]);
    for length in lengths.into_iter().filter(|&l| l <= journal.len()) {
        let run = crashed(30, 0);
        fs::write(run.path.join(name), &journal[..length]).unwrap();
        let told = run
            .pages
            .iter()
            .filter(|p| p.0 as usize <= length)
            .map(|p| p.1)
            .max()
            .unwrap_or(0);
        let recovery = done(&run.path);
        assert_eq!(recovery.parts[0].records, told, "{length}");
        assert_eq!(check(&run.path), told as usize + 1, "{length}");
        assert!(!run.path.join(name).exists());
    }
}

#[test]
fn a_part_that_is_cut_off_or_changed_gives_the_records_of_its_good_pages() {
    let bytes = fs::metadata(crashed(30, 0).path.join("part-00001.parquet.open"))
        .unwrap()
        .len();
    for length in (0..bytes).step_by(401) {
        for change in [false, true] {
            let run = crashed(30, 0);
            let open = run.path.join("part-00001.parquet.open");
            let mut part = fs::read(&open).unwrap();
            match change {
                true => part[length as usize] ^= 1,
                false => part.truncate(length as usize),
            }
            fs::write(&open, part).unwrap();
            let recovery = done(&run.path);
            let records = recovery.parts[0].records;
            assert!(
                records == 0 || run.pages.iter().any(|p| p.1 == records),
                "{records} at {length}"
            );
            assert_eq!(check(&run.path), records as usize + 1);
        }
    }
}

#[test]
fn what_is_not_a_part_of_this_run_is_left_alone() {
    let journal = "part-00001.parquet.journal";
    let open = "part-00001.parquet.open";
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 7] = [
        ("is a link, which is not followed", |dir, victim| {
            fs::remove_file(dir.join("part-00001.parquet.open")).unwrap();
            std::os::unix::fs::symlink(victim, dir.join("part-00001.parquet.open")).unwrap();
        }),
        ("is a link, which is not followed", |dir, victim| {
            fs::copy(dir.join("part-00001.parquet.journal"), victim).unwrap();
            fs::remove_file(dir.join("part-00001.parquet.journal")).unwrap();
            std::os::unix::fs::symlink(victim, dir.join("part-00001.parquet.journal")).unwrap();
        }),
        ("it belongs to part 7 of the run \"a\"", |dir, _| {
            let mut out = vec![];
            journal::header("a", 7, "", &mut out);
            fs::write(dir.join("part-00001.parquet.journal"), out).unwrap();
        }),
        ("it belongs to part 1 of the run \"b\"", |dir, _| {
            let mut out = vec![];
            journal::header("b", 1, "", &mut out);
            fs::write(dir.join("part-00001.parquet.journal"), out).unwrap();
        }),
        ("this is not a journal", |dir, _| {
            fs::write(dir.join("part-00001.parquet.journal"), [0; 99]).unwrap();
        }),
        ("it has no journal", |dir, _| {
            fs::remove_file(dir.join("part-00001.parquet.journal")).unwrap();
        }),
        ("part-00001.parquet is there, too", |dir, _| {
            fs::copy(dir.join("part-00000.parquet"), dir.join("part-00001.parquet")).unwrap();
        }),
    ];
    for (note, change) in changes {
        let run = crashed(10, 10);
        let victim = run.path.with_file_name("victim");
        fs::write(&victim, b"precious").unwrap();
        change(&run.path, &victim);
        let before = (fs::read(&victim).unwrap(), contents(&run.path));
        let report = recover(&run.path, RecoverOptions::default()).unwrap();
        assert!(
            matches!(report.outcome, RecoverOutcome::Recovered { .. }),
            "{report:?}"
        );
        assert!(
            report.notes.iter().any(|n| n.contains(note)),
            "{note}: {report:?}"
        );
        let after = contents(&run.path);
        assert_eq!(fs::read(&victim).unwrap(), before.0, "{note}");
        for name in [journal, open] {
            assert_eq!(after.get(name), before.1.get(name), "{note}");
        }
        recover(&run.path, RecoverOptions::default()).unwrap();
        assert_eq!(contents(&run.path), after, "{note}");
    }
}

#[test]
fn a_part_with_a_second_name_is_not_changed() {
    let run = crashed(10, 10);
    let copy = run.path.with_file_name("copy");
    fs::hard_link(run.path.join("part-00001.parquet.open"), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let report = recover(&run.path, RecoverOptions::default()).unwrap();
    let RecoverOutcome::Blocked { cause } = report.outcome else {
        panic!("{report:?}")
    };
    assert!(cause.contains("second name"), "{cause}");
    assert_eq!(fs::read(copy).unwrap(), before);
}

#[test]
fn a_run_whose_recorder_lives_is_not_touched() {
    let run = crashed(10, 10);
    let before = contents(&run.path);
    // in another container, say, where its process has another number
    let recorder = File::open(&run.path).unwrap();
    recorder.lock_shared().unwrap();
    let report = recover(&run.path, RecoverOptions::default()).unwrap();
    assert_eq!(report.outcome, RecoverOutcome::Live { pid: u32::MAX });
    assert_eq!(contents(&run.path), before);
    drop(recorder);
    done(&run.path);
}

#[test]
fn a_run_of_another_machine_is_recovered_only_when_told() {
    let run = crashed(10, 10);
    let mut manifest = manifest_of("a");
    manifest.owner.boot_id = "another".into();
    manifest.owner.host = "elsewhere".into();
    fs::write(run.path.join("run.json"), manifest.to_json()).unwrap();
    let before = contents(&run.path);
    let report = recover(&run.path, RecoverOptions::default()).unwrap();
    let RecoverOutcome::Blocked { cause } = report.outcome else {
        panic!("{report:?}")
    };
    assert!(cause.contains("\"elsewhere\""), "{cause}");
    assert_eq!(contents(&run.path), before);
    let options = RecoverOptions {
        other_machine: true,
        ..RecoverOptions::default()
    };
    let report = recover(&run.path, options).unwrap();
    assert!(
        matches!(report.outcome, RecoverOutcome::Recovered { .. }),
        "{report:?}"
    );
}

#[test]
fn of_two_readers_one_recovers_and_the_other_finds_it_done() {
    for _ in 0..20 {
        let run = crashed(30, 4);
        let path = &run.path;
        let recovered: usize = std::thread::scope(|scope| {
            let one = || scope.spawn(|| recover(path, RecoverOptions::default()).unwrap().outcome);
            let all = [one(), one(), one()].map(|t| t.join().unwrap());
            all.iter()
                .map(|outcome| match outcome {
                    RecoverOutcome::Recovered { .. } => 1,
                    RecoverOutcome::Ended {
                        state: RunState::Recovered,
                    } => 0,
                    other => panic!("{other:?}"),
                })
                .sum()
        });
        assert_eq!(recovered, 1);
        assert_eq!(check(path), 31);
    }
}

#[test]
fn where_the_directory_cannot_be_written_a_reader_goes_on_with_the_sealed_parts() {
    let run = crashed(10, 10);
    // stands in for a read-only file system, which takes a mount
    fs::create_dir(run.path.join("run.json.new")).unwrap();
    let before = contents(&run.path);
    let open = Run::open(&run.path).unwrap();
    assert_eq!(open.records(&Filter::default()).len(), 1);
    let reasons = open.completeness().reasons();
    assert_eq!(reasons[0], Reason::Crashed { pid: u32::MAX });
    assert!(
        matches!(&reasons[1], Reason::NotRecovered { cause } if cause.contains("run.json")),
        "{reasons:?}"
    );
    assert_eq!(contents(&run.path), before);
}

#[test]
fn a_journal_of_pages_that_cannot_be_is_not_believed() {
    for (offset, bytes) in [(0, 10), (4, u32::MAX), (u64::MAX, 10), (1 << 40, 10), (3, 1)] {
        let run = crashed(1, 0);
        let mut out = vec![];
        journal::header("a", 1, "", &mut out);
        let mut pending = PendingRows::default();
        pending.push(&record(1).0, None, None).unwrap();
        let checksum = 1;
        out.extend(pending.page(&PageAt {
            offset,
            bytes,
            checksum,
        }));
        fs::write(run.path.join("part-00001.parquet.journal"), out).unwrap();
        let recovery = done(&run.path);
        assert_eq!(recovery.parts[0].records, 0);
        assert!(recovery.parts[0].problem.is_some());
        assert!(!run.path.join("part-00001.parquet.open").exists());
    }
}
