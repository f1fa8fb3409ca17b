//! Synthetic runs, made by the recorder, and the program under test.
#![allow(dead_code, clippy::unwrap_used)]

use bitnet_trace::{Engine, Recorder, Slice, Tap, Values};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub const STAGES: [&str; 8] = [
    "attn_norm",
    "q_proj",
    "q_rope",
    "attn_probs",
    "attn_ctx",
    "attn_out",
    "attn_residual",
    "layer_out",
];
pub const LAYERS: i32 = 3;
pub const TOKENS: i64 = 5;
pub const PROMPT: usize = 4;
pub const IDS: [i32; TOKENS as usize] = [504, 3575, 282, 4649, 314];

/// Changes the tensor of a (seq, layer, stage); false leaves it out.
pub type Change<'a> = &'a dyn Fn(i64, i32, &str, &mut Vec<f32>) -> bool;

/// A small made-up run: what it says of itself, and how its tensors are changed.
pub struct Made<'a> {
    pub name: &'a str,
    pub engine: &'a str,
    pub ids: &'a [i32],
    pub values: Values,
    pub weights: &'a str,
    pub change: Change<'a>,
    /// What the engine calls a stage.
    pub rename: &'a dyn Fn(&str) -> String,
    /// How often the whole is recorded.
    pub passes: usize,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            name: "left",
            engine: "llama.cpp",
            ids: &IDS,
            values: Values::Full,
            weights: "F32",
            change: &|_, _, _, _| true,
            rename: &str::to_owned,
            passes: 1,
        }
    }
}

/// Values that look like activations and depend on the place.
pub fn tensor(seq: i64, layer: i32, stage: &str) -> Vec<f32> {
    let seed = stage.bytes().fold(seq * 31 + i64::from(layer) * 7, |s, b| {
        s * 3 % 10_007 + i64::from(b)
    });
    let n = if stage == "attn_probs" {
        2 * (seq as usize + 1)
    } else {
        24
    };
    let wave = |i: usize| ((seed as f32) * 0.37 + i as f32 * 0.71).sin();
    if stage == "attn_probs" {
        return vec![1.0 / (seq as f32 + 1.0); n];
    }
    (0..n).map(wave).collect()
}

impl Made<'_> {
    /// Records the run and returns its directory.
    pub fn record(&self, database: &Path) -> PathBuf {
        let recorder = Recorder::builder(database)
            .run(self.name)
            .engine(Engine::new(self.engine, "1.2"))
            .values(self.values)
            .fixed(1_700_000_000_000)
            .build()
            .unwrap();
        recorder.set_model(bitnet_trace::Model {
            weight_types: [(self.weights.to_owned(), 3)].into(),
            ..Default::default()
        });
        recorder.set_prompt("What is 2+2?", PROMPT);
        for _ in 0..self.passes {
            recorder.begin_pass();
            recorder.tokens(0, 0, self.ids);
            for seq in 0..self.ids.len() as i64 {
                self.token(&recorder, seq);
            }
        }
        recorder.finish().unwrap();
        database.join(format!("run={}", self.name))
    }

    fn token(&self, recorder: &Recorder, seq: i64) {
        let tap = |layer: i32, stage: &str| {
            let mut values = tensor(seq, layer, stage);
            if (self.change)(seq, layer, stage, &mut values) {
                let shape = match stage {
                    "attn_probs" => vec![2, values.len() / 2],
                    _ => vec![values.len()],
                };
                recorder.record(
                    Tap::new(&(self.rename)(stage), layer, seq),
                    &Slice::new(&values, &shape),
                );
            }
        };
        tap(-1, "embeddings");
        for layer in 0..LAYERS {
            STAGES.iter().for_each(|stage| tap(layer, stage));
        }
        tap(-2, "all_layers_out");
        tap(-1, "final_norm");
        tap(-1, "logits");
    }
}

/// What one run of the program printed and returned.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-diff"));
    command
        .env_remove("BITNET_TRACE_DIR")
        .env_remove("BITNET_TRACE_RUN")
        .env_remove("CLICOLOR_FORCE");
    command
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ran {
    ran(command().args(args).output().unwrap())
}

/// Runs `command A B FLAGS`.
pub fn two(name: &str, left: &Path, right: &Path, flags: &[&str]) -> Ran {
    let mut args = vec![
        name.into(),
        left.as_os_str().to_owned(),
        right.as_os_str().to_owned(),
    ];
    args.extend(flags.iter().map(|f| f.into()));
    run(&args)
}

/// Adds `size` times a different pattern to a tensor.
pub fn shift(values: &mut [f32], size: f32) {
    for (i, x) in values.iter_mut().enumerate() {
        *x += size * (i as f32 * 1.3).cos();
    }
}

/// Everything that follows from a fault at (seq 3, layer 1, attn_out), as an engine would compute it.
pub fn downstream(seq: i64, layer: i32, stage: &str) -> bool {
    let rank = |s: &str| STAGES.iter().position(|x| *x == s).unwrap_or(99);
    match layer {
        -1 if stage == "embeddings" => false,
        -1 | -2 => seq == 3,
        1 => seq == 3 && rank(stage) >= rank("attn_out"),
        2 => seq == 3,
        _ => false,
    }
}

/// Checks a document against schemas/<name>.schema.json, with no key that the schema does not describe.
pub fn check_schema(name: &str, document: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../schemas/{name}.schema.json"));
    let mut schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    close(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{document:#}");
}

/// Adds `additionalProperties: false` where properties are listed with what is required.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && map.contains_key("required") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}
