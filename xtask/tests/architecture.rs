//! Keeps the arrows of ARCHITECTURE.md: which crate may depend on which.

use std::{collections::BTreeSet, path::Path, process::Command};

/// Each crate and the crates of this workspace that it may depend on (development dependencies aside).
const ARROWS: &[(&str, &[&str])] = &[
    ("bitnet-trace-schema", &[]),
    ("bitnet-gguf", &[]),
    ("bitnet-referee", &["bitnet-gguf", "bitnet-trace-schema"]),
    ("bitnet-trace", &["bitnet-trace-schema"]),
    ("bitnet-trace-ggml", &["bitnet-trace", "bitnet-trace-schema"]),
    (
        "bitnet-trace-cpp",
        &["bitnet-trace", "bitnet-trace-ggml", "bitnet-trace-schema"],
    ),
    ("bitnet-trace-preload", &["bitnet-trace", "bitnet-trace-ggml"]),
    ("bitnet-trace-store", &["bitnet-trace-schema"]),
    (
        "bitnet-diff",
        &["bitnet-referee", "bitnet-trace-schema", "bitnet-trace-store"],
    ),
    (
        "bitnet-models",
        &["bitnet-gguf", "bitnet-trace", "bitnet-trace-schema"],
    ),
    (
        "bitnet-cli",
        &["bitnet-models", "bitnet-trace", "bitnet-trace-schema"],
    ),
    ("llama-gguf-recorder", &["bitnet-trace"]),
    (
        "xtask",
        &[
            "bitnet-diff",
            "bitnet-models",
            "bitnet-referee",
            "bitnet-trace",
            "bitnet-trace-schema",
            "bitnet-trace-store",
        ],
    ),
];

#[test]
fn no_crate_depends_against_the_arrows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(
        names,
        ARROWS.iter().map(|(name, _)| *name).collect(),
        "the table above lists every crate"
    );

    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let allowed = ARROWS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, a)| *a)
            .unwrap_or_default();
        let found = package["dependencies"].as_array().expect("dependencies").iter();
        for dependency in found.filter(|d| d["kind"].as_str() != Some("dev")) {
            let to = dependency["name"].as_str().expect("a name");
            assert!(
                !names.contains(to) || allowed.contains(&to),
                "{name} must not depend on {to}"
            );
        }
    }
}
