//! What the feature `trace` records.
#![allow(clippy::unwrap_used)] // a failed test is a panic
#![cfg(all(feature = "cpu", feature = "trace"))]

mod common;
#[cfg(feature = "faults")]
#[path = "common/faults.rs"]
mod every_fault;
#[path = "common/trace.rs"]
mod trace;

use std::path::{Path, PathBuf};

use bitnet_models::{
    Engine, GenerateOptions, Generation, LoadOptions, Prompt, TinyType, engine_info, generate, greedy,
};
use bitnet_trace::Recorder;
use common::{IDS, Tiny, relative_l2};
use trace::{Record, by_key, read_run};

/// Records a run of the tiny model and reads it back.
fn record(tiny: &Tiny, name: &str, options: &GenerateOptions) -> (Generation, PathBuf, Vec<Record>) {
    record_selected(tiny, name, "", options)
}

fn record_selected(
    tiny: &Tiny,
    name: &str,
    selection: &str,
    options: &GenerateOptions,
) -> (Generation, PathBuf, Vec<Record>) {
    let traces = tiny.dir.path().join("traces");
    let recorder = Recorder::builder(&traces)
        .engine(engine_info())
        .run(name)
        .select(selection)
        .build()
        .unwrap();
    let mut engine = Engine::load(LoadOptions::new(&tiny.path, recorder.clone()), &mut |_, _| {}).unwrap();
    let generation = generate(&mut engine, options, &mut |_| {}).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.dropped, 0);
    let records = read_run(&summary.dir);
    assert_eq!(records.len() as u64, summary.records);
    (generation, summary.dir, records)
}

fn options(max_tokens: usize, batch: usize) -> GenerateOptions {
    let prompt = Prompt::Tokens(IDS.to_vec());
    GenerateOptions {
        batch,
        ignore_eos: true,
        ..GenerateOptions::new(prompt, max_tokens)
    }
}

fn manifest(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("run.json")).unwrap()).unwrap()
}

/// Stages of a layer in order of execution, with the shape of token `seq` in a batch that saw `keys` keys.
fn layer_stages(seq: i64, keys: i64) -> Vec<(&'static str, Vec<i64>)> {
    vec![
        ("attn_norm", vec![64]),
        ("q_proj", vec![64]),
        ("k_proj", vec![32]),
        ("v_proj", vec![32]),
        ("q_rope", vec![4, 16]),
        ("k_rope", vec![2, 16]),
        ("k_cache", vec![2, 16]),
        ("v_cache", vec![2, 16]),
        ("attn_scores", vec![4, seq + 1]),
        ("attn_probs", vec![4, keys]),
        ("attn_ctx", vec![64]),
        ("attn_out", vec![64]),
        ("attn_residual", vec![64]),
        ("ffn_norm", vec![64]),
        ("ffn_gate", vec![128]),
        ("ffn_up", vec![128]),
        ("ffn_act", vec![128]),
        ("ffn_down", vec![64]),
        ("layer_out", vec![64]),
    ]
}

#[test]
fn every_stage_is_recorded_at_every_position_in_order_of_execution() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let (generation, _, records) = record(&tiny, "run", &options(4, 512));
    assert_eq!(generation.generated_ids.len(), 4);
    let prompt = IDS.len() as i64;
    let vocab = tiny.engine().n_vocab() as i64;
    let mut rest = records.iter();
    for seq in 0..prompt + 3 {
        let keys = prompt.max(seq + 1);
        let pass = (seq - prompt + 1).max(0) as i32;
        let mut expected = vec![("embeddings", -1, vec![64])];
        for layer in 0..4 {
            expected.extend(
                layer_stages(seq, keys)
                    .into_iter()
                    .map(|(stage, shape)| (stage, layer, shape)),
            );
        }
        expected.extend([
            ("all_layers_out", -2, vec![64]),
            ("final_norm", -1, vec![64]),
            ("logits", -1, vec![vocab]),
        ]);
        for (stage, layer, shape) in expected {
            let record = rest
                .next()
                .unwrap_or_else(|| panic!("{stage} of layer {layer} at {seq} is missing"));
            assert_eq!(
                (record.stage.as_str(), record.layer, record.seq),
                (stage, layer, seq)
            );
            assert_eq!((&record.shape, record.pass), (&shape, pass), "{stage} at {seq}");
            assert_eq!(record.values.len() as i64, shape.iter().product::<i64>());
            assert!(
                record.values.iter().all(|value| value.is_finite()),
                "{stage} at {seq}"
            );
        }
    }
    assert_eq!(rest.next(), None);
}

