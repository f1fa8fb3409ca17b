//! Runs that keep a part of their records.

use crate::support::*;
use bitnet_trace_schema::selection::Selection;
use std::process::Command;

/// Expressions of every kind of term, with the number of records that they keep of a run of [`POSITIONS`].
const SELECTIONS: [(&str, usize); 6] = [
    ("seq=1-2,layer=6,stage=attn_*", 2 * 6),
    ("stage=k_cache|v_cache,layer!=1-", 2 * POSITIONS),
    ("layer=-2;stage=logits,seq=0|9", POSITIONS + 2),
    ("layer=29,seq=5-", 19 * (POSITIONS - 5)),
    ("layer=-1,seq=3", 3),
    ("stage!=attn_*|ffn_*,layer=-1|0,seq=7", 3 + 8),
];

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn both_engines_keep_the_same_selected_records_and_they_are_those_of_a_full_run() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()))
        .record("rust", &mut rust(&f32(), &db));
    for (i, (expression, records)) in SELECTIONS.into_iter().enumerate() {
        let selection: Selection = expression.parse().expect("a selection");
        let names = [format!("cpp-{i}"), format!("rust-{i}")];
        let [cpp_name, rust_name] = names.each_ref().map(String::as_str);
        db.record(cpp_name, cpp(&f32()).env("BITNET_TRACE_SELECT", expression));
        db.record(
            rust_name,
            rust(&f32(), &db).env("BITNET_TRACE_SELECT", expression),
        );
        for (name, full) in [(cpp_name, "cpp"), (rust_name, "rust")] {
            let manifest = db.manifest(name);
            assert_eq!(manifest["selection"], expression);
            assert_eq!(manifest["dropped"]["total"], 0, "{expression}: {manifest:#}");
            assert_eq!(
                manifest["sequences"],
                db.manifest(full)["sequences"],
                "every token id"
            );
            let mut expected = db.keys(full).0;
            expected.retain(|(seq, layer, stage)| selection.tokens(stage, *layer).wants(*seq, 0));
            let (keys, found) = db.keys(name);
            assert_eq!((&keys, found), (&expected, records), "{name}: {expression}");
            // the same bytes, though fewer nodes of the graph were looked at
            let (code, first) = db.first(full, name, &["--exact"]);
            assert_eq!(
                (code, count(&first, "identical")),
                (0, records as u64),
                "{name}: {first:#}"
            );
        }
        assert_full_match(&db.first(cpp_name, rust_name, &[]));
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_wrong_selection_is_told_once_and_records_nothing_and_the_engines_go_on() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    for mut engine in [cpp(&q4()), rust(&q4(), &db)] {
        let silent = run(&mut engine);
        let traces = db.path().join("wrong");
        let wrong = run(engine
            .env("BITNET_TRACE_DIR", &traces)
            .env("BITNET_TRACE_SELECT", "seq=0,layer=six"));
        assert_eq!((wrong.code, &wrong.stdout), (0, &silent.stdout));
        assert_eq!(
            wrong.stderr.matches("BITNET_TRACE_SELECT").count(),
            1,
            "{}",
            wrong.stderr
        );
        for part in ["column 13, \"six\"", "  seq=0,layer=six\n              ^^^\n"] {
            assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
        }
        assert!(!traces.exists());
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn record_passes_a_selection_on_and_refuses_a_wrong_one_before_the_program_starts() {
    let db = Db::new();
    let record = |name: &str, selection: &str| {
        let mut command = Command::new(program("bitnet-diff"));
        command
            .args(["record", "--format", "json", "--into"])
            .arg(db.path());
        command.args(["--name", name, "--select", selection, "--"]);
        run(command.arg(program("cpp-runner")).arg("--model").arg(q4()).args([
            "--tokens",
            PROMPT_IDS,
            "--max-tokens",
            "1",
        ]))
    };
    let some = record("some", "layer=3,stage=?_rope");
    assert_eq!(some.code, 0, "{}", some.stderr);
    assert_eq!(some.json()["runs"][0]["records"], 2 * PROMPT_LEN);
    let none = record("none", "stage=atn_out");
    assert_eq!(none.code, 2, "{}", none.stderr);
    let message = none.json()["error"]["message"].to_string();
    assert!(message.contains("stage=atn_out"), "{message}");
    let wrong = record("wrong", "layer=six");
    assert_eq!(
        (wrong.code, &wrong.json()["error"]["kind"]),
        (2, &"selection".into())
    );
    assert!(!db.path().join("run=wrong").exists());
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_call_of_which_no_row_is_kept_has_no_all_layers_out() {
    let db = Db::new();
    let mut groups: Vec<&str> = PROMPT_IDS.split(',').collect();
    groups.insert(2, "/");
    db.record(
        "groups",
        Command::new(program("one-line-host")).arg(q4()).args(groups),
    );
    let (keys, _) = db.keys("groups");
    let of = |stage: &str| -> Vec<i64> {
        let keys = keys.iter().filter(|k| k.2 == stage);
        keys.map(|k| k.0).collect()
    };
    let last = PROMPT_LEN as i64 - 1;
    assert_eq!(of("embeddings"), (0..=last + 1).collect::<Vec<_>>());
    for stage in ["all_layers_out", "final_norm", "logits"] {
        assert_eq!(of(stage), [last, last + 1], "{stage}");
    }
}
