//! Architectures that only llama.cpp runs: what it computes for Qwen 2, Qwen 3 and Gemma 3 is recorded as what it is.

use crate::{
    preload::{plain_host, record},
    support::*,
};
use bitnet_models::{Activations, Gguf, TinyArch, TinySpec, product, write_tiny_model};
use bitnet_trace_store::{Filter, Run};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// Every stage of a model's run that is not in a layer, and those that every layer has.
const OUTSIDE: [&str; 4] = ["embeddings", "all_layers_out", "final_norm", "logits"];
const EVERYWHERE: [&str; 19] = [
    "attn_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "q_rope",
    "k_rope",
    "k_cache",
    "v_cache",
    "attn_scores",
    "attn_probs",
    "attn_ctx",
    "attn_out",
    "attn_residual",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_act",
    "ffn_down",
    "layer_out",
];
const QK_NORMS: [&str; 2] = ["q_norm", "k_norm"];

/// Products with weights: input, weight, and whether Qwen 2 has a bias there.
const PRODUCTS: [(&str, &str, &str, bool); 7] = [
    ("q_proj", "attn_norm", "attn_q", true),
    ("k_proj", "attn_norm", "attn_k", true),
    ("v_proj", "attn_norm", "attn_v", true),
    ("attn_out", "attn_ctx", "attn_output", false),
    ("ffn_gate", "ffn_norm", "ffn_gate", false),
    ("ffn_up", "ffn_norm", "ffn_up", false),
    ("ffn_down", "ffn_act", "ffn_down", false),
];

/// A model's sizes, as its file tells them.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    layers: i32,
    embd: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ff: usize,
    /// Every how manieth layer has no window, and the window.
    window: Option<(i32, usize)>,
    /// What the scores are multiplied with.
    scale: f32,
}

impl Sizes {
    fn tiny(arch: TinyArch) -> Self {
        let gemma = arch == TinyArch::Gemma3;
        Self {
            layers: 4,
            embd: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: if gemma { 32 } else { 16 },
            ff: 128,
            window: gemma.then_some((2, 8)),
            scale: if gemma { 1.0 } else { 0.25 },
        }
    }

    const GEMMA_270M: Self = Self {
        layers: 18,
        embd: 640,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        ff: 2048,
        window: Some((6, 512)),
        scale: 1.0,
    };

    /// The first key that a token of a layer attends to.
    fn first_key(&self, layer: i32, seq: usize) -> usize {
        match self.window {
            Some((period, window)) if layer % period < period - 1 => (seq + 1).saturating_sub(window),
            _ => 0,
        }
    }

    fn shape(&self, stage: &str) -> Option<Vec<i64>> {
        let shape = match stage {
            "q_proj" | "attn_ctx" => vec![self.heads * self.head_dim],
            "k_proj" | "v_proj" => vec![self.kv_heads * self.head_dim],
            "q_norm" | "q_rope" | "q_scaled" => vec![self.heads, self.head_dim],
            "k_norm" | "k_rope" | "k_cache" | "v_cache" => vec![self.kv_heads, self.head_dim],
            "ffn_gate" | "ffn_up" | "ffn_act" => vec![self.ff],
            "attn_scores" | "attn_probs" | "logits" => return None,
            _ => vec![self.embd],
        };
        Some(shape.into_iter().map(|n| n as i64).collect())
    }
}

struct Fixture {
    _dir: TempDir,
    path: PathBuf,
    sizes: Sizes,
}

fn tiny(arch: TinyArch) -> Fixture {
    written(arch, false)
}

fn written(arch: TinyArch, scales: bool) -> Fixture {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tiny.gguf");
    let spec = TinySpec {
        arch,
        scales,
        ..TinySpec::default()
    };
    write_tiny_model(&path, &spec).expect("a model");
    Fixture {
        path,
        sizes: Sizes::tiny(arch),
        _dir: dir,
    }
}

/// `count` ids below `vocabulary`, none of them a control token.
fn ids(count: usize, vocabulary: usize) -> String {
    let id = |i: usize| (10 + (i * 7919 + i * i * 31) % (vocabulary - 10)).to_string();
    (0..count).map(id).collect::<Vec<_>>().join(",")
}

fn runner(model: &Path, ids: &str, more: &[&str]) -> Command {
    let mut command = Command::new(program("cpp-runner"));
    command.arg("--model").arg(model);
    command.args(["--tokens", ids, "--max-tokens", "0"]).args(more);
    command
}

/// Stage, layer and position.
type Key = (String, i32, usize);

/// The tensors of a run: shapes and values.
struct Tensors(BTreeMap<Key, (Vec<i64>, Vec<f32>)>);

