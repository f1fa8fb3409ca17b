//! How a run begins and ends, and what it says of itself.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{Engine, Error, Layout, Model, Recorder, Settings, Slice, Tap, TensorError, TensorView};
use bitnet_trace_schema::RunState;
use std::path::Path;

fn recorder(dir: &Path, run: &str) -> Recorder {
    Recorder::builder(dir).run(run).build().expect("a recorder")
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for unusable in [file.join("below"), file, "/proc/nowhere".into(), "".into()] {
        let error = Recorder::builder(&unusable)
            .run("x")
            .build()
            .expect_err("refused");
        assert!(
            matches!(&error, Error::Directory { dir, .. } if *dir == unusable),
            "{error}"
        );
        assert!(error.to_string().contains("writable"), "{error}");
    }
    let error = Recorder::builder(dir.path())
        .run("a/b")
        .build()
        .expect_err("refused");
    assert_eq!(error, Error::RunName("a/b".into()));
    assert!(error.to_string().contains("such as \"a-b\""), "{error}");
}

#[test]
fn a_missing_directory_is_created_and_a_run_never_overwrites_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = dir.path().join("a/b");
    let runs: Vec<Recorder> = (0..3).map(|_| recorder(&below, "cpp")).collect();
    let names: Vec<_> = runs.iter().map(|r| r.run().expect("on").to_owned()).collect();
    assert_eq!(names, ["cpp", "cpp-2", "cpp-3"]);
    for (i, run) in runs.iter().enumerate() {
        run.record(Tap::new("x", 0, 0), &[i as f32][..]);
    }
    for (i, run) in runs.iter().enumerate() {
        let dir = run.finish().expect("sealed").dir;
        assert_eq!(common::read(&dir)[0].values, Some(vec![i as f32]));
        assert_eq!(common::manifest(&dir).run, names[i]);
    }
}

#[test]
fn the_last_clone_seals_the_run_when_it_is_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = recorder(dir.path(), "a");
    let run = first.run_dir().expect("on").to_owned();
    let second = first.clone();
    first.record(Tap::new("x", 0, 0), &[1.0f32][..]);
    drop(first);
    assert_eq!(common::manifest(&run).state, RunState::Recording);
    second.record(Tap::new("x", 0, 1), &[2.0f32][..]);
    std::thread::spawn(move || drop(second)).join().expect("no panic");
    assert_eq!(common::manifest(&run).state, RunState::Complete);
    assert_eq!(common::read(&run).len(), 2);
}

#[test]
fn a_run_that_a_panic_or_an_error_of_the_engine_cuts_short_is_not_complete() {
    let dir = tempfile::tempdir().expect("a directory");
    let panicking = recorder(dir.path(), "panic");
    let run = panicking.run_dir().expect("on").to_owned();
    let engine = std::thread::spawn(move || {
        panicking.record(Tap::new("x", 0, 0), &[1.0f32][..]);
        panic!("the engine's own panic");
    });
    assert!(engine.join().is_err());
    let m = common::manifest(&run);
    assert_eq!((m.state, m.records, m.dropped.total), (RunState::Failed, 1, 0));
    assert_eq!(m.failure.as_deref(), Some("the engine panicked"));
    assert_eq!(common::read(&run).len(), 1, "what was recorded is kept");

    let failing = recorder(dir.path(), "error");
    let run = failing.run_dir().expect("on").to_owned();
    failing.fail("no memory for the context");
    failing.fail("a later cause");
    assert!(failing.is_on());
    failing.record(Tap::new("x", 0, 0), &[1.0f32][..]);
    let error = failing.finish().expect_err("incomplete");
    assert!(error.to_string().contains("no memory for the context"), "{error}");
    let m = common::manifest(&run);
    assert_eq!((m.state, m.records), (RunState::Failed, 1));
    assert_eq!(m.failure.as_deref(), Some("no memory for the context"));
}

#[test]
fn a_finished_run_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "a");
    assert!(recorder.is_on() && recorder.wants(&Tap::new("x", 0, 0)));
    let summary = recorder.finish().expect("sealed");
    assert_eq!((summary.records, summary.parts, summary.dropped), (0, 0, 0));
    assert!(!recorder.is_on());
    let late = recorder.try_record(Tap::new("x", 0, 0), &[1.0f32][..]);
    assert_eq!(late, Err(TensorError::Closed));
    recorder.set_prompt("late", 1);
    recorder.begin_pass();
    assert_eq!(recorder.finish(), Ok(summary.clone()));
    let manifest = common::manifest(&summary.dir);
    assert_eq!((manifest.prompt, manifest.records), (None, 0));
}

