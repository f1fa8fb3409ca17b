//! A stored run replayed into running engines: ours, and programs that know nothing of it.

use crate::support::*;
use crate::unmodified::{bitnet_host, llama_simple};
use std::{collections::BTreeMap, path::Path, process::Command};

/// As many tokens as [`PROMPT_IDS`], and others.
const OTHER_IDS: &str = "504,2240,338,553,719,253";
const SIMPLE: [&str; 3] = ["-n", "5", "The capital of France is"];

/// `bitnet-diff record`, of `program` as it is.
fn record(db: &Db, name: &str, replay: &[&str], program: &Command) -> Done {
    let mut command = Command::new(self::program("bitnet-diff"));
    command
        .args(["record", "--threads-hint", "1", "--name", name, "--into"])
        .arg(db.path());
    command
        .args(replay)
        .arg("--")
        .arg(program.get_program())
        .args(program.get_args());
    run(&mut command)
}

fn recorded(db: &Db, name: &str, replay: &[&str], program: &Command) -> Done {
    let done = record(db, name, replay, program);
    assert_eq!(done.code, 0, "{name}: {}", done.stderr);
    done
}

/// The hash of each record of a stage.
fn hashes(db: &Db, name: &str, stage: &str) -> BTreeMap<(i64, i32), String> {
    let run = bitnet_trace_store::Run::open(db.at(name)).expect("a run");
    let filter = bitnet_trace_store::Filter {
        stage: Some(stage.into()),
        ..Default::default()
    };
    let rows = run.records(&filter);
    let hashes: BTreeMap<_, _> = rows
        .into_iter()
        .map(|r| ((r.meta.seq, r.meta.layer), r.meta.blake3))
        .collect();
    assert!(!hashes.is_empty(), "{name} has {stage}");
    hashes
}

fn injected(db: &Db, name: &str) -> u64 {
    let replay = &db.manifest(name)["replay"];
    assert_eq!(replay["skipped"], 0, "{replay}");
    replay["injected"].as_u64().expect("a count")
}

/// That every record of `again`, into which `first` was replayed, is that of `first`, and that each that can be replaced was.
fn changed_nothing(db: &Db, first: &str, again: &str, copies: &[&str]) {
    let compared = db.first(first, again, &["--exact"]);
    assert_full_match(&compared);
    assert_eq!(count(&compared.1, "within"), 0, "{again}: every byte is the same");
    let copies: usize = copies.iter().map(|stage| hashes(db, first, stage).len()).sum();
    let all = db.manifest(first)["records"].as_u64().expect("a count");
    assert_eq!(
        injected(db, again),
        all - copies as u64,
        "{again}: all but the copies"
    );
}

/// What an engine of ours cannot replace, and what ggml's graph has no node for.
const CACHE: [&str; 2] = ["k_cache", "v_cache"];
const COPIES: [&str; 3] = ["k_cache", "v_cache", "all_layers_out"];

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_run_replayed_into_itself_changes_nothing_in_our_engines() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    recorded(&db, "cpp-again", &["--replay", &db.at("cpp")], &cpp(&q4()));
    changed_nothing(&db, "cpp", "cpp-again", &COPIES);
    db.record("rust", &mut rust(&q4(), &db));
    recorded(
        &db,
        "rust-again",
        &["--replay", &db.at("rust"), "--at", "*"],
        &rust(&q4(), &db),
    );
    changed_nothing(&db, "rust", "rust-again", &CACHE);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_run_replayed_into_itself_changes_nothing_in_an_unmodified_llama_cpp_program() {
    let db = Db::new();
    let mut simple = Command::new(llama_simple(db.path()));
    simple.arg("-m").arg(q4()).args(SIMPLE);
    let first = recorded(&db, "simple", &[], &simple);
    let again = recorded(&db, "again", &["--replay", &db.at("simple")], &simple);
    assert_eq!(first.stdout, again.stdout);
    changed_nothing(&db, "simple", "again", &COPIES);
    // The last layer was pruned to the output rows, and so it is again; the graph is used again from step to step.
    assert!(hashes(&db, "simple", "logits").len() < hashes(&db, "simple", "embeddings").len());
    // Another prompt with as many tokens, and the first one's embeddings.
    let mut other = Command::new(simple.get_program());
    other
        .arg("-m")
        .arg(q4())
        .args(["-n", "1", "The mountain of Peru was"]);
    recorded(&db, "first", &[], &simple_once(&simple));
    recorded(&db, "own", &[], &other);
    let embeddings = [
        "--replay",
        &db.at("first"),
        "--at",
        "stage=embeddings",
        "--other-prompt",
    ];
    recorded(&db, "swapped", &embeddings, &other);
    let logits = |name| hashes(&db, name, "logits");
    assert_eq!(logits("swapped"), logits("first"));
    assert_ne!(logits("own"), logits("first"));
}