#[test]
fn a_selected_run_generates_the_same_and_holds_the_selected_records() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let (all, _, records) = record(&tiny, "all", &options(4, 4));
    let key = |r: &Record| (r.seq, r.layer, r.stage.clone());
    let records = by_key(&records);
    let keys_of = |selection: &str| {
        let (some, _, selected) = record_selected(&tiny, "some", selection, &options(4, 4));
        assert_eq!(some.generated_ids, all.generated_ids, "{selection}");
        for record in &selected {
            assert_eq!(
                record.values,
                records[&(record.seq, record.layer, record.stage.as_str())].values,
                "{selection}: {:?}",
                key(record)
            );
        }
        selected.iter().map(key).collect::<Vec<_>>()
    };
    let only = |seqs: &[i64], layer: i32, stage: &str| -> Vec<_> {
        seqs.iter().map(|&seq| (seq, layer, stage.to_owned())).collect()
    };
    assert_eq!(
        keys_of("seq=2|5-9,layer=1,stage=v_cache"),
        only(&[2, 5, 6, 7, 8, 9], 1, "v_cache")
    );
    assert_eq!(keys_of("layer=-1,seq=6,stage=logits"), only(&[6], -1, "logits"));
    assert_eq!(keys_of("stage=final_norm,seq=1"), only(&[1], -1, "final_norm"));
    assert_eq!(
        keys_of("stage=attn_scores,layer=3,seq=10-"),
        only(&[10, 11], 3, "attn_scores")
    );
    assert_eq!(keys_of("layer=-2,seq=0"), only(&[0], -2, "all_layers_out"));
}

#[test]
fn the_recorded_values_obey_the_network_s_equations() {
    let tiny = Tiny::new(TinyType::F32);
    let (generation, _, records) = record(&tiny, "run", &options(3, 4));
    let records = by_key(&records);
    let get = |seq, layer, stage| records[&(seq, layer, stage)].values.as_slice();
    let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
    for seq in 0..IDS.len() as i64 + 2 {
        let mut x = get(seq, -1, "embeddings");
        for layer in 0..4 {
            assert_eq!(get(seq, layer, "k_cache"), get(seq, layer, "k_rope"));
            assert_eq!(get(seq, layer, "v_cache"), get(seq, layer, "v_proj"));
            let residual = get(seq, layer, "attn_residual");
            assert_eq!(residual, add(x, get(seq, layer, "attn_out")));
            x = get(seq, layer, "layer_out");
            assert_eq!(x, add(residual, get(seq, layer, "ffn_down")));
            check_attention(&get, seq, layer);
        }
        assert_eq!(get(seq, -2, "all_layers_out"), x);
    }
    let logits = |i: usize| get((IDS.len() - 1 + i) as i64, -1, "logits");
    for (i, &id) in generation.generated_ids.iter().enumerate() {
        assert_eq!(greedy(logits(i)), Some(id));
    }
}

