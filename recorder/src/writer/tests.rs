//! What the writer leaves behind: safe rows, journal, manifest.

use super::*;
use crate::{Preset, Recorder, Tap, TensorView, bytes_of, job::Plan};
use bitnet_trace_schema::journal::{Entry, PageAt, Reader, checksum};
use bitnet_trace_schema::run_dir;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

const LAYOUT: Layout = Layout {
    page_bytes: 4096,
    row_group_bytes: 20_000,
    row_group_rows: 40,
    part_bytes: 1 << 30,
};

/// An entry of a journal, its rows told by their positions.
#[derive(Debug, PartialEq)]
enum Found {
    Page(PageAt, Vec<i64>),
    Rows(Vec<(i64, Vec<u8>)>),
    Tokens(i32, i64, Vec<i32>),
}

fn shared(dir: &Path) -> Shared {
    Shared::new("a".into(), dir.to_owned(), Recorder::builder(dir).fixed(0), None)
}

fn floats(seq: i64) -> Vec<f32> {
    let n = [64, 0, 300, 1, 2000][seq as usize % 5];
    (0..n).map(|i| (seq * 1000 + i) as f32).collect()
}

/// Hands a tensor from the engine's side to the writer.
fn record(writer: &mut Writer<'_>, seq: i64) -> Result<(), PartError> {
    let values = floats(seq);
    let shape = [values.len()];
    let (tap, view) = (
        Tap::new("x", 0, seq),
        TensorView::new(DType::F32, &shape, bytes_of(&values)),
    );
    let plan = Plan::new(&tap, &view, None).expect("a tensor");
    let mut slot = writer.shared.queue.reserve(plan.bytes, 0).expect("open");
    slot.job().fill(&tap, &view, &plan).expect("memory");
    slot.push().expect("open");
    let Popped::Job(job) = writer.shared.queue.pop(QUIET) else {
        panic!("it was pushed");
    };
    writer.take(job)
}

fn path(dir: &Path, suffix: &str) -> std::path::PathBuf {
    dir.join(format!("{}{suffix}", run_dir::part_name(0)))
}

fn journal(dir: &Path) -> Vec<Found> {
    let file = File::open(path(dir, run_dir::JOURNAL_SUFFIX)).expect("a journal");
    let bytes = file.metadata().expect("a file").len();
    let mut reader = Reader::new(BufReader::new(file), bytes).expect("a header");
    assert_eq!((reader.run(), reader.part()), ("a", 0));
    let mut meta = Writer::new(&shared(dir), LAYOUT).meta;
    let mut found = Vec::new();
    while let Some(entry) = reader.next().expect("read") {
        found.push(match entry {
            Entry::Page(mut page) => {
                let mut seqs = Vec::new();
                while let Some(row) = page.rows.next_into(&mut meta) {
                    assert_eq!(row.floats, Some(floats(meta.seq).len() as u64));
                    seqs.push(meta.seq);
                }
                Found::Page(page.at, seqs)
            }
            Entry::Rows(mut rows) => {
                let mut told = Vec::new();
                while let Some(row) = rows.next_into(&mut meta) {
                    let values = row.values.expect("values").to_vec();
                    assert_eq!(meta.blake3, blake3::hash(&values).to_hex().as_str());
                    told.push((meta.seq, values));
                }
                Found::Rows(told)
            }
            Entry::Tokens(tokens) => Found::Tokens(tokens.request, tokens.first_seq, tokens.ids().collect()),
        });
    }
    assert!(reader.torn().is_none());
    found
}

fn row(seq: i64) -> (i64, Vec<u8>) {
    (seq, bytes_of(&floats(seq)).to_vec())
}

#[test]
fn a_journal_names_every_page_of_a_part_that_was_not_sealed() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path());
    let mut writer = Writer::new(&shared, LAYOUT);
    for seq in 0..200 {
        record(&mut writer, seq).expect("written");
    }
    let safe = writer.part.as_ref().map(Part::safe_rows).expect("a part");
    drop(writer); // as when the process dies
    let part = std::fs::read(path(dir.path(), run_dir::OPEN_SUFFIX)).expect("a part");
    let (mut seqs, mut groups, mut end) = (Vec::new(), 0, 0);
    for entry in journal(dir.path()) {
        let Found::Page(at, rows) = entry else {
            panic!("{entry:?}")
        };
        let page = at.offset as usize..at.offset as usize + at.bytes as usize;
        assert_eq!(checksum(&[&part[page.clone()]]), at.checksum);
        groups += i32::from(page.start != end);
        end = page.end;
        seqs.extend(rows);
    }
    assert_eq!(seqs, (0..safe as i64).collect::<Vec<_>>());
    assert!(safe > 190 && groups > 5, "{safe} rows in {groups} groups");
}

#[test]
fn rows_that_wait_for_their_page_are_safe_when_nothing_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path());
    let mut writer = Writer::new(&shared, LAYOUT);
    for seq in 0..2 {
        record(&mut writer, seq).expect("written");
    }
    assert_eq!(writer.held.len(), 2, "their room is not given back");
    for _ in 0..2 {
        writer.save().expect("written");
        assert!(writer.held.is_empty());
    }
    record(&mut writer, 2).expect("written");
    assert_eq!(writer.held.len(), 1);
    writer.save().expect("written");
    let rows = [Found::Rows(vec![row(0), row(1)]), Found::Rows(vec![row(2)])];
    assert_eq!(journal(dir.path()), rows);
    record(&mut writer, 3).expect("written");
    record(&mut writer, 4).expect("written"); // has a page of its own, before which the others have theirs
    assert!(writer.held.is_empty());
    let pages: Vec<_> = (journal(dir.path()).into_iter().skip(2))
        .map(|entry| match entry {
            Found::Page(_, rows) => rows,
            _ => panic!("{entry:?}"),
        })
        .collect();
    assert_eq!(pages, [vec![0, 1, 2, 3], vec![4]]);
}

