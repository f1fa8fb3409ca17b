//! Small deterministic models for the tests of both engines.

use crate::places;
use anyhow::{Context, Result, ensure};
use bitnet_models::{TinyArch, TinySpec, TinyType, write_tiny_model};
use clap::{Subcommand, ValueEnum};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which fixture.
#[derive(Subcommand)]
pub enum Fixture {
    /// A random BitNet with ternary weights; the same options give the same bytes
    ///
    /// The F32 and the I2_S file are one model: its matrices hold -s, 0 and +s, so that I2_S loses nothing, and its
    /// embedding table, which the quantiser turns into F16, holds values of F16.
    Bitnet(Bitnet),
    /// A random model of four layers; the same options give the same bytes
    ///
    /// llama.cpp runs all of them, the Rust engine `llama`. `qwen2` has biases, `qwen3` norms of q and k, `gemma3` every
    /// step that the stage vocabulary has for it, and a window of 8 tokens in every other layer.
    Tiny(Tiny),
}

/// Options of `fixture tiny`.
#[derive(clap::Args)]
pub struct Tiny {
    /// Architecture: llama, qwen2, qwen3 or gemma3
    #[arg(long, value_parser = dense_arch)]
    arch: TinyArch,
    /// Types of the matrices: f32 or q4_1
    #[arg(long = "type", value_name = "TYPE", default_value = "f32")]
    weights: TinyType,
    /// The model to write; replaced when it exists
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn dense_arch(text: &str) -> Result<TinyArch, String> {
    match text.parse() {
        Ok(TinyArch::Bitnet | TinyArch::BitnetB158) | Err(_) => {
            Err("it is llama, qwen2, qwen3 or gemma3".to_owned())
        }
        Ok(arch) => Ok(arch),
    }
}

/// Options of `fixture bitnet`.
#[derive(clap::Args)]
pub struct Bitnet {
    /// Architecture: bitnet-b1.58 (squared ReLU) or bitnet (SiLU)
    #[arg(long, default_value = "bitnet-b1.58", value_parser = bitnet_arch)]
    arch: TinyArch,
    /// Types of the matrices; i2_s needs bitnet.cpp, whose quantiser writes it
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "f32")]
    weights: Weights,
    /// Feed-forward weights that make the 16-bit lanes of bitnet.cpp's I2_S products wrap around (one layer, 9 MB as F32)
    #[arg(long)]
    wrap: bool,
    /// The model to write; replaced when it exists
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    F32,
    #[value(name = "i2_s")]
    I2S,
}

fn bitnet_arch(text: &str) -> Result<TinyArch, String> {
    match text.parse() {
        Ok(arch @ (TinyArch::Bitnet | TinyArch::BitnetB158)) => Ok(arch),
        _ => Err("it is bitnet-b1.58 or bitnet".to_owned()),
    }
}

/// Writes the fixture.
///
/// # Errors
/// Where the file can't be written, or bitnet.cpp's quantiser is not there or fails.
pub fn run(fixture: &Fixture) -> Result<()> {
    let args = match fixture {
        Fixture::Bitnet(args) => args,
        Fixture::Tiny(args) => {
            let (arch, weights) = (args.arch, args.weights);
            let spec = TinySpec {
                arch,
                weights,
                ..TinySpec::default()
            };
            return Ok(write_tiny_model(&args.output, &spec)?);
        }
    };
    let mut spec = TinySpec::bitnet(args.arch);
    if args.wrap {
        (spec.wrap, spec.n_layer, spec.n_ff) = (true, 1, 4608);
    }
    match args.weights {
        Weights::F32 => Ok(write_tiny_model(&args.output, &spec)?),
        Weights::I2S => quantise(&spec, &args.output),
    }
}

/// Writes the BitNet with ReLU², with matrices of type `f32` or `i2_s`, to `output`.
///
/// # Errors
/// Those of [`run`].
pub fn bitnet(weights: &str, output: &Path) -> Result<PathBuf> {
    let spec = TinySpec::bitnet(TinyArch::BitnetB158);
    match weights {
        "i2_s" => quantise(&spec, output)?,
        _ => write_tiny_model(output, &spec)?,
    }
    Ok(output.to_owned())
}

/// Writes the F32 model beside `output` and has bitnet.cpp quantise it; `output` is there whole or not at all.
fn quantise(spec: &TinySpec, output: &Path) -> Result<()> {
    let program = places::root().join("target/demo/bitnet/bin/gguf-quantize");
    ensure!(
        program.is_file(),
        "{} is missing: run scripts/setup.sh bitnet",
        program.display()
    );
    let beside = output
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let dir =
        tempfile::tempdir_in(beside).with_context(|| format!("{} can't be written to", beside.display()))?;
    let (full, small) = (dir.path().join("f32.gguf"), dir.path().join("i2_s.gguf"));
    write_tiny_model(&full, spec)?;
    let status = Command::new(&program)
        .args([full.as_path(), &small])
        .arg("i2_s")
        .status()
        .with_context(|| format!("{} can't be run", program.display()))?;
    ensure!(status.success(), "{} ended with {status}", program.display());
    fs::rename(&small, output).with_context(|| format!("{} can't be written", output.display()))
}