impl Tensors {
    fn of(db: &Db, name: &str) -> Self {
        let run = Run::open(db.at(name)).expect("a run");
        let mut map = BTreeMap::new();
        for row in run.records(&Filter::default()) {
            let meta = &row.meta;
            let key = (meta.stage.to_string(), meta.layer, meta.seq as usize);
            let values = run
                .tensor(&row)
                .expect("a tensor")
                .to_f32()
                .expect("values")
                .into_owned();
            let again = map.insert(key, (meta.shape.to_vec(), values));
            assert!(again.is_none(), "one record a key: {meta:?}");
        }
        Self(map)
    }

    fn find(&self, stage: &str, layer: i32, seq: usize) -> Option<&[f32]> {
        let (_, values) = self.0.get(&(stage.to_owned(), layer, seq))?;
        Some(values)
    }

    fn get(&self, stage: &str, layer: i32, seq: usize) -> &[f32] {
        self.find(stage, layer, seq)
            .unwrap_or_else(|| panic!("no {stage} of layer {layer} at {seq}"))
    }

    /// Asserts that exactly these stages are there, in every layer and at every position, in the model's sizes.
    fn assert_whole(&self, stages: &BTreeSet<&str>, sizes: &Sizes, positions: usize) {
        let mut expected = BTreeSet::new();
        for &stage in stages {
            let layers = match stage {
                "all_layers_out" => -2..-1,
                "embeddings" | "embd_scaled" | "final_norm" | "logits" => -1..0,
                _ => 0..sizes.layers,
            };
            for layer in layers {
                expected.extend((0..positions).map(|seq| (stage.to_owned(), layer, seq)));
            }
        }
        let found: BTreeSet<_> = self.0.keys().cloned().collect();
        let odd: Vec<_> = found.symmetric_difference(&expected).take(5).collect();
        assert!(odd.is_empty(), "missing or unexpected: {odd:?}");
        for ((stage, layer, seq), (shape, _)) in &self.0 {
            match (sizes.shape(stage), stage.as_str()) {
                (Some(expected), _) => assert_eq!(shape, &expected, "{stage} of layer {layer} at {seq}"),
                (_, "attn_scores") => assert_eq!(shape[..], [sizes.heads as i64, *seq as i64 + 1]),
                (_, "attn_probs") => assert!(shape[0] == sizes.heads as i64 && shape[1] > *seq as i64),
                _ => assert!(shape[0] > 0),
            }
        }
    }

    /// Asserts that attention is what the recorded queries and caches give: each row of scores and probabilities is of
    /// the keys of positions 0, 1, 2, ..., and a key outside of the window has no weight. Returns how many rows of scores
    /// there were.
    fn assert_attention(&self, sizes: &Sizes, tolerance: f32) -> usize {
        let contexts = self.0.keys().filter(|(stage, ..)| stage == "attn_ctx");
        let (mut rows, mut scored) = (0, 0);
        for &(_, layer, seq) in contexts {
            let q = (self.find("q_scaled", layer, seq)).unwrap_or_else(|| self.get("q_rope", layer, seq));
            let (scores, probs) = (
                self.find("attn_scores", layer, seq),
                self.find("attn_probs", layer, seq),
            );
            let (ctx, dim) = (self.get("attn_ctx", layer, seq), sizes.head_dim);
            let first = sizes.first_key(layer, seq);
            scored += usize::from(scores.is_some());
            for head in 0..sizes.heads {
                let at = |name: &str| format!("{name} of layer {layer}, head {head} at {seq}");
                let kv = head * sizes.kv_heads / sizes.heads * dim;
                let q = &q[head * dim..][..dim];
                let exact: Vec<f32> = (0..=seq)
                    .map(|p| dot(q, &self.get("k_cache", layer, p)[kv..][..dim]))
                    .collect();
                if let Some(scores) = scores {
                    let keys = (0..=seq).map(|p| norm(&self.get("k_cache", layer, p)[kv..][..dim]));
                    let bound = tolerance * norm(q) * keys.fold(0.0, f32::max);
                    let scores = &scores[head * (seq + 1)..][..=seq];
                    assert_within(scores, &exact, bound, &at("attn_scores"));
                }
                let weights = softmax(&exact[first..], sizes.scale);
                if let Some(probs) = probs {
                    let keys = probs.len() / sizes.heads;
                    let probs = &probs[head * keys..][..keys];
                    assert_near(&probs[first..=seq], &weights, tolerance, &at("attn_probs"));
                    let outside = probs[..first].iter().chain(&probs[seq + 1..]);
                    assert!(
                        outside.into_iter().all(|&p| p == 0.0),
                        "{}",
                        at("mass outside of the window")
                    );
                }
                let mut sum = vec![0.0; dim];
                for (key, weight) in weights.iter().enumerate() {
                    let v = &self.get("v_cache", layer, first + key)[kv..][..dim];
                    sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight * v);
                }
                assert_near(&ctx[head * dim..][..dim], &sum, tolerance, &at("attn_ctx"));
                rows += 1;
            }
        }
        assert!(rows > 0);
        scored
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum::<f64>() as f32
}

