//! Writes the golden trace of format v1: a small run with one of everything that is odd.
//!
//! `cargo run -p bitnet-trace --example golden -- schemas/golden/v1` makes `run=golden` there. A test writes
//! it anew and compares every byte; `schemas/golden/README.md` says what is odd about it.

use bitnet_trace::{
    Engine, Error, Layout, Model, Observation, Recorder, RunInfo, Settings, Slice, Tap, Values,
};
use half::{bf16, f16};
use std::path::Path;

/// Start and end of the golden run: 2026-01-01T00:00:00Z.
const UNIX_MS: u64 = 1_767_225_600_000;

/// Records the golden run into `dir/run=golden`.
///
/// # Errors
/// Those of the recorder.
pub fn write(dir: &Path) -> Result<(), Error> {
    let recorder = Recorder::builder(dir)
        .run("golden")
        .engine(Engine::new("golden", "1"))
        .values(Values::Full)
        .layout(Layout {
            page_bytes: 2048,
            row_group_bytes: 6000,
            row_group_rows: 40,
            part_bytes: 12_000,
        })
        .fixed(UNIX_MS)
        .build()?;
    recorder.describe(describe);
    recorder.tokens(0, 0, &[504, 3575, 282]);
    recorder.tokens(0, 3, &[-1]); // not known
    recorder.tokens(1, 0, &[7]);
    recorder.begin_pass();
    prompt(&recorder);
    odd_tensors(&recorder);
    recorder.begin_pass();
    let logits = ramp(600);
    recorder.record(Tap::new("logits", -1, 3), &logits[..]);
    recorder.drop_tensor(Tap::new("kqv", 0, 3), "type Q8_1");
    recorder.finish()?;
    Ok(())
}

fn describe(run: &mut RunInfo) {
    run.model = Some(Model {
        path: "golden.gguf".into(),
        blake3: Some("0".repeat(64)),
        bytes: Some(0),
        arch: Some("llama".into()),
        ..Model::default()
    });
    run.settings = Settings {
        threads: Some(1),
        batch: Some(4),
        kv_type: Some("F32".into()),
        flash_attention: Some(false),
        ..Settings::default()
    };
    run.settings.extra.insert("seed".into(), "0".into());
    run.prompt = Some("golden \u{2713}".into());
    run.prompt_tokens = Some(3);
    run.observation = Observation {
        graph_split: true,
        positions_counted: false,
        ..Observation::default()
    };
}

/// Three tokens in one batch, the way an engine records them.
fn prompt(recorder: &Recorder) {
    let x = ramp(3 * 64);
    let rows = Slice::new(&x, &[3, 64]);
    recorder.record(
        Tap::new("embeddings", -1, 0)
            .token_axis(0)
            .name("embd")
            .op("GET_ROWS"),
        &rows,
    );
    recorder.record(
        Tap::new("attn_norm", 0, 0)
            .token_axis(0)
            .name("attn_norm-0")
            .op("MUL"),
        &rows,
    );
    // [heads, tokens, keys] of which each token sees those up to its own
    let scores = ramp(2 * 3 * 8);
    let tap = Tap::new("attn_scores", 0, 0)
        .token_axis(1)
        .causal_axis(2)
        .name("kq-0")
        .op("MUL_MAT");
    recorder.record(tap, &Slice::new(&scores, &[2, 3, 8]));
    // larger than a page
    let gate = ramp(3 * 700);
    recorder.record(
        Tap::new("ffn_gate", 0, 0).token_axis(0).name("ffn_gate-0"),
        &Slice::new(&gate, &[3, 700]),
    );
    recorder.record(Tap::new("all_layers_out", -2, 0).token_axis(0), &rows);
}

/// One tensor of each dtype and of each shape that may surprise a reader.
fn odd_tensors(recorder: &Recorder) {
    let tap = |name| Tap::new("odd", 1, 0).name(name);
    let special = [
        1.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-45,
        f32::MAX,
    ];
    recorder.record(tap("special"), &special[..]);
    recorder.record(tap("only nan"), &[f32::NAN; 2][..]);
    recorder.record(tap("no elements"), &Slice::new(&special[..0], &[3, 0]));
    recorder.record(tap("no dimensions"), &Slice::new(&special[..1], &[]));
    recorder.record(tap("other request").request(1), &special[..1]);
    recorder.record(tap("\u{e4} \"quoted\"\n"), &special[..1]);
    recorder.record(tap("f16"), &[f16::from_f32(1.5), f16::MAX, f16::NAN][..]);
    recorder.record(tap("bf16"), &[bf16::from_f32(-3.25), bf16::INFINITY][..]);
    recorder.record(tap("f64"), &[0.1f64, f64::MAX][..]);
    recorder.record(tap("i8"), &[-128i8, 0, 127][..]);
    recorder.record(tap("i16"), &[i16::MIN, i16::MAX][..]);
    recorder.record(tap("i32"), &[i32::MIN, i32::MAX][..]);
    recorder.record(tap("i64"), &[i64::MIN, -1][..]);
    recorder.record(tap("u8"), &[0u8, 255][..]);
    recorder.record(tap("bool"), &[true, false][..]);
}

/// Numbers from -1 to below 1, all of which f32 holds exactly.
fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 256) as f32 / 128.0 - 1.0).collect()
}

#[allow(dead_code)] // the test includes this file for `write`
fn main() {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: golden DIR  (writes DIR/run=golden)");
        std::process::exit(2);
    };
    if let Err(error) = write(Path::new(&dir)) {
        eprintln!("golden: {error}");
        std::process::exit(2);
    }
}