#[test]
fn an_off_recorder_does_nothing() {
    let off = Recorder::off();
    off.begin_pass();
    off.tokens(0, 0, &[1]);
    off.describe(|_| unreachable!("not called when off"));
    off.drop_tensor(Tap::new("x", 0, 0), "reason");
    assert_eq!(off.try_record(Tap::new("", -9, -9), &[1.0f32][..]), Ok(()));
    assert_eq!((off.is_on(), off.run(), off.run_dir()), (false, None, None));
    assert_eq!(off.finish(), Ok(bitnet_trace::Summary::default()));
}

#[test]
fn what_the_engine_tells_stands_in_the_manifest() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("m.gguf");
    std::fs::write(&model, "weights").expect("a file");
    let recorder = (Recorder::builder(dir.path()).run("a"))
        .engine(Engine::new("e", "1.2"))
        .build()
        .expect("a recorder");
    recorder.set_model(Model {
        path: model.to_string_lossy().into_owned(),
        arch: Some("llama".into()),
        ..Model::default()
    });
    recorder.set_settings(Settings {
        threads: Some(2),
        kv_type: Some("F16".into()),
        ..Settings::default()
    });
    recorder.describe(|run| {
        run.settings.extra.insert("rope_base".into(), "10000".into());
        run.observation.graph_split = true;
    });
    recorder.set_prompt("What is 2+2?", 3);
    recorder.tokens(0, 0, &[5u32, 6, 7]);
    recorder.tokens(0, 3, &[8i32, -1]);
    recorder.tokens(0, 2, &[9, 8]); // position 2 is rewound to another id, position 3 is said again
    recorder.tokens(7, 1, &[1]);
    recorder.tokens(7, -5, &[1]);
    recorder.tokens(7, i64::MAX, &[1, 2]); // no position: not listed, and no memory taken
    let m = common::manifest(&recorder.finish().expect("sealed").dir);
    assert_eq!((m.engine.name.as_str(), m.engine.version.as_str()), ("e", "1.2"));
    let told = m.model.expect("a model");
    assert_eq!(told.blake3, Some(blake3::hash(b"weights").to_hex().to_string()));
    assert_eq!((told.bytes, told.arch.as_deref()), (Some(7), Some("llama")));
    assert_eq!(
        (m.settings.threads, m.settings.kv_type.as_deref()),
        (Some(2), Some("F16"))
    );
    assert_eq!(m.settings.extra.len(), 1);
    assert!(m.observation.graph_split);
    assert_eq!(
        (m.prompt.as_deref(), m.prompt_tokens),
        (Some("What is 2+2?"), Some(3))
    );
    assert_eq!(m.sequences[0].ids, [Some(5), Some(6), Some(9), Some(8), None]);
    assert_eq!(m.sequences[0].rewrites, 1);
    assert_eq!(
        (m.sequences[1].request, m.sequences[1].ids.as_slice()),
        (7, &[None, Some(1)][..])
    );
    assert_eq!(m.owner.pid, std::process::id());
    assert_eq!(m.command_line, std::env::args().collect::<Vec<_>>());
    assert!(m.finished_unix_ms >= Some(m.created_unix_ms) && m.created_unix_ms > 1_700_000_000_000);
}

#[test]
fn a_model_that_is_a_pipe_has_no_hash_and_holds_up_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let (told, done) = std::sync::mpsc::channel();
    let recorder = recorder(dir.path(), "a");
    std::thread::spawn(move || {
        recorder.set_model(Model {
            path: pipe.to_string_lossy().into_owned(),
            ..Model::default()
        });
        let _ = told.send(recorder.finish());
    });
    let summary = done
        .recv_timeout(std::time::Duration::from_secs(20))
        .expect("an end");
    let model = common::manifest(&summary.expect("sealed").dir).model;
    assert_eq!(model.map(|m| m.blake3), Some(None));
}

