//! `.trace` files in place of runs, and into and out of them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, run, two};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A hash that this number makes.
fn hash(n: u64) -> String {
    format!("{n:064x}")
}

/// An object as the older tracing crate writes it, in a file of its own.
fn pretty(dir: &Path, layer: i32, stage: &str, hash: &str, rms: &str) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        "{{\n  \"name\": \"t0/blk{layer}/{stage}\",\n  \"shape\": [\n    1,\n    4\n  ],\n  \"dtype\": \"F32\",\n  \
         \"blake3\": \"{hash}\",\n  \"rms\": {rms},\n  \"num_elements\": 4,\n  \"seq\": 0,\n  \"layer\": {layer},\n  \
         \"stage\": \"{stage}\"\n}}"
    );
    let file = dir.join(format!("t0_blk{layer}_{stage}.trace"));
    std::fs::write(&file, text).unwrap();
    file
}

/// Files of two layers; `from` (a layer and stage) and all after it have other hashes.
fn folder(dir: &Path, from: Option<(i32, &str)>) -> PathBuf {
    let stages = [
        "attn_norm",
        "q_proj",
        "attn_scores_softmax",
        "attn_out",
        "ffn_out",
    ];
    let mut other = 0;
    for layer in 0..12 {
        for (i, stage) in stages.into_iter().enumerate() {
            if from == Some((layer, stage)) {
                other = 1 << 32;
            }
            pretty(
                dir,
                layer,
                stage,
                &hash(other + layer as u64 * 8 + i as u64),
                "1.0",
            );
        }
    }
    // Neither the alphabet nor the layers' numbers put it last.
    pretty(dir, -1, "logits", &hash(other + 999), "2.0");
    dir.to_owned()
}

