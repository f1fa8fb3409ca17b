//! Every JSON output is what its schema says.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, downstream, run, shift, two};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Checks a document against schemas/<name>.schema.json, with no key that the schema does not describe.
fn check(name: &str, document: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../schemas/{name}.schema.json"));
    let mut schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    close(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{document:#}");
}

/// Adds `additionalProperties: false` where properties are listed with what is required.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && map.contains_key("required") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn json_outputs_validate() {
    let dir = TempDir::new().unwrap();
    let left = Made::default().record(dir.path());
    let made = |name: &'static str, change: common::Change<'_>| {
        Made {
            name,
            change,
            weights: "Q4_1",
            ..Made::default()
        }
        .record(dir.path())
    };
    let mut ids = common::IDS;
    ids[4] = 9;
    let others = [
        left.clone(),
        made("fault", &|s, l, stage, v| {
            if downstream(s, l, stage) {
                shift(v, 0.1);
            }
            true
        }),
        made("nan", &|s, _, stage, v| {
            if s == 2 && (stage == "logits" || stage == "q_proj") {
                v[1] = f32::NAN;
                v[2] = f32::INFINITY;
            }
            true
        }),
        made("shapes", &|s, l, _, v| {
            if (s, l) == (2, 1) {
                v.pop();
                v.pop();
            }
            s != 1
        }),
        Made {
            name: "ids",
            ids: &ids,
            ..Made::default()
        }
        .record(dir.path()),
        Made {
            name: "stats",
            values: bitnet_trace::Values::Stats,
            ..Made::default()
        }
        .record(dir.path()),
        dir.path().join("run=nobody"),
    ];
    for other in &others {
        for command in ["first", "compare", "tokens"] {
            for (a, b) in [(&left, other), (other, &left)] {
                let ran = two(command, a, b, &["--format", "json"]);
                let document = ran.json();
                check(command, &document);
                let status = ["ok", "diverged", "error"][usize::try_from(ran.code).unwrap()];
                assert_eq!(document["status"], status, "{command} {other:?}");
            }
        }
    }
    check(
        "compare",
        &two(
            "compare",
            &left,
            &others[1],
            &["--format", "json", "--explain-plan"],
        )
        .json(),
    );
    let db = dir.path().to_str().unwrap();
    check(
        "query",
        &run(&["query", db, "--seq", "2", "--values", "3", "--format", "json"]).json(),
    );
    check(
        "query",
        &run(&["query", db, "--seq", "99", "--format", "json"]).json(),
    );
    check("runs", &run(&["runs", db, "--format", "json"]).json());
    check("runs", &run(&["runs", "/nowhere", "--format", "json"]).json());
    check(
        "record",
        &run(&["record", "--into", db, "--format", "json", "--", "true"]).json(),
    );
    check(
        "record",
        &run(&["record", "--into", db, "--format", "json", "--", "/no/program"]).json(),
    );
}
