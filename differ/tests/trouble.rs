//! A run whose recorder gave up: what was sealed is read, and no verdict takes it for the whole.
#![allow(clippy::unwrap_used)]

mod common;

use bitnet_trace::{Engine, Layout, Recorder, Slice, Tap};
use common::{run, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Records until the recorder gives up, as part 2 cannot be made: a directory has its name.
fn cut_short(database: &Path) -> PathBuf {
    let recorder = Recorder::builder(database)
        .run("short")
        .engine(Engine::new("tiny", "1"))
        .layout(Layout {
            part_bytes: 1 << 14,
            ..Layout::default()
        })
        .build()
        .unwrap();
    let dir = recorder.run_dir().unwrap().to_owned();
    std::fs::create_dir(dir.join("part-00002.parquet.open")).unwrap();
    recorder.tokens(0, 0, &[7; 64]);
    for seq in 0..64 {
        for stage in ["embeddings", "logits"] {
            let values: Vec<f32> = (0..256).map(|i| (i * 3 + seq) as f32).collect();
            recorder.record(Tap::new(stage, -1, seq), &Slice::new(&values, &[256]));
        }
    }
    recorder.finish().expect_err("it gave up");
    dir
}

#[test]
fn what_was_sealed_before_the_recorder_gave_up_is_read_and_every_verdict_says_that_it_is_not_all() {
    let dir = TempDir::new().unwrap();
    let short = cut_short(dir.path());
    let database = dir.path().to_str().unwrap();
    for command in ["first", "compare", "tokens"] {
        let refused = two(command, &short, &short, &[]);
        assert_eq!(refused.code, 2, "{command}: {}", refused.stdout);
        for part in [
            "incomplete",
            "it failed",
            "tensors were dropped",
            "--allow-incomplete",
        ] {
            assert!(
                refused.stderr.contains(part),
                "{command}, {part}: {}",
                refused.stderr
            );
        }
        let accepted = two(command, &short, &short, &["--allow-incomplete"]);
        assert_eq!(
            accepted.code, 0,
            "{command}: {}{}",
            accepted.stdout, accepted.stderr
        );
        let flat = accepted.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("tensors were dropped"), "{command}: {flat}");
    }
    let query = run(&["query", database, "--seq", "0"]);
    assert!(query.stdout.contains("is incomplete"), "{}", query.stdout);

    let runs = run(&["runs", database, "--format", "json"]).json();
    let line = &runs["runs"][0];
    let (records, dropped) = (
        line["records"].as_u64().unwrap(),
        line["dropped"].as_u64().unwrap(),
    );
    assert!(records > 0 && dropped > 0 && records + dropped == 128, "{line:#}");
    let text = run(&["runs", database]).stdout;
    assert!(
        text.contains(&format!("{dropped} tensors were dropped")),
        "{text}"
    );
}

#[test]
fn runs_shows_which_records_were_kept_and_where_recording_may_have_touched_the_numbers() {
    let dir = TempDir::new().unwrap();
    let recorder = Recorder::builder(dir.path())
        .run("part")
        .select("stage=logits")
        .build()
        .unwrap();
    recorder.set_observation(bitnet_trace::Observation {
        graph_split: true,
        fusion_may_differ: Some(true),
        ..Default::default()
    });
    recorder.record(Tap::new("logits", -1, 0), &Slice::new(&[1.0f32], &[1]));
    recorder.finish().unwrap();
    let database = dir.path().to_str().unwrap();
    let text = run(&["runs", database]).stdout;
    assert!(text.contains("selected: stage=logits"), "{text}");
    assert!(text.contains("had operators computed one by one"), "{text}");
    let runs = run(&["runs", database, "--format", "json"]).json();
    common::check_schema("runs", &runs);
    assert_eq!(runs["runs"][0]["observation"]["fusion_may_differ"], true);
}
