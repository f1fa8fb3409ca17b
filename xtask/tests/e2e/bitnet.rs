//! BitNet on both sides: the stages of bitnet.cpp and of the Rust engine, on the fixture. Products: `ternary.rs`.

use crate::support::*;
use bitnet_trace_schema::{Stage, StageGraph, StageScope};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// Six tokens of the fixture's vocabulary.
const TOKENS: &str = "307,311,291,316,299,268";
const ARCHS: [&str; 2] = ["bitnet-b1.58", "bitnet"];
const FIXTURE_LAYERS: i32 = 2;

/// Writes a fixture beside the runs.
fn fixture(db: &Db, arch: &str, more: &[&str]) -> PathBuf {
    let path = db.path().join(format!("{arch}{}.gguf", more.concat()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let done = run(command
        .args(["fixture", "bitnet", "--arch", arch, "--output"])
        .arg(&path)
        .args(more));
    assert_eq!(done.code, 0, "{}", done.stderr);
    path
}

fn with_tokens<'a>(command: &'a mut Command, model: &Path) -> &'a mut Command {
    command.arg("--model").arg(model).args([
        "--tokens",
        TOKENS,
        "--max-tokens",
        &MAX_TOKENS.to_string(),
        "--ignore-eos",
    ])
}

fn bitnet_cpp(model: &Path) -> Command {
    let mut command = Command::new(program("bitnet/bin/cpp-runner"));
    with_tokens(&mut command, model);
    command
}

/// The Rust engine, fed with the continuation of the run `cpp`.
fn rust(model: &Path, db: &Db, cpp: &str, activations: &str) -> Command {
    let mut command = Command::new(program("bitnet-cli"));
    with_tokens(command.arg("run"), model).args([
        "--teacher-force",
        &db.continuation(cpp),
        "--activations",
        activations,
    ]);
    command
}