#[test]
fn token_ids_stand_before_the_rows_that_came_after_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path());
    let mut writer = Writer::new(&shared, LAYOUT);
    let tell = |request, first, ids: &[i64]| shared.tokens(request, first, &mut ids.iter().copied());
    tell(0, 0, &[5, 6]);
    writer.save().expect("nothing to write");
    assert!(
        shared.changed.load(Ordering::Relaxed),
        "the manifest has to say it"
    );
    record(&mut writer, 0).expect("written");
    writer.save().expect("written");
    tell(0, 2, &[7]);
    tell(1, 0, &[-1]);
    record(&mut writer, 4).expect("written");
    tell(0, 3, &[8]);
    writer.save().expect("written");
    let found = journal(dir.path());
    assert!(matches!(found[4], Found::Page(..)) && matches!(found[5], Found::Page(..)));
    assert_eq!(found[0], Found::Tokens(0, 0, vec![5, 6]));
    assert_eq!(found[1], Found::Rows(vec![row(0)]));
    assert_eq!(found[2], Found::Tokens(0, 2, vec![7]));
    assert_eq!(found[3], Found::Tokens(1, 0, vec![-1]));
    assert_eq!(found[6..], [Found::Tokens(0, 3, vec![8])]);
}

#[test]
fn when_rows_are_saved_does_not_change_the_part_and_leaves_no_journal() {
    let write = |save_every: i64| {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = shared(dir.path());
        let mut writer = Writer::new(&shared, LAYOUT);
        for seq in 0..120 {
            record(&mut writer, seq).expect("written");
            if seq % save_every == 0 {
                writer.save().expect("written");
            }
        }
        writer.seal().expect("sealed");
        assert!(!path(dir.path(), run_dir::JOURNAL_SUFFIX).exists());
        std::fs::read(path(dir.path(), "")).expect("a part")
    };
    let plain = write(1000);
    assert!(plain == write(1) && plain == write(7));
}

#[test]
fn a_large_part_has_zeros_ahead_of_its_pages_and_none_where_it_is_sealed() {
    let part_of = |preset| {
        let dir = tempfile::tempdir().expect("a directory");
        let builder = Recorder::builder(dir.path()).preset(preset).fixed(0);
        let shared = Shared::new("a".into(), dir.path().to_owned(), builder, None);
        let mut writer = Writer::new(&shared, LAYOUT);
        for seq in 0..1500 {
            record(&mut writer, seq).expect("written");
        }
        let open = std::fs::read(path(dir.path(), run_dir::OPEN_SUFFIX)).expect("a part");
        writer.seal().expect("sealed");
        (open, std::fs::read(path(dir.path(), "")).expect("a part"))
    };
    let (open, sealed) = part_of(Preset::Default);
    let (small, durable) = part_of(Preset::Durable);
    assert!(sealed == durable, "the same part, however it is written");
    assert!(small.len() < sealed.len());
    assert_eq!(
        open.len() as u64,
        (sealed.len() as u64).next_multiple_of(disk::LARGE_PAGE)
    );
    assert!(open[..small.len()] == small[..] && open[small.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_journal_that_cannot_be_written_fails_the_run_and_what_it_named_before_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path());
    let mut writer = Writer::new(&shared, LAYOUT);
    for seq in 0..50 {
        record(&mut writer, seq).expect("written");
    }
    let named = journal(dir.path());
    writer.part.as_mut().expect("a part").fill_disk();
    let error = (50..100).find_map(|seq| record(&mut writer, seq).err());
    let error = error.expect("a failure").to_string();
    assert!(
        error.contains(".journal") && error.contains("No space"),
        "{error}"
    );
    writer.part.as_ref().expect("a part").make_room();
    assert_eq!(journal(dir.path()), named);
    let Some(Found::Page(at, _)) = named.last() else {
        panic!("{named:?}")
    };
    let part = File::open(path(dir.path(), run_dir::OPEN_SUFFIX)).expect("a part");
    let bytes = part.metadata().expect("a file").len();
    assert_eq!(
        bytes,
        at.offset + u64::from(at.bytes),
        "cut behind the last page that is named"
    );
}

#[test]
fn a_panic_in_the_writer_thread_lets_the_engine_go_and_counts_every_tensor_that_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = Recorder::builder(dir.path());
    let layout = builder.layout;
    let shared = Arc::new(Shared::new("a".into(), dir.path().to_owned(), builder, None));
    let values = [1.0f32; 4];
    for seq in 0..5 {
        let (tap, bytes) = (Tap::new("x", 0, seq), bytes_of(&values));
        let view = TensorView::new(DType::F32, &[4], bytes);
        let plan = Plan::new(&tap, &view, None).expect("a tensor");
        let mut slot = shared.queue.reserve(plan.bytes, 0).expect("open");
        slot.job().fill(&tap, &view, &plan).expect("memory");
        if seq == 3 {
            slot.job().data.clear(); // a defect
        }
        slot.push().expect("open");
    }
    let writer = spawn(Arc::clone(&shared), layout).expect("a thread");
    writer.join().expect("it ends as ever");
    assert!(shared.queue.reserve(1, 0).is_err());
    let text = std::fs::read_to_string(dir.path().join("run.json")).expect("a manifest");
    assert!(text.contains("the writer thread panicked"), "{text}");
    let manifest = shared.manifest(RunState::Failed);
    assert_eq!((manifest.records, manifest.dropped.total), (0, 5));
}
