//! BitNet models: the recorded stages against the network's equations, each recomputed from the stage before it.
#![allow(clippy::unwrap_used)] // a failed test is a panic
#![cfg(all(feature = "cpu", feature = "trace"))]

mod common;
#[cfg(feature = "faults")]
#[path = "common/faults.rs"]
mod every_fault;
#[path = "common/trace.rs"]
mod trace;

use std::path::Path;

use bitnet_models::{
    Activations, Engine, GenerateOptions, Gguf, KvType, LoadOptions, Prompt, TinyArch, TinySpec, engine_info,
    generate, write_tiny_model,
};
use bitnet_trace::Recorder;
use common::{IDS, relative_l2};
use tempfile::TempDir;
use trace::{Record, by_key, read_run};

const ARCHS: [TinyArch; 2] = [TinyArch::Bitnet, TinyArch::BitnetB158];
const N_EMBD: usize = 128;
const N_FF: usize = 256;
const HEAD_DIM: usize = 32;
const EPS: f64 = 1e-5;

fn tiny(arch: TinyArch) -> (TempDir, Gguf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bitnet.gguf");
    let spec = TinySpec::bitnet(arch);
    assert_eq!(
        (spec.n_embd, spec.n_ff, spec.n_embd / spec.n_head),
        (N_EMBD, N_FF, HEAD_DIM)
    );
    write_tiny_model(&path, &spec).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    (dir, gguf)
}

/// A run of the prompt in two batches and two tokens more, with `change` made to the options of loading.
fn record(gguf: &Gguf, change: impl FnOnce(&mut LoadOptions)) -> (Vec<Record>, serde_json::Value) {
    let traces = tempfile::tempdir().unwrap();
    let recorder = Recorder::builder(traces.path())
        .engine(engine_info())
        .build()
        .unwrap();
    let mut load = LoadOptions::new(gguf.path(), recorder.clone());
    change(&mut load);
    let mut engine = Engine::load(load, &mut |_, _| {}).unwrap();
    let options = GenerateOptions {
        batch: 5,
        teacher_force: vec![7, 8, 9],
        ..GenerateOptions::new(Prompt::Tokens(IDS.to_vec()), 3)
    };
    generate(&mut engine, &options, &mut |_| {}).unwrap();
    let dir = recorder.finish().unwrap().dir;
    (read_run(&dir), manifest(&dir))
}

fn manifest(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("run.json")).unwrap()).unwrap()
}

fn weight(gguf: &Gguf, layer: i32, part: &str) -> Vec<f64> {
    let tensor = gguf.tensor(&format!("blk.{layer}.{part}.weight")).unwrap();
    let bytes = gguf.read_tensor(tensor).unwrap();
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|&bytes| f32::from_le_bytes(bytes).into()).collect()
}

fn norm(x: &[f32], weight: &[f64]) -> Vec<f32> {
    let square = |&x: &f32| f64::from(x) * f64::from(x);
    let mean = x.iter().map(square).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + EPS).sqrt();
    x.iter()
        .zip(weight)
        .map(|(&x, &w)| (f64::from(x) * scale * w) as f32)
        .collect()
}

fn product(x: &[f32], weight: &[f64]) -> Vec<f32> {
    weight
        .chunks(x.len())
        .map(|row| row.iter().zip(x).map(|(&w, &x)| w * f64::from(x)).sum::<f64>() as f32)
        .collect()
}

/// Element i of a head turns with element i + 16 by `pos` · 10000^(-i / 16).
fn rotate(x: &[f32], pos: i64) -> Vec<f32> {
    let mut out = x.to_vec();
    for (head, turned) in x.chunks(HEAD_DIM).zip(out.chunks_mut(HEAD_DIM)) {
        let half = HEAD_DIM / 2;
        for i in 0..half {
            let angle = pos as f64 * 10_000f64.powf(-(i as f64) / half as f64);
            let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
            turned[i] = (a * angle.cos() - b * angle.sin()) as f32;
            turned[i + half] = (a * angle.sin() + b * angle.cos()) as f32;
        }
    }
    out
}

fn gated(arch: TinyArch, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let act = |x: f64| match arch {
        TinyArch::BitnetB158 => x.max(0.0) * x.max(0.0),
        _ => x / (1.0 + (-x).exp()),
    };
    let pairs = gate.iter().zip(up);
    pairs
        .map(|(&gate, &up)| (act(gate.into()) * f64::from(up)) as f32)
        .collect()
}

#[test]
fn every_stage_of_a_layer_is_recorded_in_order_of_execution_with_the_sub_norms_in_their_places() {
    for arch in ARCHS {
        let (_dir, gguf) = tiny(arch);
        let (records, _) = record(&gguf, |_| {});
        let stages = |seq, layer| {
            let of_layer = records.iter().filter(move |r| (r.seq, r.layer) == (seq, layer));
            of_layer.map(|r| r.stage.as_str()).collect::<Vec<_>>()
        };
        for (seq, layer) in (0..IDS.len() as i64 + 2).flat_map(|seq| [(seq, 0), (seq, 1)]) {
            assert_eq!(
                stages(seq, layer).join(" "),
                "attn_norm q_proj k_proj v_proj q_rope k_rope k_cache v_cache attn_scores attn_probs attn_ctx \
                 attn_sub_norm attn_out attn_residual ffn_norm ffn_gate ffn_up ffn_act ffn_sub_norm ffn_down layer_out"
            );
        }
        let shape = |stage| &by_key(&records)[&(0, 0, stage)].shape;
        assert_eq!(shape("attn_sub_norm"), &[N_EMBD as i64]);
        assert_eq!(shape("ffn_sub_norm"), &[N_FF as i64]);
    }
}

