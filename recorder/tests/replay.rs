//! A stored run replayed into an engine of a few lines.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{
    AsTensor, DType, Engine, Error, Model, Recorder, RecorderBuilder, Replay, ReplayError, Settings, Slice,
    Tap, TensorError, TensorView, TensorViewMut, bytes_of, tap,
};
use common::{Record, manifest, parts, read};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A tensor of this engine.
#[derive(Clone)]
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl AsTensor for Tensor {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        f(TensorView::new(DType::F32, &self.shape, bytes_of(&self.data)));
        Ok(())
    }

    fn replaced(&self, bytes: &[u8]) -> Result<Self, TensorError> {
        let (values, _) = bytes.as_chunks();
        Ok(Self {
            shape: self.shape.clone(),
            data: values.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        })
    }
}

/// What differs from engine to engine.
#[derive(Clone)]
struct Toy {
    ids: Vec<u32>,
    /// An error of this engine's in `layer_out` of layer 0.
    bias: f32,
    /// Rows of the last layer and the logits are computed for the last token of a call only.
    pruned: bool,
    batch: usize,
    width: usize,
    stage: &'static str,
}

impl Default for Toy {
    fn default() -> Self {
        Self {
            ids: vec![5, 6, 7, 8],
            bias: 0.0,
            pruned: false,
            batch: 4,
            width: 2,
            stage: "ffn_norm",
        }
    }
}

impl Toy {
    /// The logits of the last token.
    fn run(&self, recorder: &Recorder) -> Vec<f32> {
        let mut cache: Vec<f32> = Vec::new();
        let mut last = Vec::new();
        for (call, ids) in self.ids.chunks(self.batch).enumerate() {
            let first = call * self.batch;
            let pass = recorder.pass(0, first as i64, ids);
            let of = |data: Vec<f32>, shape: &[usize]| Tensor {
                shape: shape.to_vec(),
                data,
            };
            let (n, width) = (ids.len(), self.width);
            let embed = ids
                .iter()
                .flat_map(|&id| (0..width).map(move |i| (id as f32).sin() + i as f32));
            let mut x = tap!(pass, embeddings, of(embed.collect(), &[n, width]));
            for layer in 0..2usize {
                let norm = of(x.data.iter().map(|v| v * 0.5).collect(), &x.shape);
                let norm = pass.through(pass.tap(self.stage, layer), norm);
                if layer == 0 {
                    cache.extend(norm.data.iter().step_by(width));
                    let keys = cache.len();
                    // [heads, tokens, keys]: beyond the own key stands what a mask would hide
                    let score = |t: usize, k: usize| norm.data[t * width] * cache[k] + 0.25;
                    let scores = (0..n).flat_map(|t| (0..keys).map(move |k| (t, k)));
                    let scores = of(scores.map(|(t, k)| score(t, k)).collect(), &[1, n, keys]);
                    let scores = tap!(pass, attn_scores[layer], scores, token_axis(1), causal_axis(2));
                    let masked = |i: usize| {
                        if i % keys > first + i / keys {
                            0.0
                        } else {
                            scores.data[i]
                        }
                    };
                    let probs = of((0..n * keys).map(masked).collect(), &[1, n, keys]);
                    let probs = tap!(pass, attn_probs[layer], probs, token_axis(1));
                    for (t, row) in probs.data.chunks(keys).enumerate() {
                        x.data[t * width] += row.iter().sum::<f32>();
                    }
                }
                let mut seq = first as i64;
                if layer == 1 && self.pruned {
                    x = of(x.data[(n - 1) * width..].to_vec(), &[1, width]);
                    seq += n as i64 - 1;
                }
                let bias = if layer == 0 { self.bias } else { 0.0 };
                let out = of(x.data.iter().map(|v| (v + bias).cos()).collect(), &x.shape);
                let tap = Tap::new("layer_out", layer as i32, seq).token_axis(0);
                x = recorder.through(tap, out);
            }
            let rows = x.shape[0];
            let tap = Tap::new("logits", -1, (first + n - rows) as i64).token_axis(0);
            let logits = of(x.data.iter().map(|v| v * 3.0).collect(), &x.shape);
            last = recorder.through(tap, logits).data;
        }
        last[last.len() - self.width..].to_vec()
    }

    fn record(&self, dir: &Path, name: &str, set: impl FnOnce(RecorderBuilder) -> RecorderBuilder) -> Done {
        let builder = Recorder::builder(dir).engine(Engine::new("toy", "1")).run(name);
        let recorder = set(builder).build().expect("a recorder");
        let logits = self.run(&recorder);
        let run = recorder.run_dir().expect("on").to_owned();
        Done {
            error: recorder.replay_error().cloned(),
            sealed: recorder.finish().map(|_| ()),
            error_at_end: recorder.replay_error().cloned(),
            logits,
            run,
        }
    }
}

