//! What people read, kept as snapshots.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, downstream, run, shift, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn shown(dir: &Path, ran: &common::Ran) -> String {
    let text = format!("{}{}", ran.stdout, ran.stderr).replace(dir.to_str().unwrap(), "DB");
    format!("{text}(exit {})", ran.code)
}

/// The reference, and a run with this change.
fn pair(dir: &Path, change: common::Change<'_>) -> (PathBuf, PathBuf) {
    let left = Made {
        name: "cpp",
        ..Made::default()
    }
    .record(dir);
    let right = Made {
        name: "rust",
        engine: "bitnet-models",
        weights: "Q4_1",
        change,
        ..Made::default()
    };
    (left, right.record(dir))
}

#[test]
fn a_divergence_reads_well() {
    let dir = TempDir::new().unwrap();
    let (left, right) = pair(dir.path(), &|s, l, stage, v| {
        shift(v, if downstream(s, l, stage) { 0.1 } else { 1e-6 });
        true
    });
    insta::assert_snapshot!(
        "first-diverged",
        shown(dir.path(), &two("first", &left, &right, &[]))
    );
    insta::assert_snapshot!(
        "compare-diverged",
        shown(dir.path(), &two("compare", &left, &right, &[]))
    );
    insta::assert_snapshot!(
        "tokens-diverged",
        shown(dir.path(), &two("tokens", &left, &right, &[]))
    );
    let labels = ["--labels", "Rust,C++", "--stage", "attn_o*"];
    insta::assert_snapshot!(
        "first-labels",
        shown(dir.path(), &two("first", &left, &right, &labels))
    );
    insta::assert_snapshot!(
        "plan",
        shown(dir.path(), &two("compare", &left, &right, &["--explain-plan"]))
    );
    let db = dir.path().to_str().unwrap();
    let query = ["query", db, "--seq", "3", "--layer", "1"];
    insta::assert_snapshot!("query", shown(dir.path(), &run(&query)));
    let values = ["query", db, "--seq", "3", "--stage", "logits", "--values", "4"];
    insta::assert_snapshot!("query-values", shown(dir.path(), &run(&values)));
    insta::assert_snapshot!("runs", shown(dir.path(), &run(&["runs", db])));
}

#[test]
fn a_match_reads_well() {
    let dir = TempDir::new().unwrap();
    let (left, right) = pair(dir.path(), &|_, _, stage, v| {
        if stage == "q_proj" {
            shift(v, 1e-6);
        }
        stage != "final_norm"
    });
    insta::assert_snapshot!(
        "first-match",
        shown(dir.path(), &two("first", &left, &right, &[]))
    );
    insta::assert_snapshot!(
        "compare-match",
        shown(dir.path(), &two("compare", &left, &right, &[]))
    );
    insta::assert_snapshot!("first-same", shown(dir.path(), &two("first", &left, &left, &[])));
}

#[test]
fn two_origins_read_well() {
    let dir = TempDir::new().unwrap();
    let (left, right) = pair(dir.path(), &|s, l, stage, v| {
        if (s >= 2 && (l, stage) == (0, "q_rope")) || (s, l, stage) == (4, 2, "attn_residual") {
            shift(v, 0.1);
        }
        true
    });
    insta::assert_snapshot!(
        "first-origins",
        shown(dir.path(), &two("first", &left, &right, &["--all"]))
    );
}

#[test]
fn no_verdict_reads_well() {
    let dir = TempDir::new().unwrap();
    let (left, right) = pair(dir.path(), &|s, l, _, v| {
        if (s, l) == (2, 1) {
            v.pop();
        }
        true
    });
    insta::assert_snapshot!(
        "first-shapes",
        shown(dir.path(), &two("first", &left, &right, &[]))
    );
    let ids = Made {
        name: "ids",
        ids: &[504, 378, 282, 4649, 314],
        ..Made::default()
    }
    .record(dir.path());
    insta::assert_snapshot!("first-prompt", shown(dir.path(), &two("first", &left, &ids, &[])));
    let mut generated = common::IDS;
    generated[4] = 9;
    let generated = Made {
        name: "generated",
        ids: &generated,
        ..Made::default()
    }
    .record(dir.path());
    insta::assert_snapshot!(
        "first-token",
        shown(dir.path(), &two("first", &left, &generated, &[]))
    );
    insta::assert_snapshot!(
        "tokens-token",
        shown(dir.path(), &two("tokens", &left, &generated, &[]))
    );
}

#[test]
fn a_nan_reads_well() {
    let dir = TempDir::new().unwrap();
    let (left, right) = pair(dir.path(), &|s, _, stage, v| {
        if s == 2 && (stage == "logits" || stage == "q_proj") {
            v[1] = f32::NAN;
        }
        true
    });
    insta::assert_snapshot!("first-nan", shown(dir.path(), &two("first", &left, &right, &[])));
    insta::assert_snapshot!(
        "tokens-nan",
        shown(dir.path(), &two("tokens", &left, &right, &[]))
    );
}

#[test]
fn a_plan_tells_names_layouts_and_what_is_missing_and_why() {
    let dir = TempDir::new().unwrap();
    let left = Made {
        name: "cpp",
        ..Made::default()
    };
    let left = left.record(dir.path());
    let right = Made {
        name: "rust",
        change: &|seq, layer, stage, _| {
            !(stage == "attn_probs" || (layer, stage) == (2, "attn_out") && seq < 4)
        },
        rename: &|stage| match stage {
            "attn_norm" => "attn_norm_weighted".into(),
            "q_rope" => "mine".into(),
            "q_proj" => "wq".into(),
            word => word.to_owned(),
        },
        ..Made::default()
    };
    let right = right.record(dir.path());
    let (mapping, stages) = (dir.path().join("mapping.toml"), dir.path().join("stages.toml"));
    let text = "[[map]]\nname='wq'\nstage='q_proj'\nlayout='rope_halves'\nheads=3\n\
                [[map]]\nname='blk.{layer}.wk'\nstage='k_proj'";
    std::fs::write(&mapping, text).unwrap();
    let text = "[[stage]]\nname='attn_norm'\naliases.mine=['attn_norm_weighted']";
    std::fs::write(&stages, text).unwrap();
    let files = [mapping.to_str().unwrap(), stages.to_str().unwrap()];
    let flags = ["--mapping", files[0], "--stages", files[1], "--explain-plan"];
    let shown = shown(dir.path(), &two("first", &left, &right, &flags));
    assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
    insta::assert_snapshot!("plan-explained", shown);
}

#[test]
fn an_alignment_reads_well() {
    let dir = TempDir::new().unwrap();
    let left = Made {
        name: "cpp",
        ..Made::default()
    };
    let left = left.record(dir.path());
    let right = Made {
        name: "rust",
        rename: &|stage| format!("x_{stage}"),
        change: &|_, layer, stage, v| {
            match (stage, layer) {
                ("q_proj", _) => {
                    *v = v
                        .chunks(2)
                        .map(|p| p[0])
                        .chain(v.chunks(2).map(|p| p[1]))
                        .collect()
                }
                ("layer_out", 2) => shift(v, 1.0),
                _ => shift(v, 1e-3),
            }
            true
        },
        ..Made::default()
    };
    let right = right.record(dir.path());
    let file = dir.path().join("mapping.toml");
    let ran = two("align", &left, &right, &["-o", file.to_str().unwrap()]);
    let text = shown(dir.path(), &ran);
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    insta::assert_snapshot!("align", text);
    insta::assert_snapshot!("align-mapping", std::fs::read_to_string(&file).unwrap());
}