fn softmax(scores: &[f32], scale: f32) -> Vec<f32> {
    let max = scores.iter().fold(f32::MIN, |max, s| max.max(*s));
    let weights: Vec<f32> = scores.iter().map(|s| ((s - max) * scale).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

fn norm(x: &[f32]) -> f32 {
    dot(x, x).sqrt()
}

/// That two vectors differ by no more than `tolerance` of the expected one's greatest element.
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let size = expected.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    assert_within(found, expected, tolerance * size, what);
}

fn assert_within(found: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst = apart.fold(0.0, f32::max);
    assert!(worst <= bound, "{what}: {worst} is more than {bound}");
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Records the runner, and an unmodified program that does the same.
fn both(db: &Db, model: &Path, ids: &str) -> Tensors {
    db.record("runner", &mut runner(model, ids, &[]));
    assert_eq!(db.manifest("runner")["dropped"]["total"], 0);
    record(db, "outside", "", &plain_host(model, &[&format!("0:{ids}")]));
    let first = db.first("runner", "outside", &[]);
    assert_full_match(&first);
    assert_eq!(count(&first.1, "within"), 0, "every byte is the same");
    Tensors::of(db, "runner")
}

/// Asserts that these products are those of the recorded inputs, scaled and with their biases.
fn assert_products(tensors: &Tensors, model: &Fixture, products: &[(&str, &str, &str, bool)], biases: bool) {
    let gguf = Gguf::open(&model.path).expect("a model");
    for &(stage, input, weight, has_bias) in products {
        for layer in 0..model.sizes.layers {
            let (x, found) = (tensors.get(input, layer, 5), tensors.get(stage, layer, 5));
            let weight = format!("blk.{layer}.{weight}");
            let vector = |end: &str| {
                let tensor = gguf.tensor(&format!("{weight}.{end}")).expect("a vector");
                let bytes = gguf.read_tensor(tensor).expect("its bytes");
                let values = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
                values.collect::<Vec<_>>()
            };
            let scale = vector("scale")[0];
            assert_ne!(scale, 1.0);
            let y = product(&gguf, &format!("{weight}.weight"), Activations::Exact, x).expect("a product");
            let y: Vec<f32> = y.iter().map(|y| y * scale).collect();
            let y = if has_bias && biases {
                sum(&y, &vector("bias"))
            } else {
                y
            };
            assert_near(found, &y, 1e-5, &format!("{stage} of layer {layer}"));
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn products_are_recorded_with_their_scales_and_biases() {
    let (db, model) = (Db::new(), written(TinyArch::Qwen2, true));
    let tensors = both(&db, &model.path, &ids(12, 300));
    let stages = OUTSIDE.into_iter().chain(EVERYWHERE).collect();
    tensors.assert_whole(&stages, &model.sizes, 12);
    tensors.assert_attention(&model.sizes, 1e-4);
    assert_products(&tensors, &model, &PRODUCTS[..4], true); // its other scales are not used
    let (db, model) = (Db::new(), written(TinyArch::Qwen3, true));
    let tensors = both(&db, &model.path, &ids(12, 300));
    assert_products(&tensors, &model, &PRODUCTS, false);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn qwen_3_is_recorded_with_its_norms_of_q_and_k() {
    let (db, model) = (Db::new(), tiny(TinyArch::Qwen3));
    let tensors = both(&db, &model.path, &ids(12, 300));
    let stages = OUTSIDE.into_iter().chain(EVERYWHERE).chain(QK_NORMS).collect();
    tensors.assert_whole(&stages, &model.sizes, 12);
    tensors.assert_attention(&model.sizes, 1e-4);
    // At position 0 RoPE turns nothing.
    assert_eq!(tensors.get("q_norm", 1, 0), tensors.get("q_rope", 1, 0));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn gemma_3_is_recorded_whole_and_its_residual_stream_adds_up() {
    let (db, model) = (Db::new(), tiny(TinyArch::Gemma3));
    let tensors = both(&db, &model.path, &ids(40, 300));
    let stages = OUTSIDE.into_iter().chain(EVERYWHERE).chain(OF_GEMMA).collect();
    tensors.assert_whole(&stages, &model.sizes, 40);
    tensors.assert_attention(&model.sizes, 1e-4);
    for seq in [0, 39] {
        let scaled: Vec<f32> = (tensors.get("embeddings", -1, seq).iter())
            .map(|x| x * 8.0)
            .collect();
        assert_eq!(tensors.get("embd_scaled", -1, seq), scaled);
        let mut stream = scaled;
        for layer in 0..model.sizes.layers {
            stream = sum(&stream, tensors.get("attn_post_norm", layer, seq));
            assert_eq!(tensors.get("attn_residual", layer, seq), stream);
            stream = sum(&stream, tensors.get("ffn_post_norm", layer, seq));
            assert_eq!(tensors.get("layer_out", layer, seq), stream);
            let rope = tensors.get("q_rope", layer, seq).iter();
            let scaled: Vec<f32> = rope.map(|q| q / (model.sizes.head_dim as f32).sqrt()).collect();
            assert_near(tensors.get("q_scaled", layer, seq), &scaled, 1e-6, "q_scaled");
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn fused_attention_s_context_is_that_of_the_window() {
    let (db, model) = (Db::new(), tiny(TinyArch::Gemma3));
    db.record(
        "fused",
        &mut runner(&model.path, &ids(40, 300), &["--flash-attn", "on"]),
    );
    let tensors = Tensors::of(&db, "fused");
    let fused = |stage: &&str| !["attn_scores", "attn_probs"].contains(stage);
    let stages = OUTSIDE
        .into_iter()
        .chain(EVERYWHERE)
        .chain(OF_GEMMA)
        .filter(fused);
    tensors.assert_whole(&stages.collect(), &model.sizes, 40);
    // The products of probabilities and values are added in F16 there.
    assert_eq!(tensors.assert_attention(&model.sizes, 5e-3), 0);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn keys_that_left_a_sliding_window_s_cache_have_no_weight_and_no_scores() {
    let (db, model) = (Db::new(), tiny(TinyArch::Gemma3));
    // The cache of a window has 256 cells: the last positions are put where the first ones were.
    let prompt = format!("0:{}", ids(300, 300));
    for (name, flags) in [
        ("ring", &["--ring", "--ubatch", "16"][..]),
        ("full", &["--ubatch", "16"]),
    ] {
        let args = [flags, &[&prompt]].concat();
        record(
            &db,
            name,
            "seq!=20-240;stage=k_cache|v_cache",
            &plain_host(&model.path, &args),
        );
    }
    let (ring, full) = (Tensors::of(&db, "ring"), Tensors::of(&db, "full"));
    let (left, all) = (
        ring.assert_attention(&model.sizes, 1e-4),
        full.assert_attention(&model.sizes, 1e-4),
    );
    assert!(left < all, "{left} of {all} rows");
    for key in full.0.keys().filter(|key| !ring.0.contains_key(key)) {
        let windowed = key.1 % 2 == 0 && key.2 >= 256;
        assert!(key.0 == "attn_scores" && windowed, "{key:?}");
    }
    for ((stage, layer, seq), (_, values)) in &ring.0 {
        let other = full.get(stage, *layer, *seq);
        let common = values.len().min(other.len());
        if stage != "attn_probs" {
            assert_near(values, other, 1e-4, &format!("{stage} of layer {layer} at {seq}"));
        }
        assert!(common > 0);
    }
    let told = db.manifest("ring")["settings"]["extra"]["attn_scores"].to_string();
    assert!(told.contains("sliding window"), "{told}");
    assert!(
        db.manifest("full")["settings"]["extra"]
            .get("attn_scores")
            .is_none()
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_real_gemma_3_is_recorded_beyond_its_window() {
    let model = root().join("target/demo/models/gemma-3-270m-q4_k_m.gguf");
    assert!(
        model.is_file(),
        "{} is missing: run `make setup`",
        model.display()
    );
    let db = Db::new();
    // Layer 4 has a window of 512, layer 5 has none.
    let select = "layer=4-5,stage=k_cache|v_cache;layer=4-5,seq=0|511-513|599;layer=-1,stage!=logits,seq=0|599;layer=-2,seq=599";
    db.record(
        "gemma",
        runner(&model, &ids(600, 200_000), &["--batch", "128"]).env("BITNET_TRACE_SELECT", select),
    );
    assert_eq!(db.manifest("gemma")["dropped"]["total"], 0);
    let tensors = Tensors::of(&db, "gemma");
    let sizes = Sizes::GEMMA_270M;
    for &stage in EVERYWHERE.iter().chain(&OF_GEMMA) {
        let layer = if stage == "embd_scaled" { -1 } else { 5 };
        let shape = &tensors.0[&(stage.to_owned(), layer, 599)].0;
        assert!(
            sizes.shape(stage).is_none_or(|expected| *shape == expected),
            "{stage}: {shape:?}"
        );
    }
    assert_eq!(tensors.assert_attention(&sizes, 1e-4), 10);
    let scaled: Vec<f32> = tensors
        .get("embeddings", -1, 599)
        .iter()
        .map(|x| x * 640f32.sqrt())
        .collect();
    assert_near(tensors.get("embd_scaled", -1, 599), &scaled, 1e-6, "embd_scaled");
}