#[derive(Debug)]
struct Done {
    logits: Vec<f32>,
    run: PathBuf,
    error: Option<ReplayError>,
    error_at_end: Option<ReplayError>,
    sealed: Result<(), Error>,
}

impl Done {
    fn records(&self) -> Vec<Record> {
        read(&self.run)
    }

    fn stopped(&self) -> &ReplayError {
        assert!(self.sealed.is_err(), "the run is failed: {self:?}");
        assert_eq!(manifest(&self.run).state.name(), "failed");
        self.error_at_end.as_ref().expect("a reason")
    }
}

fn place() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn hashes(records: &[Record]) -> Vec<(i64, i32, String, String)> {
    let key = |r: &Record| {
        (
            r.meta.seq,
            r.meta.layer,
            r.meta.stage.to_string(),
            r.meta.blake3.clone(),
        )
    };
    let mut hashes: Vec<_> = records.iter().map(key).collect();
    hashes.sort();
    hashes
}

fn of_stage<'a>(records: &'a [Record], stage: &str, layer: i32) -> Vec<&'a Record> {
    records
        .iter()
        .filter(|r| r.meta.stage == *stage && r.meta.layer == layer)
        .collect()
}

#[test]
fn a_run_that_is_replayed_into_itself_changes_nothing() {
    let dir = place();
    let a = Toy::default().record(dir.path(), "a", |b| b);
    let b = Toy::default().record(dir.path(), "b", |b| b.replay(Replay::of(&a.run)));
    b.sealed.as_ref().expect("complete");
    assert_eq!(hashes(&a.records()), hashes(&b.records()));
    assert_eq!(a.logits, b.logits);
    let (all, replay) = (
        a.records().len() as u64,
        manifest(&b.run).replay.expect("a replay"),
    );
    assert_eq!((replay.injected, replay.skipped, replay.pruned), (all, 0, 0));
    assert_eq!((replay.run.as_str(), replay.at), ("a", None));
    assert_eq!(replay.created_unix_ms, manifest(&a.run).created_unix_ms);
    assert_eq!(manifest(&a.run).replay, None);
}

#[test]
fn what_the_engine_computed_is_recorded_and_what_it_goes_on_with_is_the_stored_runs() {
    let dir = place();
    let right = Toy::default().record(dir.path(), "right", |b| b);
    let wrong = Toy {
        bias: 0.125,
        ..Toy::default()
    };
    let alone = wrong.record(dir.path(), "alone", |b| b);
    assert_ne!(alone.logits, right.logits);
    let replayed = wrong.record(dir.path(), "replayed", |b| b.replay(Replay::of(&right.run)));
    let differ = |stage: &str, layer| {
        let (a, b) = (right.records(), replayed.records());
        let hash = |r: &[Record]| {
            of_stage(r, stage, layer)
                .iter()
                .map(|r| r.meta.blake3.clone())
                .collect::<Vec<_>>()
        };
        hash(&a) != hash(&b)
    };
    assert!(differ("layer_out", 0), "the error, where it is made");
    for (stage, layer) in [
        ("embeddings", -1),
        ("ffn_norm", 1),
        ("layer_out", 1),
        ("logits", -1),
    ] {
        assert!(
            !differ(stage, layer),
            "{stage} of layer {layer} was given the right input"
        );
    }
    assert_eq!(replayed.logits, right.logits);
    let later = wrong.record(dir.path(), "later", |b| {
        b.replay(Replay::of(&right.run).at("stage=layer_out,layer=1"))
    });
    assert_eq!(later.logits, right.logits);
    let earlier = wrong.record(dir.path(), "earlier", |b| {
        b.replay(Replay::of(&right.run).at("stage=embeddings"))
    });
    assert_eq!(
        earlier.logits, alone.logits,
        "what comes before the error does not undo it"
    );
}

#[test]
fn a_changed_reference_changes_the_outcome() {
    let dir = place();
    let changed = Toy {
        bias: 0.5,
        ..Toy::default()
    };
    let a = changed.record(dir.path(), "a", |b| b);
    let own = Toy::default().record(dir.path(), "own", |b| b);
    let b = Toy::default().record(dir.path(), "b", |b| b.replay(Replay::of(&a.run)));
    assert_eq!(b.logits, a.logits);
    assert_ne!(b.logits, own.logits);
}

