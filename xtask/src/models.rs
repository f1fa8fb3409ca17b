//! The models that evidence comes from, and which engines run them.

use crate::{
    fixture,
    lab::{self, Engine, Lab},
    places,
};
use anyhow::Result;
use std::path::PathBuf;

/// A model that a C++ engine and the Rust engine run.
pub struct Model {
    pub name: &'static str,
    /// The C++ engine.
    pub cpp: Engine,
    /// The Rust engine's arithmetic that is this C++ engine's.
    pub activations: &'static str,
    /// Whether products round their activations.
    pub is_quantised: bool,
    /// Its file, or one that is written for it beside the runs.
    pub file: fn(&Lab) -> Result<PathBuf>,
}

pub const MODELS: [Model; 4] = [
    Model {
        name: "SmolLM2-Q4_1",
        cpp: Engine::LlamaCpp,
        activations: "reference",
        is_quantised: true,
        file: |_| lab::smollm2("q4_1"),
    },
    Model {
        name: "SmolLM2-F32",
        cpp: Engine::LlamaCpp,
        activations: "exact",
        is_quantised: false,
        file: |_| lab::smollm2("f32"),
    },
    Model {
        name: "BitNet-I2_S",
        cpp: Engine::BitnetCpp,
        activations: "reference-fma",
        is_quantised: true,
        file: |lab| fixture::bitnet("i2_s", &lab.file("bitnet.gguf")),
    },
    Model {
        name: "BitNet-F32",
        cpp: Engine::BitnetCpp,
        activations: "exact",
        is_quantised: false,
        file: |lab| fixture::bitnet("f32", &lab.file("bitnet.gguf")),
    },
];

/// Those of the models that `names` has, or all; without those whose engine this machine can't run.
pub fn chosen(names: &[String]) -> Vec<&'static Model> {
    let named = |model: &&Model| names.is_empty() || names.iter().any(|name| name == model.name);
    let runs = |model: &&Model| {
        let has = model.cpp != Engine::BitnetCpp
            || places::root().join("target/demo/bitnet/bin/cpp-runner").is_file();
        if !has {
            eprintln!(
                "{} is left out: bitnet.cpp needs a processor with AVX2",
                model.name
            );
        }
        has
    };
    MODELS.iter().filter(named).filter(runs).collect()
}