/// Scores, probabilities and context recomputed from the recorded queries, keys and values. 4 query heads
/// share 2 key heads of 16 elements.
fn check_attention<'a>(get: &impl Fn(i64, i32, &'static str) -> &'a [f32], seq: i64, layer: i32) {
    let (q, scores, probs) = (
        get(seq, layer, "q_rope"),
        get(seq, layer, "attn_scores"),
        get(seq, layer, "attn_probs"),
    );
    let (seen, keys) = (seq as usize + 1, probs.len() / 4);
    let mut context = Vec::new();
    for head in 0..4 {
        let q = &q[head * 16..][..16];
        let kv = |stage, pos: usize| &get(pos as i64, layer, stage)[head / 2 * 16..][..16];
        let products: Vec<f32> = (0..seen)
            .map(|pos| q.iter().zip(kv("k_cache", pos)).map(|(q, k)| q * k).sum())
            .collect();
        assert!(relative_l2(&products, &scores[head * seen..][..seen]) < 1e-5);
        let probs = &probs[head * keys..][..keys];
        assert!(probs[seen..].iter().all(|&p| p == 0.0), "mass on a future key");
        let exp: Vec<f32> = products.iter().map(|product| (product / 4.0).exp()).collect();
        let sum: f32 = exp.iter().sum();
        let softmax: Vec<f32> = exp.iter().map(|e| e / sum).collect();
        assert!(relative_l2(&softmax, &probs[..seen]) < 1e-5);
        context.extend((0..16).map(|i| {
            (0..seen)
                .map(|pos| probs[pos] * kv("v_cache", pos)[i])
                .sum::<f32>()
        }));
    }
    assert!(relative_l2(&context, get(seq, layer, "attn_ctx")) < 1e-5);
}

#[test]
fn a_batched_run_and_a_token_by_token_run_have_the_same_keys_and_nearly_the_same_values() {
    let tiny = Tiny::new(TinyType::F32);
    let (_, _, batched) = record(&tiny, "batched", &options(3, 512));
    let (_, _, single) = record(&tiny, "single", &options(3, 1));
    let (batched, single) = (by_key(&batched), by_key(&single));
    assert_eq!(
        batched.keys().collect::<Vec<_>>(),
        single.keys().collect::<Vec<_>>()
    );
    for (key, a) in &batched {
        let b = single[key];
        if key.2 == "attn_probs" {
            continue; // the batch saw more keys, whose probability is zero
        }
        assert_eq!(a.shape, b.shape, "{key:?}");
        assert!(relative_l2(&a.values, &b.values) < 1e-5, "{key:?}");
    }
}

#[test]
fn two_equal_runs_are_equal_to_the_bit() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let (_, _, first) = record(&tiny, "a", &options(3, 4));
    let (_, _, second) = record(&tiny, "b", &options(3, 4));
    assert_eq!(first, second);
}

#[test]
fn recording_does_not_change_what_is_generated() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let (recorded, _, _) = record(&tiny, "run", &options(6, 4));
    let silent = generate(&mut tiny.engine(), &options(6, 4), &mut |_| {}).unwrap();
    assert_eq!(recorded.generated_ids, silent.generated_ids);
}

