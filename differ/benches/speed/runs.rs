//! The runs that are compared: of the same records, each of which differs a little.

use crate::Fallible;
use bitnet_trace::{Recorder, Slice, Tap};
use std::path::Path;

/// What a run is made of.
pub struct Shape {
    pub name: &'static str,
    pub about: &'static str,
    /// Stage and floats of the records of a layer.
    layer: &'static [(&'static str, usize)],
    layers: i32,
    /// Floats of the logits of a token; 0 for none.
    logits: usize,
    pub records: usize,
}

const VECTORS: [(&str, usize); 8] = [
    ("attn_norm", 2560),
    ("q_proj", 2560),
    ("k_proj", 576),
    ("v_proj", 576),
    ("attn_out", 1536),
    ("ffn_norm", 1536),
    ("ffn_down", 2560),
    ("layer_out", 2560),
];

const fn all(floats: usize) -> [(&'static str, usize); 8] {
    let mut stages = VECTORS;
    let mut i = 0;
    while i < stages.len() {
        stages[i].1 = floats;
        i += 1;
    }
    stages
}

const fn of(
    name: &'static str,
    about: &'static str,
    floats: &'static [(&'static str, usize); 8],
    records: usize,
) -> Shape {
    Shape {
        name,
        about,
        layer: floats,
        layers: 30,
        logits: 0,
        records,
    }
}

pub const SHAPES: [Shape; 4] = [
    Shape {
        logits: 49_152,
        ..of(
            "M",
            "mixed, 50,000 tensors of 576 to 2,560 floats, and of 49,152 once a token",
            &VECTORS,
            50_000,
        )
    },
    of("S", "20,000 tensors of 2,560 floats", &all(2560), 20_000),
    of("L", "200 tensors of 327,680 floats", &all(327_680), 200),
    of("T", "100,000 tensors of 64 floats", &all(64), 100_000),
];

/// The run that the others are compared with.
pub const LEFT: &str = "run=left";
/// It, with noise as between two right engines.
pub const RIGHT: &str = "run=right";
/// It, wrong from the first record on.
pub const WRONG: &str = "run=wrong";

/// Records these runs, each `times` as long as the shape says, in the database `dir`; returns the bytes of the values of
/// one.
pub fn record(dir: &Path, shape: &Shape, times: usize, runs: &[&str]) -> Fallible<usize> {
    let mut next = random();
    let clean: Vec<f32> = (0..1 << 20).map(|_| next() + next() + next()).collect();
    let mut bytes = 0;
    for &run in runs {
        let noise = match run {
            LEFT => 0.0,
            RIGHT => 1e-6,
            _ => 0.1,
        };
        let values: Vec<f32> = clean.iter().map(|x| x * (1.0 + noise * next())).collect();
        bytes = record_one(dir, run.trim_start_matches("run="), shape, times, &values)?;
    }
    Ok(bytes)
}

fn record_one(dir: &Path, run: &str, shape: &Shape, times: usize, values: &[f32]) -> Fallible<usize> {
    let recorder = Recorder::builder(dir).run(run).build()?;
    let (mut records, mut bytes) = (0, 0);
    let mut give = |stage: &str, layer: i32, seq: usize, floats: usize| {
        let start = (records * 7919) % (values.len() - floats);
        let name = format!("{stage}-{layer}");
        let tap = Tap::new(stage, layer, seq as i64).name(&name).op("MUL_MAT");
        recorder.record(tap, &Slice::new(&values[start..start + floats], &[floats]));
        records += 1;
        bytes += floats * 4;
        records < shape.records * times
    };
    'all: for seq in 0.. {
        for layer in 0..shape.layers {
            for &(stage, floats) in shape.layer {
                if !give(stage, layer, seq, floats) {
                    break 'all;
                }
            }
        }
        if shape.logits > 0 && !give("logits", -1, seq, shape.logits) {
            break;
        }
    }
    if recorder.finish()?.dropped > 0 {
        return Err("the recorder dropped tensors".into());
    }
    Ok(bytes)
}

/// Numbers from -1 to 1, of a linear congruential generator (Knuth, The Art of Computer Programming, volume 2, 3.3.4).
pub fn random() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}
