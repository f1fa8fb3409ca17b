//! Runs whose names have nothing in common: proposed, mapped and compared by the program.
#![allow(clippy::unwrap_used)]

mod common;

use common::{LAYERS, Made, TOKENS, check_schema, downstream, run, shift, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A reference with probabilities that tell, and the same engine under other names; with a fault or without.
fn runs(dir: &Path, fault: bool) -> (PathBuf, PathBuf) {
    let probs = |seq: i64, layer: i32, stage: &str, v: &mut Vec<f32>| {
        if stage == "attn_probs" {
            let wave = |i: usize| {
                ((seq as usize * 13 + layer as usize * 7 + i) as f32 * 0.9)
                    .sin()
                    .abs()
                    + 0.1
            };
            (0..v.len()).for_each(|i| v[i] = wave(i));
        }
        true
    };
    let left = Made {
        change: &probs,
        ..Made::default()
    };
    let right = Made {
        name: "right",
        engine: "mine",
        change: &|seq, layer, stage, v| {
            probs(seq, layer, stage, v);
            if fault && downstream(seq, layer, stage) {
                shift(v, 0.02);
            }
            if stage == "q_rope" {
                // Rotary pairs of two heads, as halves.
                let head = |h: &[f32]| {
                    h.iter()
                        .step_by(2)
                        .chain(h.iter().skip(1).step_by(2))
                        .copied()
                        .collect::<Vec<_>>()
                };
                *v = v.chunks(12).flat_map(head).collect();
            }
            true
        },
        rename: &|stage| {
            format!(
                "my {}",
                stage.len() * 100 + stage.bytes().map(usize::from).sum::<usize>()
            )
        },
        ..Made::default()
    };
    (left.record(dir), right.record(dir))
}

/// A hand-written mapping of all stages, as one would write it who knows both engines.
fn write_mapping(dir: &Path) -> PathBuf {
    let mut text = String::new();
    for stage in common::STAGES
        .iter()
        .chain(&["embeddings", "all_layers_out", "final_norm", "logits"])
    {
        let name = stage.len() * 100 + stage.bytes().map(usize::from).sum::<usize>();
        text += &format!("[[map]]\nengine = \"mine\"\nname = \"my {name}\"\nstage = \"{stage}\"\n");
        if *stage == "q_rope" {
            text += "layout = \"rope_halves\"\nheads = 2\n";
        }
    }
    let file = dir.join("by-hand.toml");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn what_align_proposes_is_what_first_compares_by() {
    let dir = TempDir::new().unwrap();
    let (left, right) = runs(dir.path(), false);
    let refused = two("first", &left, &right, &[]);
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    let file = dir.path().join("mapping.toml");
    let file = file.to_str().unwrap();
    let ran = two("align", &left, &right, &["-o", file, "--format", "json"]);
    let report = ran.json();
    check_schema("align", &report);
    assert_eq!(report["mapping"], file);
    let first = two("first", &left, &right, &["--mapping", file, "--format", "json"]);
    assert_eq!(first.code, 0, "{}", first.stdout);
    let counts = &first.json()["counts"];
    let compared = counts["identical"].as_u64().unwrap() + counts["within"].as_u64().unwrap();
    assert_eq!(compared, report["matched"].as_u64().unwrap() * TOKENS as u64);
}

#[test]
fn a_mapping_by_hand_finds_the_fault_at_its_place_in_the_names_of_the_reference() {
    let dir = TempDir::new().unwrap();
    let (left, right) = runs(dir.path(), true);
    let file = write_mapping(dir.path());
    let file = file.to_str().unwrap();
    for (a, b) in [(&left, &right), (&right, &left)] {
        let first = two("first", a, b, &["--mapping", file, "--format", "json"]);
        assert_eq!(first.code, 1, "{}", first.stdout);
        let document = first.json();
        check_schema("first", &document);
        let found = &document["first_divergence"];
        let place = (&found["seq"], &found["layer"], &found["stage"]);
        assert_eq!(place, (&3.into(), &1.into(), &"attn_out".into()), "{found:#}");
        let notes = document["notes"].to_string();
        assert!(
            notes.contains("names and layouts come from by-hand.toml"),
            "{notes}"
        );
    }
    // Filters take the names that the mapping gives.
    let flags = [
        "--mapping",
        file,
        "--stage",
        "q_*",
        "--layer",
        "1",
        "--format",
        "json",
    ];
    let compare = two("compare", &left, &right, &flags);
    let counts = &compare.json()["counts"];
    let total: u64 = counts
        .as_object()
        .unwrap()
        .values()
        .filter_map(|n| n.as_u64())
        .sum();
    assert_eq!((total, &counts["missing_left"]), (2 * TOKENS as u64, &0.into()));
    // So do those of `query`, which puts both under the names of the first run.
    let (database, name) = (dir.path().to_str().unwrap(), |p: &PathBuf| {
        let name = p.file_name().unwrap().to_str().unwrap();
        name.trim_start_matches("run=").to_owned()
    });
    let (first, second) = (name(&left), name(&right));
    let columns = ["--run", &first, "--run", &second, "--seq", "3"];
    let query = run(&[&["query", database][..], &columns, &flags].concat()).json();
    check_schema("query", &query);
    let rows = query["records"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{query:#}");
    for row in rows {
        let cells = row["cells"].as_array().unwrap();
        assert!(cells.iter().all(|cell| cell.is_object()), "{row:#}");
    }
    let tokens = two("tokens", &left, &right, &["--mapping", file, "--format", "json"]);
    assert_eq!(tokens.json()["compared"], TOKENS);
}

#[test]
fn a_filter_finds_what_only_an_alias_knows() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let right = Made {
        name: "right",
        rename: &|stage| stage.replace("attn_probs", "attn_scores_softmax"),
        ..Made::default()
    };
    let right = right.record(dir.path());
    let flags = ["--stage", "attn_probs", "--format", "json"];
    let ran = two("first", &left, &right, &flags);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["counts"]["identical"], i64::from(LAYERS) * TOKENS);
}

#[test]
fn a_mapping_that_is_wrong_or_does_not_fit_is_an_error_that_says_where() {
    let dir = TempDir::new().unwrap();
    let (left, right) = runs(dir.path(), false);
    let file = dir.path().join("bad.toml");
    for (text, told) in [
        ("[[map]]\nname = 'x'\n", "missing field `stage`"),
        (
            "[[map]]\nname = 'x'\nstage = 'q_proj'\nside = 'up'",
            "unknown variant `up`",
        ),
        ("[[map]]\nstage = 'q_proj'", "bad.toml, entry 1 says nothing"),
        (
            "[[map]]\nside = 'left'\nstage = 'q_rope'\nlayout = 'transposed'\nheads = 7",
            "bad.toml, entry 1: q_rope of layer 0 has 24 elements, which cannot lie as transposed of 7 heads",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        for command in ["first", "compare", "tokens"] {
            let flags = ["--mapping", file.to_str().unwrap(), "--format", "json"];
            let ran = two(command, &left, &right, &flags);
            let document = ran.json();
            check_schema(command, &document);
            let message = document["error"]["message"].as_str().unwrap();
            assert_eq!((ran.code, &document["error"]["kind"]), (2, &"mapping".into()));
            assert!(message.contains(told), "{command}: {message}");
        }
    }
    let nowhere = ["--mapping", "/nowhere/m.toml"];
    assert_eq!(two("first", &left, &right, &nowhere).code, 2);
    let unwritable = two("align", &left, &right, &["-o", "/nowhere/m.toml"]);
    assert!(
        unwritable.code == 2 && unwritable.stderr.contains("cannot write /nowhere/m.toml"),
        "{}",
        unwritable.stderr
    );
    assert_eq!(run(&["align", "/nowhere", "/nowhere"]).code, 2);
}