#[test]
fn files_without_values_are_compared_by_hash_and_rms_and_that_is_told() {
    let dir = TempDir::new().unwrap();
    let a = folder(&dir.path().join("a"), None);
    let same = two("first", &a, &folder(&dir.path().join("b"), None), &[]);
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert!(
        same.stdout.contains("61 records match: all identical"),
        "{}",
        same.stdout
    );
    assert!(
        same.stdout.contains("compared by hash and rms\n    only"),
        "{}",
        same.stdout
    );
    let report = two("first", &a, &a, &["--format", "json"]).json();
    let kinds = report["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["kind"].clone());
    assert_eq!(kinds.filter(|k| k == "imported").count(), 2);
}

/// Pins a defect of the older script: it sorted by layer and stage name, and blamed the logits (layer -1).
#[test]
fn the_first_divergence_is_the_first_that_was_computed_whatever_the_files_are_called() {
    let dir = TempDir::new().unwrap();
    let a = folder(&dir.path().join("a"), None);
    for (layer, stage, named) in [
        (0, "attn_norm", "attn_norm"),
        (2, "q_proj", "q_proj"),
        (10, "attn_scores_softmax", "attn_probs"),
        (11, "ffn_out", "ffn_down"),
    ] {
        let b = folder(&dir.path().join(format!("{layer}")), Some((layer, stage)));
        for (x, y) in [(&a, &b), (&b, &a)] {
            let found = two("first", x, y, &[]);
            let expected = format!("✗ First divergence at seq=0, layer={layer}, stage={named}\n");
            assert!(
                found.code == 1 && found.stdout.starts_with(&expected),
                "{}",
                found.stdout
            );
        }
    }
}

#[test]
fn one_file_of_many_lines_keeps_the_order_of_its_lines() {
    let dir = TempDir::new().unwrap();
    let lines = |name: &str, other: u64| {
        let of = |layer: i32, stage: &str, n: u64| {
            format!(
                "{{\"name\":\"x\",\"shape\":[4],\"dtype\":\"F32\",\"blake3\":\"{}\",\"rms\":null,\"seq\":3,\"layer\":{layer},\"stage\":\"{stage}\"}}\n",
                hash(n)
            )
        };
        // An engine that computes what it calls `zz` before `aa`.
        let text = of(0, "zz", 5 + other) + &of(0, "aa", 6 + other) + &of(-1, "logits", 7 + other);
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let found = two("first", &lines("a.trace", 0), &lines("b.jsonl", 100), &[]);
    assert!(
        found.code == 1
            && found
                .stdout
                .starts_with("✗ First divergence at seq=3, layer=0, stage=zz\n"),
        "{}",
        found.stdout
    );
}

/// Pins a defect of the older script: it took these for a match, since nothing that it read differed.
#[test]
fn nothing_to_compare_and_malformed_files_are_errors_with_file_and_line() {
    let dir = TempDir::new().unwrap();
    let good = folder(&dir.path().join("good"), None);
    let in_folder = |name: &str, text: &str| {
        let folder = dir.path().join(name);
        pretty(&folder, 0, "attn_norm", &hash(0), "1.0");
        std::fs::write(folder.join("x.trace"), text).unwrap();
        folder
    };
    let other = dir.path().join("other");
    pretty(&other, 99, "attn_norm", &hash(0), "1.0");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (path, says) in [
        (
            in_folder("garbage", "garbage\n"),
            "x.trace:1: a record is a JSON object",
        ),
        (
            in_folder("torn", "{\n  \"name\": \"x\",\n  \"sh"),
            "x.trace:3: the file ends inside a record",
        ),
        (in_folder("nothing", ""), "x.trace:1: the file holds no record"),
        (
            in_folder(
                "hash",
                "\n{\"stage\": \"x\", \"rms\": 1,\n \"shape\": [1], \"blake3\": \"abc\"}",
            ),
            "x.trace:2: blake3 is not 64 hex digits",
        ),
        (other, "no record in common"),
        (empty, "holds no run"),
        (dir.path().join("absent.trace"), "does not exist"),
    ] {
        for (a, b) in [(&good, &path), (&path, &good)] {
            let ran = two("first", a, b, &[]);
            assert!(
                ran.code == 2 && ran.stderr.contains(says),
                "{says}: {}",
                ran.stderr
            );
            assert_eq!(ran.stdout, "");
            let json = two("first", a, b, &["--format", "json"]).json();
            assert_eq!(json["status"], "error");
        }
    }
}

#[test]
fn filters_and_the_other_commands_take_files_too() {
    let dir = TempDir::new().unwrap();
    let a = folder(&dir.path().join("a"), None);
    let b = folder(&dir.path().join("b"), Some((5, "attn_out")));
    for (flags, code) in [
        (&["--layer", "0-4"][..], 0),
        (&["--layer", "5-"], 1),
        (&["--stage", "attn_n*", "--layer", "5"], 0),
    ] {
        assert_eq!(two("first", &a, &b, flags).code, code, "{flags:?}");
    }
    let none = two("first", &a, &b, &["--seq", "9"]);
    assert!(
        none.code == 2 && none.stderr.contains("a has no record that --seq 9 takes"),
        "{}",
        none.stderr
    );
    let compare = two("compare", &a, &b, &["--format", "json"]);
    assert_eq!(
        (compare.code, &compare.json()["counts"]["diverged"]),
        (1, &33.into())
    );
    let tokens = two("tokens", &a, &b, &[]);
    assert!(
        tokens.code == 1 && tokens.stdout.contains("0 of 1 position match"),
        "{}{}",
        tokens.stdout,
        tokens.stderr
    );
    let plan = two("compare", &a, &b, &["--explain-plan"]);
    assert!(
        plan.code == 0 && plan.stdout.contains("attn_probs"),
        "{}",
        plan.stdout
    );
}

#[test]
fn a_run_and_the_files_of_another_tracer_are_compared_by_hash() {
    let dir = TempDir::new().unwrap();
    let made = Made::default().record(&dir.path().join("db"));
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let values = common::tensor(3, 1, "attn_out");
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let rms = (squares / values.len() as f64).sqrt();
    let write = |digest: &str| {
        let text = format!(
            r#"{{"name":"t3/blk1/attn_out","shape":[1,{}],"blake3":"{digest}","rms":{rms}}}"#,
            values.len()
        );
        std::fs::write(files.join("a.trace"), text).unwrap();
    };
    write(blake3::hash(&bytes).to_hex().as_ref());
    let same = two("first", &made, &files, &[]);
    assert!(
        same.code == 0 && same.stdout.contains("1 record matches: all identical"),
        "{}{}",
        same.stdout,
        same.stderr
    );
    write(&hash(1));
    let other = two("first", &made, &files, &[]);
    assert!(
        other.code == 1 && other.stdout.contains("the hashes differ, the rms does not"),
        "{}",
        other.stdout
    );
}

#[test]
fn a_fifo_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe.trace");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let ran = run(&["first".as_ref(), dir.path().as_os_str(), dir.path().as_os_str()]);
    assert!(
        ran.code == 2 && ran.stderr.contains("is not a file"),
        "{}",
        ran.stderr
    );
}

#[test]
fn imported_files_are_a_run_like_any_other() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (
        folder(&dir.path().join("a"), None),
        folder(&dir.path().join("b"), Some((5, "attn_out"))),
    );
    let db = dir.path().join("new/db");
    let db = db.to_str().unwrap();
    let import = |path: &Path, flags: &[&str]| {
        let args = [&["import", path.to_str().unwrap(), "--into", db], flags].concat();
        run(&args)
    };
    let first = import(&a, &[]);
    assert!(
        first.code == 0
            && first
                .stdout
                .contains("✓ imported a: 61 records of 6 stages from 61 files"),
        "{}{}",
        first.stdout,
        first.stderr
    );
    let again = import(&a, &["--format", "json"]).json();
    assert_eq!(
        (again["name"].as_str(), again["records"].as_u64()),
        (Some("a-2"), Some(61))
    );
    assert_eq!(import(&b, &["--name", "other"]).code, 0);
    let at = |name: &str| Path::new(db).join(format!("run={name}"));
    assert_eq!(two("first", &at("a"), &at("a-2"), &[]).code, 0);
    for (x, y) in [(at("a"), at("other")), (a.clone(), at("other")), (at("a"), b)] {
        let found = two("first", &x, &y, &[]);
        assert!(
            found.code == 1
                && found
                    .stdout
                    .starts_with("✗ First divergence at seq=0, layer=5, stage=attn_out\n"),
            "{}",
            found.stdout
        );
        assert!(
            found.stdout.contains("compared by hash and rms"),
            "{}",
            found.stdout
        );
    }
    let runs = run(&["runs", db]);
    assert!(runs.code == 0 && runs.stdout.contains("a-2"), "{}", runs.stdout);
    assert_eq!(run(&["query", db, "--layer", "5"]).code, 0);
    let npy = run(&["export", at("a").to_str().unwrap(), "--npy", db]);
    assert!(
        npy.code == 2 && npy.stderr.contains("has no values"),
        "{}",
        npy.stderr
    );
}

