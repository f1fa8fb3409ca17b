//! Tracepoints that the engine keeps: what they want, and when they stop.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{AsTensor, Recorder, Site, Slice, Tap, TensorError, TensorView};
use std::path::Path;

fn recorder(dir: &Path, selection: &str) -> Recorder {
    let builder = Recorder::builder(dir).run("a").select(selection);
    builder.build().expect("a recorder")
}

/// A tensor that nobody may look at.
struct Untouchable;

impl AsTensor for Untouchable {
    fn with_view(&self, _: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        panic!("this tensor is not selected")
    }
}

#[test]
fn a_site_wants_the_layers_that_the_selection_takes_of_its_stage() {
    for (selection, stage, wanted) in [
        ("", "x", &[-2, -1, 0, 5, 60, 61, 1000][..]),
        ("layer=5|61-70", "x", &[5, 61]),
        ("stage=x,layer=-1;stage=y", "x", &[-1]),
        ("stage=y", "x", &[]),
        ("layer!=0-100", "x", &[-2, -1, 1000]),
        ("seq=3", "x", &[-2, -1, 0, 5, 60, 61, 1000]),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = recorder(dir.path(), selection);
        let site = recorder.site(stage);
        let found: Vec<i32> = [-2, -1, 0, 5, 60, 61, 1000]
            .into_iter()
            .filter(|&layer| site.wants(layer))
            .collect();
        assert_eq!(found, wanted, "{selection}");
        for layer in [-2, 0, 5, 61].into_iter().filter(|l| !wanted.contains(l)) {
            site.record(site.tap(layer, 0), &Untouchable);
        }
        assert_eq!(site.clone().wants(5), site.wants(5));
    }
}

#[test]
fn a_site_records_what_its_recorder_would() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "layer=1,seq=1-");
    let site = recorder.site("q_proj");
    let values = [1.0f32, 2.0, 3.0, 4.0];
    site.record(
        site.tap(1, 0).token_axis(0).name("q-1"),
        &Slice::new(&values, &[2, 2]),
    );
    site.record(Tap::new("another", 1, 4), &values[..1]);
    assert_eq!(site.try_record(site.tap(0, 4), &Untouchable), Ok(()));
    assert!(site.try_record(site.tap(1, -1), &values[..1]).is_err());
    drop(recorder); // the site keeps the run open
    assert!(site.wants(1));
    let run = dir.path().join("run=a");
    drop(site);
    let records = common::read(&run);
    let found: Vec<_> = (records.iter())
        .map(|r| {
            (
                r.meta.stage.as_str(),
                r.meta.name.as_str(),
                r.meta.seq,
                r.values.clone(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("q_proj", "q-1", 1, Some(vec![3.0, 4.0])),
            ("q_proj", "", 4, Some(vec![1.0]))
        ]
    );
    assert_eq!(common::manifest(&run).dropped.total, 1);
}

#[test]
fn a_site_wants_nothing_when_the_recorder_is_off_or_the_run_has_ended() {
    assert!(!Site::off().wants(0) && !Site::default().wants(100) && !Recorder::off().site("x").wants(-1));
    Recorder::off()
        .site("x")
        .record(Tap::new("x", 0, 0), &Untouchable);
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "");
    let site = recorder.site("x");
    assert!(site.wants(0));
    recorder.finish().expect("sealed");
    assert!(!site.wants(0) && !site.wants(1) && !recorder.site("x").wants(0));
    site.record(site.tap(0, 0), &Untouchable);
}

#[test]
fn what_a_site_is_offered_after_the_writer_failed_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = recorder(dir.path(), "");
    let site = recorder.site("x");
    let run = recorder.run_dir().expect("on").to_owned();
    std::fs::create_dir(run.join("part-00000.parquet.open")).expect("a directory");
    site.record(site.tap(0, 0), &[1.0f32][..]);
    while recorder.is_on() {
        std::thread::yield_now();
    }
    assert!(!site.wants(0));
    assert!(site.try_record(site.tap(0, 1), &[1.0f32][..]).is_err());
    assert!(recorder.finish().is_err());
    assert_eq!(common::manifest(&run).dropped.total, 2);
}