/// Every stage of the vocabulary in every layer at every position: BitNet has all but those of Gemma.
fn every_key() -> BTreeSet<(i64, i32, String)> {
    let mut keys = BTreeSet::new();
    let graph = StageGraph::builtin();
    let own = |s: &&Stage| !OF_GEMMA.contains(&s.name.as_str());
    for stage in graph.stages().iter().filter(own) {
        let layers = match stage.scope {
            StageScope::Model => -1..0,
            StageScope::AllLayers => -2..-1,
            StageScope::Layer => 0..FIXTURE_LAYERS,
        };
        for layer in layers {
            keys.extend((0..POSITIONS as i64).map(|seq| (seq, layer, stage.name.clone())));
        }
    }
    keys
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn bitnet_cpp_records_every_stage_and_a_rerun_has_the_same_bits() {
    if !has_bitnet_cpp() {
        return;
    }
    let expected = every_key();
    for (arch, weights) in ARCHS.iter().flat_map(|arch| [(arch, "f32"), (arch, "i2_s")]) {
        let db = Db::new();
        let model = fixture(&db, arch, &["--type", weights]);
        db.record("cpp", &mut bitnet_cpp(&model));
        assert_eq!(
            db.keys("cpp"),
            (expected.clone(), expected.len()),
            "{arch} {weights}"
        );
        let manifest = db.manifest("cpp");
        assert_eq!(manifest["dropped"]["total"], 0, "{manifest:#}");
        assert_eq!(manifest["engine"]["name"], "bitnet.cpp");
        assert_eq!(
            manifest["sequences"][0]["ids"][0], 307,
            "token ids come from the graph"
        );

        db.record("again", &mut bitnet_cpp(&model));
        let rerun = db.first("cpp", "again", &["--exact"]);
        assert_full_match(&rerun);
        assert_eq!(count(&rerun.1, "within"), 0);

        for size in ["1", "4"] {
            db.record(size, bitnet_cpp(&model).args(["--batch", size]));
            assert_eq!(
                db.keys(size),
                db.keys("cpp"),
                "{arch} {weights} in batches of {size}"
            );
            assert_full_match(&db.first("cpp", size, &[]));
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_host_that_keeps_the_last_row_only_has_the_right_positions_in_bitnet_cpp() {
    if !has_bitnet_cpp() {
        return;
    }
    let db = Db::new();
    let model = fixture(&db, "bitnet-b1.58", &[]);
    db.record("all-rows", &mut bitnet_cpp(&model));
    db.record(
        "last-row",
        Command::new(program("bitnet/bin/one-line-host"))
            .arg(&model)
            .args(TOKENS.split(',')),
    );
    let (keys, _) = db.keys("last-row");
    let kept = |layer, stage: &str| {
        (0..PROMPT_LEN as i64)
            .filter(|&seq| keys.contains(&(seq, layer, stage.into())))
            .count()
    };
    let counts = [
        kept(0, "layer_out"),
        kept(1, "attn_out"),
        kept(1, "attn_residual"),
        kept(-1, "logits"),
    ];
    assert_eq!(counts, [PROMPT_LEN, PROMPT_LEN, 1, 1]);
    let (code, first) = db.first("all-rows", "last-row", &[]);
    assert_eq!((code, count(&first, "missing_left")), (0, 0), "{first:#}");
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_match_within_1e_4_on_every_stage_of_bitnets_f32_weights() {
    if !has_bitnet_cpp() {
        return;
    }
    for arch in ARCHS {
        let db = Db::new();
        let model = fixture(&db, arch, &[]);
        db.record("cpp", &mut bitnet_cpp(&model));
        db.record("rust", &mut rust(&model, &db, "cpp", "exact"));
        assert_full_match(&db.first("cpp", "rust", &["--rel-l2", "1e-4"]));
        assert_eq!(db.keys("rust"), (every_key(), every_key().len()), "{arch}");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn llama_cpp_and_bitnet_cpp_match_within_1e_4_on_every_stage_of_a_bitnet() {
    if !has_bitnet_cpp() {
        return;
    }
    let db = Db::new();
    let model = fixture(&db, "bitnet", &[]); // the architecture that both have
    db.record("bitnet", &mut bitnet_cpp(&model));
    let mut llama = Command::new(program("cpp-runner"));
    let forced = db.continuation("bitnet");
    db.record(
        "llama",
        with_tokens(&mut llama, &model).args(["--teacher-force", &forced]),
    );
    assert_full_match(&db.first("bitnet", "llama", &["--rel-l2", "1e-4"]));
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_match_on_an_f16_cache_but_for_values_that_round_to_the_next_half() {
    if !has_bitnet_cpp() {
        return;
    }
    for arch in ARCHS {
        let db = Db::new();
        let model = fixture(&db, arch, &[]);
        let f16 = ["--kv-type", "f16"];
        db.record("cpp", bitnet_cpp(&model).args(f16));
        db.record("rust", rust(&model, &db, "cpp", "exact").args(f16));
        // Halves are 2^-11 apart, and so is attn_ctx where one probability outweighs the others.
        assert_full_match(&db.first("cpp", "rust", &["--rel-l2", "1e-3"]));
        let kv_type = |run| db.manifest(run)["settings"]["kv_type"].clone();
        assert_eq!((kv_type("cpp"), kv_type("rust")), ("F16".into(), "F16".into()));
        // The caches are halves, most of them the same; only an engine that has halves too gets them.
        db.record("f32", &mut rust(&model, &db, "cpp", "exact"));
        let (code, first) = db.first("cpp", "f32", &["--rel-l2", "1e-4"]);
        assert_eq!(
            (code, &first["first_divergence"]["layer"]),
            (1, &0.into()),
            "{first:#}"
        );
    }
}

/// Where the inputs of a product differ in their last bit, one of its 8-bit codes may round the other way: of K = 128
/// codes around 40 that is 1 / (40 · √128), 2e-3.
const I2_S_FLOOR: &str = "5e-3";

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_match_within_the_floor_of_8_bit_codes_on_every_stage_of_i2_s_weights() {
    if !has_bitnet_cpp() {
        return;
    }
    for arch in ARCHS {
        let db = Db::new();
        let model = fixture(&db, arch, &["--type", "i2_s"]);
        db.record("cpp", &mut bitnet_cpp(&model));
        db.record("rust", &mut rust(&model, &db, "cpp", "reference-fma"));
        assert_full_match(&db.first("cpp", "rust", &["--rel-l2", I2_S_FLOOR]));
        // The same with the activations left alone is told apart.
        db.record("exact", &mut rust(&model, &db, "cpp", "exact"));
        let (code, first) = db.first("cpp", "exact", &["--rel-l2", "1e-4"]);
        assert_eq!(
            (code, &first["first_divergence"]["layer"]),
            (1, &0.into()),
            "{first:#}"
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn the_fixtures_are_the_same_each_time_and_one_model_in_both_types() {
    if !has_bitnet_cpp() {
        return;
    }
    for arch in ARCHS {
        let (db, again) = (Db::new(), Db::new());
        let [full, small] = ["f32", "i2_s"].map(|weights| {
            let path = fixture(&db, arch, &["--type", weights]);
            let bytes = std::fs::read(&path).expect("the fixture");
            let other = fixture(&again, arch, &["--type", weights]);
            assert!(
                bytes == std::fs::read(other).expect("the fixture"),
                "{arch} {weights}"
            );
            assert!(bytes.len() < 1_500_000);
            path
        });
        db.record("cpp", &mut bitnet_cpp(&full));
        db.record("full", &mut rust(&full, &db, "cpp", "exact"));
        db.record("small", &mut rust(&small, &db, "cpp", "exact"));
        let same = db.first("full", "small", &["--exact"]);
        assert_full_match(&same);
        assert_eq!(count(&same.1, "within"), 0);
    }
}
