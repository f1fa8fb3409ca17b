//! Every JSON output is what its schema says.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Made, check_schema as check, downstream, run, shift, two};
use tempfile::TempDir;

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
    for other in &others {
        let ran = two("align", &left, other, &["--format", "json"]);
        check("align", &ran.json());
    }
    for command in ["first", "compare"] {
        for other in &others {
            let flags = ["--format", "json", "--explain-plan"];
            check("plan", &two(command, &left, other, &flags).json());
        }
    }
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
    check("recover", &run(&["recover", db, "--format", "json"]).json());
    check(
        "recover",
        &run(&["recover", "/nowhere", "--format", "json"]).json(),
    );
    check(
        "record",
        &run(&["record", "--into", db, "--format", "json", "--", "true"]).json(),
    );
    check(
        "record",
        &run(&["record", "--into", db, "--format", "json", "--", "/no/program"]).json(),
    );
    let (run_path, out) = (left.to_str().unwrap(), dir.path().join("out"));
    let (arrays, file) = (out.join("arrays"), out.join("a.trace"));
    for flags in [
        &["--seq", "2", "--npy", arrays.to_str().unwrap()][..],
        &["--seq", "2", "--npy", arrays.to_str().unwrap()],
        &["--trace", file.to_str().unwrap()],
    ] {
        let args = [&["export", run_path, "--format", "json"], flags].concat();
        check("export", &run(&args).json());
    }
    for path in [file.to_str().unwrap(), run_path] {
        check(
            "import",
            &run(&["import", path, "--into", db, "--format", "json"]).json(),
        );
    }
}
