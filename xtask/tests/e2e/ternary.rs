//! The Rust engine's ternary products against bitnet.cpp's.

use crate::support::*;
use bitnet_models::{Activations, Gguf, TinyArch, TinySpec, product, write_tiny_model};
use bitnet_trace_schema::DType;
use bitnet_trace_store::{Filter, Row, Run};
use std::path::{Path, PathBuf};
use std::process::Command;

const IDS: &str = "100,200,300,40,50,60,70";

fn bitnet_cpp(model: &Path, batch: &str) -> Command {
    let mut command = Command::new(program("bitnet/bin/cpp-runner"));
    command.arg("--model").arg(model).args(["--tokens", IDS]);
    command.args(["--max-tokens", "4", "--ignore-eos", "--teacher-force", "7,8,9"]);
    command.args(["--batch", batch]);
    command
}

/// A model as bitnet.cpp's quantiser packs it into `dtype`.
fn packed(dir: &Path, spec: &TinySpec, dtype: DType) -> PathBuf {
    let (full, packed) = (dir.join("f32.gguf"), dir.join("packed.gguf"));
    write_tiny_model(&full, spec).expect("a model");
    let done = run(Command::new(program("bitnet/bin/gguf-quantize"))
        .args([&full, &packed])
        .arg(dtype.name().to_lowercase()));
    assert_eq!(done.code, 0, "{}", done.stderr);
    packed
}

fn wrapping() -> TinySpec {
    TinySpec {
        wrap: true,
        n_layer: 1,
        n_ff: 4608,
        ..TinySpec::bitnet(TinyArch::BitnetB158)
    }
}

/// The stages that are a product, its input and its weight.
const PRODUCTS: [(&str, &str, &str); 7] = [
    ("q_proj", "attn_norm", "attn_q"),
    ("k_proj", "attn_norm", "attn_k"),
    ("v_proj", "attn_norm", "attn_v"),
    ("attn_out", "attn_sub_norm", "attn_output"),
    ("ffn_gate", "ffn_norm", "ffn_gate"),
    ("ffn_up", "ffn_norm", "ffn_up"),
    ("ffn_down", "ffn_sub_norm", "ffn_down"),
];

/// Recomputes every product from the input that bitnet.cpp recorded. Returns how many elements there were, how many differ
/// in a bit, and how many products have an element whose plain sum is another one.
fn recompute(run: &Run, gguf: &Gguf, dtype: DType, activations: Activations) -> (usize, usize, usize) {
    let rows = run.records(&Filter::default());
    let values = |row: &Row| {
        run.tensor(row)
            .expect("a tensor")
            .values()
            .expect("f32 values")
            .to_vec()
    };
    let (mut elements, mut differ, mut wrapped) = (0, 0, 0);
    for (stage, input, weight) in PRODUCTS {
        for row in rows.iter().filter(|row| row.meta.stage == stage) {
            let same = |other: &&Row| {
                let key = |row: &Row| (row.meta.seq, row.meta.layer);
                other.meta.stage == input && key(other) == key(row)
            };
            let x = values(rows.iter().find(same).expect("the product's input"));
            let weight = format!("blk.{}.{weight}.weight", row.meta.layer);
            assert_eq!(
                gguf.tensor(&weight).expect("a weight").ggml_type.name(),
                dtype.name()
            );
            let found = values(row);
            let expected = product(gguf, &weight, activations, &x).expect("a product");
            elements += found.len();
            differ += found
                .iter()
                .zip(&expected)
                .filter(|(a, b)| a.to_bits() != b.to_bits())
                .count();
            let exact = product(gguf, &weight, Activations::Exact, &x).expect("a product");
            let size = exact.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            wrapped += usize::from(exact.iter().zip(&found).any(|(a, b)| (a - b).abs() > 0.1 * size));
        }
    }
    (elements, differ, wrapped)
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn every_ternary_product_is_bitnet_cpp_s_to_the_bit_and_also_where_its_sums_overflow() {
    if !has_bitnet_cpp() {
        return;
    }
    let wide = TinySpec {
        n_embd: 256, // a block of the TQ types
        n_ff: 512,
        ..TinySpec::bitnet(TinyArch::Bitnet)
    };
    for (spec, dtype, wraps) in [
        (TinySpec::bitnet(TinyArch::BitnetB158), DType::I2_S, false),
        (TinySpec::bitnet(TinyArch::Bitnet), DType::I2_S, false),
        (wrapping(), DType::I2_S, true),
        (wide, DType::TQ1_0, false),
        (wide, DType::TQ2_0, false),
    ] {
        for batch in ["512", "1"] {
            let db = Db::new();
            let model = packed(db.path(), &spec, dtype);
            db.record("cpp", &mut bitnet_cpp(&model, batch));
            let gguf = Gguf::open(&model).expect("a model");
            let run = Run::open(db.at("cpp")).expect("a run");
            // which of the two it is depends on how bitnet.cpp was compiled
            let kinds = [Activations::ReferenceFma, Activations::Reference];
            let [fma, plain] = kinds.map(|kind| recompute(&run, &gguf, dtype, kind));
            assert!(fma.0 > 10_000);
            assert_eq!(
                fma.1.min(plain.1),
                0,
                "{dtype}, batch {batch}: elements that differ: fma {}, plain {}",
                fma.1,
                plain.1
            );
            assert_eq!(plain.2 > 0, wraps, "products that overflow: {}", plain.2);
        }
    }
}
