//! The tiny model that the tests run on.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bitnet_models::{Engine, LoadOptions, TinySpec, TinyType, write_tiny_model};
use bitnet_trace::Recorder;
use tempfile::TempDir;

/// Some ids of the tiny vocabulary: control tokens, bytes and merges.
pub const IDS: [u32; 9] = [290, 303, 17, 301, 88, 250, 3, 260, 99];

/// A tiny model on disk; the directory goes when it is dropped.
pub struct Tiny {
    pub dir: TempDir,
    pub path: PathBuf,
}

impl Tiny {
    pub fn new(weights: TinyType) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        write_tiny_model(
            &path,
            &TinySpec {
                weights,
                ..TinySpec::default()
            },
        )
        .unwrap();
        Self { dir, path }
    }

    pub fn engine(&self) -> Engine {
        load(&self.path)
    }

    /// Another file beside the model.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

pub fn load(path: &Path) -> Engine {
    Engine::load(LoadOptions::new(path, Recorder::off()), &mut |_, _| {}).unwrap()
}

/// ||b - a|| / ||a||.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| square(f64::from(b) - f64::from(a)))
        .sum();
    let norm: f64 = a.iter().map(|&a| square(f64::from(a))).sum();
    (difference / norm).sqrt()
}