#[test]
fn a_malformed_file_leaves_no_run_behind() {
    let dir = TempDir::new().unwrap();
    let files = folder(&dir.path().join("files"), None);
    let db = dir.path().join("db");
    let into = db.to_str().unwrap();
    let path = files.to_str().unwrap();
    std::fs::write(files.join("zz.trace"), "{\"stage\": \"x\",\n\"rms\": true}").unwrap();
    for (args, says) in [
        (
            &["import", path, "--into", into][..],
            "zz.trace:2: not a record: invalid type: boolean `true`",
        ),
        (
            &["import", path, "--into", into, "--name", "../x"],
            "is not a run name",
        ),
        (&["import", into, "--into", into], "cannot"),
        (
            &["import", dir.path().to_str().unwrap(), "--into", into],
            "holds no .trace or .jsonl file",
        ),
    ] {
        let ran = run(args);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(!db.exists(), "{args:?}");
    }
}

#[test]
fn a_run_survives_its_way_out_and_in() {
    let dir = TempDir::new().unwrap();
    let made = Made::default().record(&dir.path().join("db"));
    let file = dir.path().join("all.trace");
    let (run_path, file_path) = (made.to_str().unwrap(), file.to_str().unwrap());
    let out = run(&["export", run_path, "--trace", file_path]);
    assert!(
        out.code == 0 && out.stdout.contains("exported 140 records of left"),
        "{}{}",
        out.stdout,
        out.stderr
    );
    let to_stdout = run(&["export", run_path, "--trace", "-"]);
    assert_eq!(
        (to_stdout.code, to_stdout.stdout),
        (0, std::fs::read_to_string(&file).unwrap())
    );
    let db = dir.path().join("db");
    let into = run(&["import", file_path, "--into", db.to_str().unwrap()]);
    assert_eq!(into.code, 0, "{}", into.stderr);
    for other in [&file, &db.join("run=all")] {
        for (a, b) in [(&made, other), (other, &made)] {
            let same = two("first", a, b, &[]);
            assert!(
                same.code == 0 && same.stdout.contains("140 records match: all identical"),
                "{}{}",
                same.stdout,
                same.stderr
            );
        }
    }
}