#[test]
fn scores_beyond_the_own_key_stay_and_probabilities_end_in_zeros() {
    let dir = place();
    let batch = Toy::default();
    let tokens = Toy {
        batch: 1,
        ..Toy::default()
    };
    let (a, b) = (
        batch.record(dir.path(), "batch", |b| b),
        tokens.record(dir.path(), "tokens", |b| b),
    );
    assert_eq!(a.logits, b.logits);
    for (engine, reference, name) in [(&batch, &b, "x"), (&tokens, &a, "y")] {
        let done = engine.record(dir.path(), name, |b| b.replay(Replay::of(&reference.run)));
        done.sealed.as_ref().expect("complete");
        assert_eq!(done.logits, a.logits);
        let injected = manifest(&done.run).replay.expect("a replay").injected;
        assert_eq!(injected, a.records().len() as u64);
    }
    // A row that is written in place, between others.
    let replay = Replay::of(&a.run).at("stage=attn_scores,seq=1");
    let recorder = Recorder::builder(dir.path())
        .replay(replay)
        .build()
        .expect("a recorder");
    let mut data = [9.0f32; 16];
    let mut bytes: Vec<u8> = bytes_of(&data).to_vec();
    let mut view = TensorViewMut::new(DType::F32, &[1, 4, 4], &mut bytes);
    let tap = Tap::new("attn_scores", 0, 0).token_axis(1).causal_axis(2);
    assert!(recorder.replay(tap, &mut view));
    let stored = of_stage(&a.records(), "attn_scores", 0)[1]
        .values
        .clone()
        .expect("values");
    data[4..6].copy_from_slice(&stored);
    assert_eq!(bytes, bytes_of(&data));
}

#[test]
fn rows_that_the_stored_runs_engine_left_out_stay_and_are_counted() {
    let dir = place();
    let pruned = Toy {
        pruned: true,
        ..Toy::default()
    };
    let a = pruned.record(dir.path(), "a", |b| b);
    let b = Toy::default().record(dir.path(), "b", |b| b.replay(Replay::of(&a.run)));
    b.sealed.as_ref().expect("complete");
    let replay = manifest(&b.run).replay.expect("a replay");
    assert_eq!(
        (replay.injected, replay.pruned),
        (a.records().len() as u64, 6),
        "three rows of two tensors"
    );
    assert_eq!(b.logits, a.logits);
    // The other way round nothing is missing.
    let c = pruned.record(dir.path(), "c", |builder| builder.replay(Replay::of(&b.run)));
    c.sealed.as_ref().expect("complete");
}

#[test]
fn visits_correspond_in_their_order() {
    let dir = place();
    let twice = |recorder: &Recorder| {
        let first = Toy {
            ids: vec![1, 2],
            ..Toy::default()
        };
        first.run(recorder);
        Toy::default().run(recorder)
    };
    let a = Recorder::builder(dir.path())
        .run("a")
        .build()
        .expect("a recorder");
    let logits = twice(&a);
    let a = a.finish().expect("sealed").dir;
    let b = Recorder::builder(dir.path())
        .run("b")
        .replay(Replay::of(&a))
        .build()
        .expect("a recorder");
    assert_eq!(twice(&b), logits);
    let b = b.finish().expect("sealed").dir;
    assert_eq!(hashes(&read(&a)), hashes(&read(&b)));
}

#[test]
fn half_floats_go_back_as_they_were() {
    let dir = place();
    let values: Vec<half::f16> = [1.5, -0.0, 6e-8, f32::INFINITY].map(half::f16::from_f32).to_vec();
    let record = |recorder: &Recorder| recorder.through(Tap::new("q_rope", 0, 0), values.clone());
    let a = Recorder::builder(dir.path())
        .run("a")
        .build()
        .expect("a recorder");
    record(&a);
    let a = a.finish().expect("sealed").dir;
    let b = Recorder::builder(dir.path())
        .run("b")
        .replay(Replay::of(a))
        .build()
        .expect("a recorder");
    let zeros = vec![half::f16::ZERO; 4];
    assert_eq!(b.through(Tap::new("q_rope", 0, 0), zeros), values);
    b.finish().expect("complete");
}