#[test]
fn every_refused_tensor_is_counted_by_its_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "a");
    let x = [0.0f32; 6];
    recorder.record(Tap::new("x", 0, 0), &Slice::new(&x, &[2, 4]));
    recorder.record(Tap::new("x", 0, 0), &Slice::new(&x, &[7]));
    recorder.record(Tap::new("x", 0, -1), &x[..]);
    let huge = TensorView::new(bitnet_trace::DType::F32, &[1 << 29], &[0; 4]).strides(&[0]);
    recorder.record(Tap::new("x", 0, 0), &huge);
    recorder.drop_tensor(Tap::new("x", 0, 0), "type Q4_K");
    recorder.record(Tap::new("x", 0, 0), &x[..]);
    let summary = recorder.finish().expect("sealed");
    assert_eq!((summary.records, summary.dropped), (1, 5));
    let dropped = common::manifest(&summary.dir).dropped;
    let counts: Vec<_> = dropped
        .reasons
        .iter()
        .map(|(reason, &n)| (reason.as_str(), n))
        .collect();
    assert_eq!(
        counts,
        [
            ("2 GiB or more", 1),
            ("not a token position", 1),
            ("shape, strides and offset reach outside the data", 2),
            ("type Q4_K", 1),
        ]
    );
    assert_eq!(dropped.total, 5);
}

#[test]
fn a_failed_writer_lets_the_engine_go_on_and_keeps_what_was_sealed() {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout {
        part_bytes: 10_000,
        ..Layout::default()
    };
    let recorder = (Recorder::builder(dir.path()).run("a"))
        .layout(layout)
        .queue_bytes(20_000)
        .build()
        .expect("a recorder");
    let run = recorder.run_dir().expect("on").to_owned();
    // the third part's name is taken by a directory: opening it fails
    std::fs::create_dir(run.join("part-00002.parquet.open")).expect("a directory");
    for seq in 0..100 {
        recorder.record(Tap::new("x", 0, seq), &[seq as f32; 1000][..]);
    }
    let error = recorder.finish().expect_err("incomplete");
    assert!(
        matches!(&error, Error::Failed { run, cause } if run == "a" && cause.contains("part-00002")),
        "{error}"
    );
    assert_eq!(recorder.finish(), Err(error));
    std::fs::remove_dir(run.join("part-00002.parquet.open")).expect("empty");
    let m = common::manifest(&run);
    assert_eq!(m.state, RunState::Failed);
    assert!(m.failure.is_some_and(|f| f.contains("part-00002")));
    let sealed = common::read(&run);
    assert_eq!(sealed.len(), 6, "two parts of three rows");
    assert_eq!(
        (m.records, m.dropped.total),
        (6, 94),
        "every tensor is sealed or counted"
    );
}

#[test]
fn a_directory_that_is_deleted_under_the_recorder_does_not_stop_the_engine() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "a");
    std::fs::remove_dir_all(recorder.run_dir().expect("on")).expect("removed");
    for seq in 0..10 {
        recorder.record(Tap::new("x", 0, seq), &[1.0f32][..]);
    }
    assert!(matches!(recorder.finish(), Err(Error::Failed { .. })));
}

#[test]
fn threads_record_into_one_run_through_a_small_queue() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = (Recorder::builder(dir.path()).run("a"))
        .queue_bytes(10_000)
        .build()
        .expect("a recorder");
    std::thread::scope(|scope| {
        for layer in 0..4 {
            let recorder = &recorder;
            scope.spawn(move || {
                for seq in 0..200 {
                    recorder.record(
                        Tap::new("x", layer, seq),
                        &vec![layer as f32; 100 + seq as usize][..],
                    );
                }
            });
        }
    });
    let records = common::read(&recorder.finish().expect("sealed").dir);
    assert_eq!(records.len(), 800);
    let op_indexes: Vec<i64> = records.iter().map(|r| r.meta.op_index).collect();
    assert_eq!(op_indexes, (0..800).collect::<Vec<_>>());
    for record in records {
        let values = vec![record.meta.layer as f32; 100 + record.meta.seq as usize];
        assert_eq!(record.values, Some(values));
    }
}

#[test]
fn what_the_engine_tells_stands_in_the_manifest_while_it_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "a");
    let run = recorder.run_dir().expect("on").to_owned();
    recorder.set_prompt("hi", 1);
    recorder.tokens(0, 0, &[7]);
    recorder.drop_tensor(Tap::new("x", 0, 0), "type Q4_K");
    let told = || {
        let m = common::manifest(&run);
        assert_eq!(m.state, RunState::Recording);
        m.prompt.is_some() && m.dropped.total == 1 && m.sequences.len() == 1
    };
    let since = std::time::Instant::now();
    while !told() {
        assert!(since.elapsed().as_secs() < 60, "it is never written");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    recorder.finish().expect("sealed");
}