#[test]
fn arrays_go_where_they_are_sent_and_nowhere_else() {
    let dir = TempDir::new().unwrap();
    let hostile = Made {
        rename: &|stage| stage.replace("attn_out", "../../attn_out"),
        ..Made::default()
    };
    let made = hostile.record(&dir.path().join("db"));
    let made = made.to_str().unwrap();
    let into = dir.path().join("x/one.npy");
    let one = |flags: &[&str]| {
        run(&[
            &[
                "export",
                made,
                "--seq",
                "3",
                "--layer",
                "1",
                "--stage",
                "attn_norm",
            ],
            flags,
        ]
        .concat())
    };
    let path = into.to_str().unwrap();
    let written = one(&["--npy", path]);
    assert!(
        written.code == 0
            && written
                .stdout
                .contains("seq=3, layer=1, stage=attn_norm: float32 [24]"),
        "{}{}",
        written.stdout,
        written.stderr
    );
    let expected: Vec<u8> = common::tensor(3, 1, "attn_norm")
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert!(std::fs::read(&into).unwrap().ends_with(&expected));
    for (flags, says) in [
        (&["-o", path][..], "exists; give another path, or pass --force"),
        (&["--trace", path], "exists"),
        (&["--npy", path, "--trace", path], "cannot be used with"),
        (&[], "required"),
        (
            &["--select", "seq=x", "-o", path],
            "--select is wrong: column 5, \"x\"",
        ),
        (
            &["--select", "seq=0", "-o", path],
            "has no record that --seq 3 --layer 1 --stage attn_norm --select 'seq=0' takes",
        ),
        (&["--trace", "-", "--format", "json"], "both want stdout"),
    ] {
        let ran = one(flags);
        assert!(
            ran.code == 2 && ran.stderr.contains(says) || ran.stdout.contains(says),
            "{flags:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    assert_eq!(one(&["-o", path, "--force"]).code, 0);
    let several = run(&[
        "export",
        made,
        "--seq",
        "3",
        "-o",
        dir.path().join("y.npy").to_str().unwrap(),
    ]);
    assert!(
        several.code == 2 && several.stderr.contains("28 records are selected, and"),
        "{}",
        several.stderr
    );
    let folder = dir.path().join("x/all");
    let all = run(&[
        "export",
        made,
        "--select",
        "seq=3;layer=-1",
        "-o",
        folder.to_str().unwrap(),
    ]);
    assert!(
        all.code == 0 && all.stdout.contains("exported 40 records of left, 40 .npy files"),
        "{}{}",
        all.stdout,
        all.stderr
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 40);
    let here: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(here.len(), 2, "db and x: {here:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("x")).unwrap().count(), 2);
}
