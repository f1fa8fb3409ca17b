//! Packed dtypes against the ggml that `make setup` builds.

use crate::support::*;
use bitnet_trace_schema::{DType, quant};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program that asks ggml.
fn ggml(dir: &Path) -> PathBuf {
    let program = dir.join("ggml_quant");
    let demo = root().join("target/demo");
    let compiler = std::env::var_os("CC").unwrap_or("cc".into());
    let mut command = Command::new(compiler);
    command
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(demo.join("src/llama.cpp/ggml/include"))
        .arg(root().join("xtask/tests/e2e/ggml_quant.c"))
        .arg("-o")
        .arg(&program)
        .arg(demo.join("lib/libggml-base.so"));
    find_libraries(&mut command, &demo.join("lib"));
    let done = run(&mut command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    program
}

/// What the program answers to `input`.
fn ask(program: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input");
    let mut stdout = child.stdout.take().expect("its output");
    let answer = std::thread::scope(|s| {
        s.spawn(move || stdin.write_all(input).expect("it reads"));
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).expect("it writes");
        answer
    });
    assert!(child.wait().expect("it ends").success(), "{args:?}");
    answer
}

/// Bytes that look random and are the same each time.
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect()
}

/// The bits of each element; a NaN is a NaN.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { f32::NAN } else { *x }.to_bits();
    values.iter().map(bits).collect()
}

/// The packed dtypes that the ggml of llama.cpp has.
fn packed() -> impl Iterator<Item = (DType, String)> {
    let of_ggml = DType::ALL
        .into_iter()
        .filter(|d| d.is_packed() && *d != DType::I2_S);
    of_ggml.map(|d| {
        let name = d.name();
        let name = if name.ends_with("_K") {
            name.replace('Q', "q")
        } else {
            name.to_lowercase()
        };
        (d, name)
    })
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn packed_blocks_are_dequantised_to_the_very_bits_that_ggml_makes_of_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = ggml(dir.path());
    let layout = String::from_utf8(ask(&program, &["layout"], &[])).expect("text");
    let wave: Vec<f32> = (0..1 << 14).map(|i| (i as f32 * 0.37).sin() * 1.5).collect();
    let wave_bytes: Vec<u8> = wave.iter().flat_map(|x| x.to_le_bytes()).collect();
    for (dtype, name) in packed() {
        let line = format!("{name} {} {}\n", dtype.block(), dtype.size());
        assert!(layout.contains(&line), "{line}{layout}");

        // blocks of every kind, NaN and infinite scales among them
        let blocks = noise(4096 * dtype.size(), 0x9e37_79b9_7f4a_7c15 + dtype.size() as u64);
        let ours = quant::dequantized(dtype, &blocks).expect("whole blocks");
        if dtype != DType::Q8_1 {
            // which ggml itself never unpacks
            let theirs = floats(&ask(&program, &["unpack", &name], &blocks));
            assert!(bits(&ours) == bits(&theirs), "{dtype}: random blocks");
        }

        // blocks that ggml packs
        let blocks = ask(&program, &["pack", &name], &wave_bytes);
        let ours = quant::dequantized(dtype, &blocks).expect("whole blocks");
        if dtype != DType::Q8_1 {
            let theirs = floats(&ask(&program, &["unpack", &name], &blocks));
            assert!(bits(&ours) == bits(&theirs), "{dtype}: packed by ggml");
        }
        let error: f64 = ours
            .iter()
            .zip(&wave)
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum();
        let norm: f64 = wave.iter().map(|&b| f64::from(b).powi(2)).sum();
        let (error, limit) = (
            (error / norm).sqrt(),
            match dtype {
                DType::TQ1_0 | DType::TQ2_0 => 0.75,
                DType::Q2_K => 0.25,
                DType::Q3_K => 0.15,
                DType::Q8_0 | DType::Q8_1 | DType::Q8_K => 0.01,
                _ => 0.08,
            },
        );
        assert!(error < limit, "{dtype}: {error}");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_quantised_kv_cache_is_recorded_in_its_blocks_and_compared_by_what_they_are_worth() {
    let db = Db::new();
    let flash = |kv_type: &str| {
        let mut command = cpp(&f32());
        // llama.cpp turns quantised caches by a Hadamard matrix, which leaves no row as it was
        command.env("LLAMA_ATTN_ROT_DISABLE", "1");
        command.args(["--flash-attn", "on", "--kv-type", kv_type]);
        command
    };
    db.record("f16", &mut flash("f16"));
    db.record("q8", &mut flash("q8_0"));
    db.record("q8-again", flash("q8_0").env("BITNET_TRACE_DEQUANTIZE", "1"));
    let manifest = db.manifest("q8");
    assert_eq!(manifest["settings"]["kv_type"], "Q8_0");
    assert_eq!(manifest["dropped"]["total"], 0, "{manifest:#}");

    // Blocks against the same blocks, whether f32 values stand beside them or not.
    let again = db.first("q8", "q8-again", &[]);
    assert_full_match(&again);
    assert_eq!(count(&again.1, "within"), 0, "every byte is the same");

    // Blocks against halves: the first token's K and V differ by what eight bits round off.
    let (code, first) = db.first("f16", "q8", &[]);
    let divergence = &first["first_divergence"];
    assert_eq!((code, &divergence["stage"]), (1, &"k_cache".into()), "{first:#}");
    assert_eq!(
        (&divergence["left"]["dtype"], &divergence["right"]["dtype"]),
        (&"F16".into(), &"Q8_0".into())
    );
    let rel_l2 = divergence["metrics"]["rel_l2"].as_f64().expect("measured");
    assert!((1e-4..2e-2).contains(&rel_l2), "{rel_l2}");
    let told = diff(&["first", &db.at("f16"), &db.at("q8")]).stdout;
    assert!(
        told.contains("q8 holds Q8_0") && told.contains("dequantised"),
        "{told}"
    );
}