fn simple_once(simple: &Command) -> Command {
    let mut once = Command::new(simple.get_program());
    once.arg("-m")
        .arg(q4())
        .args(["-n", "1", "The capital of France is"]);
    once
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_run_replayed_into_itself_changes_nothing_in_an_unmodified_bitnet_cpp_program() {
    if !has_bitnet_cpp() {
        return;
    }
    let db = Db::new();
    let model = db.path().join("i2_s.gguf");
    let mut xtask = Command::new(program("xtask"));
    xtask.args(["fixture", "bitnet", "--type", "i2_s", "--output"]);
    let done = run(xtask.arg(&model));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let mut host = Command::new(bitnet_host(db.path()));
    host.arg(&model).args(["307", "311", "291", "316", "299", "268"]);
    let first = recorded(&db, "bitnet", &[], &host);
    let again = recorded(&db, "again", &["--replay", &db.at("bitnet")], &host);
    assert_eq!(first.stdout, again.stdout);
    changed_nothing(&db, "bitnet", "again", &COPIES);
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn another_prompt_with_the_first_ones_embeddings_gives_its_logits() {
    let db = Db::new();
    let engines: [(&str, &str, &[&str]); 2] = [
        ("cpp", "cpp-runner", &["--threads", "1"]),
        ("rust", "bitnet-cli", &["--threads", "1"]),
    ];
    for (name, program, more) in engines {
        let with = |ids: &str| {
            let mut command = Command::new(self::program(program));
            if name == "rust" {
                command.arg("run");
            }
            command
                .arg("--model")
                .arg(q4())
                .args(["--max-tokens", "1", "--tokens", ids])
                .args(more);
            command
        };
        let [a, b, swapped] = ["a", "b", "swapped"].map(|run| format!("{name}-{run}"));
        db.record(&a, &mut with(PROMPT_IDS))
            .record(&b, &mut with(OTHER_IDS));
        let embeddings = [
            "--replay",
            &db.at(&a),
            "--at",
            "stage=embeddings",
            "--other-prompt",
        ];
        recorded(&db, &swapped, &embeddings, &with(OTHER_IDS));
        assert_eq!(injected(&db, &swapped), PROMPT_LEN as u64);
        let logits = |run: &str| hashes(&db, run, "logits");
        assert_eq!(logits(&swapped), logits(&a), "{name}");
        assert_ne!(logits(&b), logits(&a), "{name}");
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_cross_replay_shows_the_error_of_each_stage_alone() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()))
        .record("rust", &mut rust(&q4(), &db));
    let cross = |name: &str, more: &[&str]| {
        let engine = rust(&q4(), &db);
        let mut command = Command::new(program("bitnet-diff"));
        command.args([
            "cross",
            &db.at("cpp"),
            "--name",
            name,
            "--format",
            "json",
            "--into",
        ]);
        command
            .arg(db.path())
            .arg("--")
            .arg(engine.get_program())
            .args(engine.get_args());
        let done = run(command.args(more));
        (done.code, done.json())
    };
    let (code, table) = cross("local", &[]);
    assert_eq!((code, table["status"].as_str()), (0, Some("ok")), "{table:#}");
    let stages = table["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), 23, "{table:#}");
    let propagated = |stage: &str| {
        let (a, b) = (db.at("cpp"), db.at("rust"));
        let compared = diff(&["compare", &a, &b, "--stage", stage, "--format", "json"]).json();
        compared["stages"][0]["median_rel_l2"].as_f64().expect("a number")
    };
    let mut elementwise = 0;
    for stage in stages {
        let name = stage["stage"].as_str().expect("a name");
        let worst = stage["worst"]["rel_l2"].as_f64().unwrap_or(0.0);
        match stage["rounds"].as_str().expect("what rounds") {
            "float" => {
                elementwise += 1;
                assert!(worst <= 2e-6, "{name}: {worst:e}");
            }
            "activations" => {
                let median = stage["median"].as_f64().expect("a number");
                assert!(median <= 1e-3 && worst <= 2e-2, "{name}: {median:e}, {worst:e}");
                assert!(name == "logits" || propagated(name) > 10.0 * median, "{name}");
            }
            other => panic!("{name}: {other}"),
        }
    }
    assert_eq!(elementwise, 15);
    // A difference is where it was made, though it is small beside the rounding that propagates.
    let first = db.first("cpp", "local", &["--tolerance", &tolerance(&db)]);
    assert_eq!(first.0, 0, "{:#}", first.1);
    let note = first.1["notes"].to_string();
    assert!(
        note.contains("local errors: local was replayed from cpp"),
        "{note}"
    );

    let (code, table) = cross("fault", &["--fault", "rms-eps=1e-2@layer=20,stage=ffn_norm"]);
    assert_eq!(code, 1, "{table:#}");
    let beyond = |s: &&serde_json::Value| s["verdict"] == "beyond";
    let beyond: Vec<_> = table["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .filter(beyond)
        .collect();
    let [stage] = beyond[..] else { panic!("{table:#}") };
    assert_eq!(
        (&stage["stage"], &stage["worst"]["layer"]),
        (&"ffn_norm".into(), &20.into())
    );
    let (_, first) = db.first("cpp", "fault", &["--tolerance", &tolerance(&db)]);
    assert_eq!(first["first_divergence"]["stage"], "ffn_norm", "{first:#}");
    assert_eq!(first["first_divergence"]["layer"], 20);
}

/// The rounding of each stage as a tolerance.
fn tolerance(db: &Db) -> String {
    let file = db.path().join("tolerance.toml");
    let products = [
        "q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_down", "logits",
    ];
    let rules = products.map(|stage| format!("[[rule]]\nstage = '{stage}'\nrel_l2 = 2e-2\n"));
    std::fs::write(&file, format!("[default]\nrel_l2 = 2e-6\n\n{}", rules.concat())).expect("written");
    file.to_string_lossy().into_owned()
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_changed_reference_changes_the_outcome() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    let faulty = ["--fault", "missing-residual@layer=6,from=3"];
    db.record("faulty", rust(&q4(), &db).args(faulty));
    db.record("rust", &mut rust(&q4(), &db));
    let at = ["--replay", &db.at("faulty"), "--at", "stage=layer_out"];
    recorded(&db, "replayed", &at, &rust(&q4(), &db));
    let mut forced = cpp(&q4());
    forced.args(["--teacher-force", &db.continuation("cpp")]);
    recorded(&db, "cpp-replayed", &at, &forced);
    let logits = |name| hashes(&db, name, "logits");
    assert_eq!(logits("replayed"), logits("faulty"));
    assert_ne!(logits("replayed"), logits("rust"));
    // After the last layer both engines compute alike.
    assert_eq!(logits("cpp-replayed"), logits("faulty"));
}

/// Both programs on other terms than the run `cpp`, and what each says.
#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn wrong_pairings_are_errors_with_a_clear_message() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&q4()));
    db.record("fused", cpp(&q4()).args(["--flash-attn", "on"]));
    db.record("some", cpp(&q4()).env("BITNET_TRACE_SELECT", "stage!=ffn_norm"));
    let copy = |name: &str| {
        let to = db.path().join(format!("run={name}"));
        std::fs::create_dir(&to).expect("a folder");
        for file in std::fs::read_dir(db.at("cpp")).expect("a run").flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
        }
        to
    };
    let edit = |run: &Path, change: &dyn Fn(&mut serde_json::Value)| {
        let path = run.join("run.json");
        let mut manifest = serde_json::from_slice(&std::fs::read(&path).expect("a manifest")).expect("JSON");
        change(&mut manifest);
        std::fs::write(&path, manifest.to_string()).expect("written");
    };
    edit(&copy("dropped"), &|m| {
        m["dropped"] = serde_json::json!({"total": 3, "reasons": {"queue full": 3}})
    });
    let cut = copy("cut").join("part-00000.parquet");
    let bytes = std::fs::read(&cut).expect("a part");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("written");
    let other_prompt = |program: &str| {
        let mut command = Command::new(self::program(program));
        if program == "bitnet-cli" {
            command.arg("run");
        }
        command
            .arg("--model")
            .arg(q4())
            .args(["--max-tokens", "1", "--tokens", OTHER_IDS]);
        command
    };
    let with = |mut command: Command, args: &[&str]| {
        command.args(args);
        command
    };
    let cases: Vec<(&str, Command, &str)> = vec![
        ("cpp", cpp(&f32()), "the size of the model here is"),
        ("cpp", rust(&f32(), &db), "the size of the model here is"),
        (
            "cpp",
            other_prompt("cpp-runner"),
            "the token at request 0, seq=1 is 2240 here and 3575 in the run cpp",
        ),
        (
            "cpp",
            other_prompt("bitnet-cli"),
            "the token at request 0, seq=1 is 2240 here and 3575 in the run cpp",
        ),
        (
            "cpp",
            with(cpp(&q4()), &["--kv-type", "f16"]),
            "the type of the KV cache here is F16",
        ),
        (
            "cpp",
            with(cpp(&q4()), &["--flash-attn", "on"]),
            "flash attention here is on",
        ),
        ("fused", cpp(&q4()), "flash attention here is off"),
        ("fused", rust(&q4(), &db), "flash attention here is off"),
        (
            "some",
            rust(&q4(), &db),
            "no record of seq=0, layer=0, stage=ffn_norm: it was recorded with the selection",
        ),
        ("some", cpp(&q4()), "no record of seq=0, layer=0, stage=ffn_norm"),
        ("dropped", rust(&q4(), &db), "3 tensors were not recorded"),
        ("cut", rust(&q4(), &db), "run.json lists"),
    ];
    for (i, (reference, command, message)) in cases.into_iter().enumerate() {
        let name = format!("wrong-{i}");
        // The engine itself, which is one of ours, ends with exit code 2.
        let mut alone = Command::new(command.get_program());
        alone
            .args(command.get_args())
            .env("BITNET_TRACE_DIR", db.path())
            .env("BITNET_TRACE_RUN", &name);
        let alone = run(alone.env("BITNET_TRACE_REPLAY", db.at(reference)));
        assert_eq!(alone.code, 2, "{name}: {}", alone.stderr);
        assert!(alone.stderr.contains(message), "{name}: {}", alone.stderr);
        let manifest = db.manifest(&name);
        assert_eq!(manifest["state"], "failed", "{name}: {manifest:#}");
        assert!(
            manifest["failure"].to_string().contains(message),
            "{name}: {manifest:#}"
        );
    }
    let done = record(&db, "told", &["--replay", &db.at("cpp")], &cpp(&f32()));
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(
        done.stderr.contains("the size of the model here is"),
        "{}",
        done.stderr
    );
    let missing = record(&db, "nobody", &["--replay", &db.at("nobody")], &cpp(&q4()));
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(
        !db.path().join("run=nobody").exists(),
        "the program was not started"
    );
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_program_of_others_goes_on_unharmed_when_the_replay_stops() {
    let db = Db::new();
    let mut simple = Command::new(llama_simple(db.path()));
    simple.arg("-m").arg(q4()).args(SIMPLE);
    recorded(&db, "simple", &[], &simple);
    let with = |args: &[&str]| {
        let mut command = Command::new(simple.get_program());
        command.arg("-m").arg(q4()).args(args);
        command
    };
    for (name, args, message) in [
        ("other", ["-n", "5", "The mountain of Peru was"], "another prompt"),
        (
            "longer",
            ["-n", "9", "The capital of France is"],
            "it computed fewer tokens",
        ),
    ] {
        let program = with(&args);
        let silent = run(Command::new(program.get_program()).args(program.get_args()));
        let done = record(&db, name, &["--replay", &db.at("simple")], &program);
        assert_eq!(
            (done.code, &done.stdout),
            (2, &silent.stdout),
            "{name}: {}",
            done.stderr
        );
        assert!(done.stderr.contains(message), "{name}: {}", done.stderr);
        let manifest = db.manifest(name);
        assert_eq!(manifest["state"], "failed", "{manifest:#}");
        assert!(manifest["failure"].to_string().contains(message), "{manifest:#}");
    }
    // What is missing is left out where that is allowed, and counted.
    let partial = ["--replay", &db.at("simple"), "--allow-partial"];
    recorded(
        &db,
        "partial",
        &partial,
        &with(&["-n", "9", "The capital of France is"]),
    );
    let replay = &db.manifest("partial")["replay"];
    assert!(
        replay["skipped"].as_u64() > Some(0) && replay["injected"].as_u64() > Some(0),
        "{replay}"
    );
}