#[test]
fn the_manifest_says_which_model_ran_on_which_tokens() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let (generation, dir, _) = record(&tiny, "run", &options(3, 4));
    let manifest = manifest(&dir);
    assert_eq!(manifest["engine"]["name"], "bitnet-models");
    assert_eq!(manifest["engine"]["version"], env!("CARGO_PKG_VERSION"));
    let model = &manifest["model"];
    let bytes = std::fs::read(&tiny.path).unwrap();
    assert_eq!(model["blake3"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(model["bytes"], bytes.len());
    assert_eq!(model["arch"], "llama");
    assert_eq!(
        model["weight_types"],
        serde_json::json!({"F32": 9, "Q4_1": 28, "Q8_0": 1})
    );
    let settings = &manifest["settings"];
    assert_eq!(
        (&settings["batch"], &settings["kv_type"]),
        (&4.into(), &"F32".into())
    );
    assert_eq!(settings["flash_attention"], false);
    assert_eq!(settings["threads"], bitnet_models::threads());
    assert_eq!(settings.get("fault"), None);
    let observation = &manifest["observation"];
    assert_eq!(
        (
            &observation["fusion_may_differ"],
            &observation["threads_may_differ"]
        ),
        (&false.into(), &false.into())
    );
    assert_eq!(manifest["prompt_tokens"], IDS.len());
    // The last generated id is not computed on.
    let computed = [&IDS[..], &generation.generated_ids[..2]].concat();
    assert_eq!(manifest["sequences"][0]["ids"], serde_json::json!(computed));
}

#[cfg(feature = "faults")]
mod faults {
    use super::*;
    use bitnet_models::Fault;

    /// What a fault is held against, with its continuation forced upon it.
    struct Control {
        tiny: Tiny,
        options: GenerateOptions,
        records: Vec<Record>,
    }

    impl Control {
        fn new() -> Self {
            let tiny = Tiny::new(TinyType::F32);
            let options = GenerateOptions {
                teacher_force: vec![7, 8, 9],
                ..options(3, 4)
            };
            let (_, _, records) = record(&tiny, "control", &options);
            Self {
                tiny,
                options,
                records,
            }
        }

        /// The first record, in the order of execution, of which a bit differs in a run with `faults`, and what its
        /// manifest says of them.
        fn first_difference(&self, faults: &[Fault]) -> (Option<(i64, i32, String)>, serde_json::Value) {
            let dir = tempfile::tempdir_in(self.tiny.dir.path()).unwrap();
            let recorder = Recorder::builder(dir.path()).run("fault").build().unwrap();
            let mut load = LoadOptions::new(&self.tiny.path, recorder.clone());
            load.faults = faults.to_vec();
            let mut engine = Engine::load(load, &mut |_, _| {}).unwrap();
            generate(&mut engine, &self.options, &mut |_| {}).unwrap();
            let dir = recorder.finish().unwrap().dir;
            let faulty = read_run(&dir);
            assert_eq!(self.records.len(), faulty.len());
            let bits = |record: &Record| record.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let first = self.records.iter().zip(&faulty).find(|(a, b)| {
                assert_eq!(
                    (a.seq, a.layer, &a.stage, &a.shape),
                    (b.seq, b.layer, &b.stage, &b.shape)
                );
                bits(a) != bits(b)
            });
            let first = first.map(|(record, _)| (record.seq, record.layer, record.stage.clone()));
            (first, manifest(&dir)["settings"]["fault"].clone())
        }
    }

    #[test]
    fn each_fault_changes_the_record_it_names_and_none_before_it() {
        let control = Control::new();
        // In batches of four, positions 4 and 8 begin one, 6 lies inside one (in the last layer, so that no NaN reaches an
        // earlier token), 10 is decoded on its own.
        let last = |position| [3, 7, 8, 9, 10].contains(&position);
        for fault in every_fault::every_fault(false, &[(2, 4), (0, 8), (3, 6), (1, 10)], last) {
            let (first, told) = control.first_difference(&[fault]);
            let (seq, layer, stage) = fault.first_shown();
            assert_eq!(first, Some((seq, layer, stage.to_owned())), "{fault}");
            assert_eq!(told, fault.to_string());
        }
    }

    #[test]
    fn of_two_faults_the_first_shows_and_both_are_told() {
        let faults = ["gelu@layer=1,from=2", "bias=1@layer=0,from=2,stage=v_proj"];
        let (first, told) = Control::new().first_difference(&faults.map(|spec| spec.parse().unwrap()));
        assert_eq!(first, Some((2, 0, "v_proj".to_owned())));
        assert_eq!(told, faults.join(" "));
    }

    #[test]
    fn a_fault_without_a_place_is_in_every_layer_from_the_first_position() {
        let (first, _) = Control::new().first_difference(&["missing-residual".parse().unwrap()]);
        assert_eq!(first, Some((0, 0, "attn_residual".to_owned())));
    }

    #[test]
    fn without_a_fault_nothing_differs() {
        let (first, told) = Control::new().first_difference(&[]);
        assert_eq!((first, told), (None, serde_json::Value::Null));
    }

    #[test]
    fn a_fault_that_would_change_nothing_is_refused() {
        let tiny = Tiny::new(TinyType::F32);
        for (fault, reason) in [
            ("rope-base=10000", "the model's own base"),
            ("rms-eps=1e-5", "the model's own epsilon"),
            ("missing-residual@layer=4", "layers 0 to 3"),
            ("weight-scale=1", "a factor of 1 is none"),
            ("silu", "the model's own"),
            ("missing-sub-norm", "no sub-norms"),
            ("logits-roll@layer=1", "logits is of no layer"),
        ] {
            let mut load = LoadOptions::new(&tiny.path, Recorder::off());
            load.faults = vec![fault.parse().unwrap()];
            let error = Engine::load(load, &mut |_, _| {}).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