#[test]
fn another_prompt_is_an_error_unless_it_is_meant() {
    let dir = place();
    let a = Toy::default().record(dir.path(), "a", |b| b);
    let other = Toy {
        ids: vec![5, 6, 9, 8],
        ..Toy::default()
    };
    let own = other.record(dir.path(), "own", |b| b);
    let b = other.record(dir.path(), "b", |b| b.replay(Replay::of(&a.run)));
    assert!(
        matches!(
            b.stopped(),
            ReplayError::Token {
                seq: 2,
                expected: 7,
                found: 9,
                ..
            }
        ),
        "{b:?}"
    );
    assert_eq!(b.logits, own.logits, "the engine went on unharmed");
    assert_eq!(hashes(&b.records()), hashes(&own.records()));
    let meant = Replay::of(&a.run).at("stage=embeddings").other_prompt(true);
    let c = other.record(dir.path(), "c", |b| b.replay(meant));
    c.sealed.as_ref().expect("complete");
    assert_eq!(c.logits, a.logits);
    let partial = Replay::of(&a.run).partial(true);
    let d = other.record(dir.path(), "d", |b| b.replay(partial));
    assert_eq!(d.logits, own.logits, "the call is left as it is");
    assert!(matches!(d.stopped(), ReplayError::Nothing { .. }), "{d:?}");
}

#[test]
fn what_the_stored_run_lacks_is_named() {
    let dir = place();
    let toy = Toy::default();
    let a = toy.record(dir.path(), "a", |b| b);
    let longer = Toy {
        ids: vec![5, 6, 7, 8, 9],
        ..Toy::default()
    };
    let b = longer.record(dir.path(), "longer", |b| b.replay(Replay::of(&a.run)));
    assert!(
        matches!(b.stopped(), ReplayError::Position { seq: 4, .. }),
        "{b:?}"
    );
    assert_eq!(b.error, b.error_at_end, "known at once");
    let stage = Toy {
        stage: "attn_norm",
        ..Toy::default()
    };
    let b = stage.record(dir.path(), "stage", |b| b.replay(Replay::of(&a.run)));
    let ReplayError::Missing { place, why, .. } = b.stopped() else {
        panic!("{b:?}")
    };
    assert_eq!(
        (place.to_string().as_str(), why.contains("does not record")),
        ("seq=0, layer=0, stage=attn_norm", true)
    );
    let partial = stage.record(dir.path(), "partial", |b| {
        b.replay(Replay::of(&a.run).partial(true))
    });
    partial.sealed.as_ref().expect("complete");
    assert_eq!(manifest(&partial.run).replay.expect("a replay").skipped, 8);
    let wide = Toy {
        width: 3,
        ..Toy::default()
    };
    let b = wide.record(dir.path(), "wide", |b| b.replay(Replay::of(&a.run)));
    assert!(
        matches!(b.stopped(), ReplayError::Shape { expected, found, .. } if (&expected[..], &found[..]) == (&[2], &[3])),
        "{b:?}"
    );
    let some = toy.record(dir.path(), "some", |b| b.select("layer=0"));
    let b = toy.record(dir.path(), "b", |b| b.replay(Replay::of(&some.run)));
    assert!(
        b.stopped().to_string().contains("the selection \"layer=0\""),
        "{b:?}"
    );
    let none = Replay::of(&a.run).at("stage=k_cache");
    let b = toy.record(dir.path(), "none", |b| b.replay(none));
    assert!(matches!(b.stopped(), ReplayError::Nothing { .. }), "{b:?}");
}

#[test]
fn another_model_or_setting_is_an_error_as_soon_as_it_is_known() {
    let dir = place();
    let models = [
        dir.path().join("a.gguf"),
        dir.path().join("b.gguf"),
        dir.path().join("c.gguf"),
    ];
    for (path, bytes) in models.iter().zip(["one", "two", "three"]) {
        std::fs::write(path, bytes).expect("written");
    }
    let model = |path: &Path| Model {
        path: path.to_string_lossy().into_owned(),
        ..Model::default()
    };
    let settings = |kv: &str, fa| Settings {
        kv_type: Some(kv.into()),
        flash_attention: Some(fa),
        ..Settings::default()
    };
    let record = |name: &str, path: &Path, settings: Settings, replay: Option<&Path>| {
        let mut builder = Recorder::builder(dir.path()).run(name);
        if let Some(run) = replay {
            builder = builder.replay(Replay::of(run));
        }
        let recorder = builder.build().expect("a recorder");
        recorder.set_model(model(path));
        recorder.set_settings(settings);
        Toy::default().run(&recorder);
        let sealed = recorder.finish();
        assert_eq!(sealed.is_err(), recorder.replay_error().is_some(), "{sealed:?}");
        (
            recorder.run_dir().expect("on").to_owned(),
            recorder.replay_error().map(ToString::to_string),
        )
    };
    let (a, _) = record("a", &models[0], settings("F16", false), None);
    assert_eq!(
        record("same", &models[0], settings("F16", false), Some(&a)).1,
        None
    );
    let error = |path, kv, fa| record("b", path, settings(kv, fa), Some(&a)).1.expect("refused");
    assert!(
        error(&models[1], "F16", false).contains("BLAKE3"),
        "of the same size"
    );
    assert!(
        error(&models[2], "F16", false)
            .contains("the size of the model here is 5 bytes, in the run a it was 3")
    );
    assert!(error(&models[0], "F32", false).contains("KV cache here is F32"));
    assert!(error(&models[0], "F16", true).contains("flash attention here is on"));
}