#[test]
fn every_stage_follows_from_the_ones_before_it() {
    for arch in ARCHS {
        let (_dir, gguf) = tiny(arch);
        let (records, _) = record(&gguf, |_| {});
        let records = by_key(&records);
        for (&(seq, layer, stage), found) in &records {
            let get = |stage| records[&(seq, layer, stage)].values.as_slice();
            let weight = |part| weight(&gguf, layer, part);
            let expected = match stage {
                "q_proj" => product(get("attn_norm"), &weight("attn_q")),
                "k_proj" => product(get("attn_norm"), &weight("attn_k")),
                "v_proj" => product(get("attn_norm"), &weight("attn_v")),
                "q_rope" => rotate(get("q_proj"), seq),
                "k_rope" => rotate(get("k_proj"), seq),
                "attn_sub_norm" => norm(get("attn_ctx"), &weight("attn_sub_norm")),
                "attn_out" => product(get("attn_sub_norm"), &weight("attn_output")),
                "ffn_norm" => norm(get("attn_residual"), &weight("ffn_norm")),
                "ffn_gate" => product(get("ffn_norm"), &weight("ffn_gate")),
                "ffn_up" => product(get("ffn_norm"), &weight("ffn_up")),
                "ffn_act" => gated(arch, get("ffn_gate"), get("ffn_up")),
                "ffn_sub_norm" => norm(get("ffn_act"), &weight("ffn_sub_norm")),
                "ffn_down" => product(get("ffn_sub_norm"), &weight("ffn_down")),
                _ => continue,
            };
            let error = relative_l2(&expected, &found.values);
            assert!(
                error < 2e-6,
                "{arch:?} {stage} of layer {layer} at {seq}: {error}"
            );
        }
    }
}

#[test]
fn the_manifest_says_what_happened_to_the_activations() {
    let (_dir, gguf) = tiny(TinyArch::BitnetB158);
    for (name, activations) in Activations::ALL {
        let (_, manifest) = record(&gguf, |load| load.activations = activations);
        assert_eq!(manifest["settings"]["extra"]["activations"], name);
        assert_eq!(manifest["model"]["arch"], "bitnet-b1.58");
        assert_eq!(name.parse(), Ok(activations));
    }
    assert!(
        "f32"
            .parse::<Activations>()
            .unwrap_err()
            .contains("reference, reference-fma, exact")
    );
}

#[cfg(feature = "faults")]
#[test]
fn each_fault_changes_the_record_it_names_and_none_before_it() {
    let (_dir, gguf) = tiny(TinyArch::BitnetB158);
    let (control, _) = record(&gguf, |_| {});
    for fault in every_fault::every_fault(true, &[(1, 5)], |_| false) {
        let (faulty, _) = record(&gguf, |load| load.faults = vec![fault]);
        let bits = |record: &Record| record.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let first = control.iter().zip(&faulty).find(|(a, b)| bits(a) != bits(b));
        let first = first.map(|(a, _)| (a.seq, a.layer, a.stage.as_str()));
        assert_eq!(first, Some(fault.first_shown()), "{fault}");
    }
}

#[test]
fn an_f16_cache_holds_rounded_rows_and_is_multiplied_by_rounded_queries_and_probabilities() {
    let (_dir, gguf) = tiny(TinyArch::BitnetB158);
    let (records, manifest) = record(&gguf, |load| load.kv_type = KvType::F16);
    assert_eq!(manifest["settings"]["kv_type"], "F16");
    let records = by_key(&records);
    let rounded = |x: &[f32]| -> Vec<f32> { x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect() };
    for (&(seq, layer, stage), found) in &records {
        let get = |seq, stage| records[&(seq, layer, stage)].values.as_slice();
        let expected: Vec<f32> = match stage {
            "k_cache" => rounded(get(seq, "k_rope")),
            "v_cache" => rounded(get(seq, "v_proj")),
            // 4 heads, of which two read the same keys
            "attn_scores" => (0..4)
                .flat_map(|head| (0..=seq).map(move |pos| (head, pos)))
                .map(|(head, pos)| {
                    let key = &get(pos, "k_cache")[head / 2 * HEAD_DIM..][..HEAD_DIM];
                    let q = rounded(&get(seq, "q_rope")[head * HEAD_DIM..][..HEAD_DIM]);
                    q.iter()
                        .zip(key)
                        .map(|(&q, &k)| f64::from(q) * f64::from(k))
                        .sum::<f64>() as f32
                })
                .collect(),
            "attn_ctx" => {
                let probs = get(seq, "attn_probs");
                let keys = probs.len() / 4;
                let value = |head: usize, i: usize| {
                    let of_key = |pos: usize| {
                        let p = half::f16::from_f32(probs[head * keys + pos]).to_f64();
                        p * f64::from(get(pos as i64, "v_cache")[head / 2 * HEAD_DIM + i])
                    };
                    (0..=seq as usize).map(of_key).sum::<f64>() as f32
                };
                (0..4 * HEAD_DIM)
                    .map(|i| value(i / HEAD_DIM, i % HEAD_DIM))
                    .collect()
            }
            _ => continue,
        };
        let error = relative_l2(&expected, &found.values);
        assert!(error < 1e-6, "{stage} of layer {layer} at {seq}: {error}");
        assert!(!stage.ends_with("cache") || expected == found.values);
    }
}