#[test]
fn a_run_that_is_not_whole_is_not_replayed() {
    let dir = place();
    let toy = Toy::default();
    let open = |path: &Path, partial| {
        let replay = Replay::of(path).partial(partial);
        let built = Recorder::builder(dir.path()).run("x").replay(replay).build();
        built.map(|_| ()).map_err(|e| e.to_string())
    };
    let failed = |path: &Path| open(path, false).expect_err("refused");
    let a = toy.record(dir.path(), "a", |b| b);
    assert!(open(&a.run, false).is_ok());
    assert!(failed(&dir.path().join("nothing")).contains("nothing: No such file"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    assert!(failed(&empty).contains("neither a run nor a database"));
    let stats = toy.record(dir.path(), "stats", |b| b.values(bitnet_trace::Values::Stats));
    assert!(failed(&stats.run).contains("statistics only"));
    let dropping = Recorder::builder(dir.path())
        .run("dropped")
        .build()
        .expect("a recorder");
    toy.run(&dropping);
    dropping.record(Tap::new("q_rope", 0, 0), &Slice::new(&[1.0f32], &[2]));
    let dropping = dropping.finish().expect("sealed").dir;
    assert!(failed(&dropping).contains("1 tensors were not recorded"));
    assert!(
        open(&dropping, true).is_ok(),
        "unless a partial replay is allowed"
    );
    let live = Recorder::builder(dir.path())
        .run("live")
        .build()
        .expect("a recorder");
    assert!(failed(live.run_dir().expect("on")).contains("being recorded"));
    // Cut off, and changed.
    let part = parts(&a.run).remove(0);
    let bytes = std::fs::read(&part).expect("a part");
    std::fs::write(&part, &bytes[..bytes.len() - 9]).expect("written");
    assert!(failed(&a.run).contains("run.json lists"));
    let values = bytes_of(
        &of_stage(&toy.record(dir.path(), "b", |b| b).records(), "logits", -1)[2]
            .values
            .clone()
            .expect("values"),
    )
    .to_vec();
    let at = bytes
        .windows(values.len())
        .position(|w| w == values)
        .expect("the values");
    let mut changed = bytes;
    changed[at] ^= 1;
    std::fs::write(&part, &changed).expect("written");
    let b = toy.record(dir.path(), "c", |b| b.replay(Replay::of(&a.run)));
    assert!(
        matches!(b.stopped(), ReplayError::Damaged { place, .. } if place.stage == "logits" && place.seq == 2),
        "{b:?}"
    );
}

#[test]
fn a_tensor_that_cannot_be_written_stops_the_replay_and_nothing_else() {
    let dir = place();
    let a = Toy::default().record(dir.path(), "a", |b| b);
    let builder = || {
        Recorder::builder(dir.path())
            .run("b")
            .replay(Replay::of(&a.run).at("stage=logits"))
    };
    let recorder = builder().build().expect("a recorder");
    let data = [1.0f32, 2.0];
    recorder.through(Tap::new("logits", -1, 0), Slice::new(&data, &[2]));
    let error = recorder.replay_error().expect("a reason").to_string();
    assert!(error.contains("implement AsTensor::replaced"), "{error}");
    let recorder = builder().build().expect("a recorder");
    let mut bytes = bytes_of(&data).to_vec();
    let mut view = TensorViewMut::new(DType::F32, &[2], &mut bytes).strides(&[0]);
    assert!(!recorder.replay(Tap::new("logits", -1, 0), &mut view));
    assert!(
        recorder
            .replay_error()
            .expect("a reason")
            .to_string()
            .contains("share memory")
    );
    assert_eq!(bytes, bytes_of(&data));
}

#[test]
fn of_a_database_the_newest_run_is_replayed() {
    let dir = place();
    Toy::default().record(dir.path(), "z-first", |b| b);
    std::thread::sleep(std::time::Duration::from_millis(5));
    Toy::default().record(dir.path(), "a-second", |b| b);
    let done = Toy::default().record(dir.path(), "b", |b| b.replay(Replay::of(dir.path()).at("*")));
    assert_eq!(manifest(&done.run).replay.expect("a replay").run, "a-second");
}
