use super::*;
use crate::{DType, Stats};
use proptest::prelude::*;

const HASH: &str = "00ffaabbccddeeff00112233445566778899aabbccddeeff0011223344556677";

/// What the older crate writes.
fn pretty(name: &str, key: &str) -> String {
    format!(
        "{{\n  \"name\": \"{name}\",\n  \"shape\": [\n    1,\n    4\n  ],\n  \"dtype\": \"F32\",\n  \"blake3\": \"{HASH}\",\n  \"rms\": 1.0,\n  \"num_elements\": 4{key}\n}}"
    )
}

fn read(files: &[&str]) -> Result<Vec<RecordMeta>, TraceFileError> {
    let mut all = TraceFiles::new(StageGraph::builtin());
    files.iter().try_for_each(|f| all.add(f.as_bytes()).map(drop))?;
    Ok(all.records())
}

fn keys(records: &[RecordMeta]) -> Vec<(i64, i32, &str, i64)> {
    let key = |m: &'_ RecordMeta| (m.seq, m.layer, m.op_index);
    let pairs = records.iter().map(|m| (key(m), m.stage.as_str()));
    pairs.map(|((s, l, o), stage)| (s, l, stage, o)).collect()
}

fn problem(text: &str) -> (u64, TraceProblem) {
    let error = read(&[text]).expect_err(text);
    (error.line, error.problem)
}

#[test]
fn an_object_over_many_lines_and_one_a_line_are_the_same_record() {
    let key = ",\n  \"seq\": 2,\n  \"layer\": 6,\n  \"stage\": \"attn_norm\"";
    let many = pretty("t2/blk6/attn_norm", key);
    let one = many.replace('\n', "");
    let read = |text: &str| read(&[text]).expect("valid");
    assert_eq!(read(&many), read(&one));
    let m = &read(&many)[0];
    assert_eq!(
        (m.seq, m.layer, m.stage.as_str(), m.shape.as_slice()),
        (2, 6, "attn_norm", &[1, 4][..])
    );
    assert_eq!(
        (m.blake3.as_str(), m.stats.rms, m.num_elements),
        (HASH, Some(1.0), 4)
    );
    assert_eq!(m.stats.mean, None, "moments that nobody told are not 0");
    assert_eq!(read(&format!("{one}\n{one}\n\n  {one}")).len(), 3);
}

#[test]
fn what_is_missing_of_a_key_is_taken_from_the_name_and_the_vocabulary() {
    for (name, key) in [
        ("t3/blk6/q_proj", (3, 6, "q_proj")),
        ("layer12/ffn_out", (0, 12, "ffn_down")),
        ("blk0/attn_scores_softmax", (0, 0, "attn_probs")),
        ("t1/logits", (1, -1, "logits")),
        ("all_layers_out", (0, -2, "all_layers_out")),
        ("text/blkx/mine", (0, -1, "mine")),
    ] {
        let records = read(&[&pretty(name, "")]).expect(name);
        let m = &records[0];
        assert_eq!((m.seq, m.layer, m.stage.as_str()), key, "{name}");
        assert_eq!(m.name, name);
    }
    let given = pretty("t9/blk9/x", ",\"seq\":1,\"layer\":2,\"stage\":\"ffn_out\"");
    assert_eq!(keys(&read(&[&given]).expect("valid")), [(1, 2, "ffn_down", 0)]);
}

#[test]
fn null_and_absent_are_the_same_and_unknown_keys_are_ignored() {
    let text = format!(
        r#"{{"name":null,"stage":"mine","shape":[2],"blake3":"{}","rms":null,"first_values":[1.0,2.0]}}"#,
        HASH.to_uppercase()
    );
    let records = read(&[&text]).expect("valid");
    assert_eq!((records[0].blake3.as_str(), records[0].stats.rms), (HASH, None));
    let (open, shut) = ("[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(r#"{{"x":{open}{shut},"stage":"mine","num_elements":3,"rms":0.5}}"#);
    let records = read(&[&deep]).expect("valid, and the stack holds");
    assert_eq!(
        (records[0].blake3.as_str(), records[0].shape.as_slice()),
        ("", &[3][..])
    );
}

#[test]
fn lines_of_one_file_keep_their_order_and_several_files_get_that_of_the_vocabulary() {
    let object = |seq: i64, layer: i32, stage: &str| {
        format!(r#"{{"seq":{seq},"layer":{layer},"stage":"{stage}","rms":1,"num_elements":1}}"#)
    };
    let objects = [
        object(0, 0, "q_proj"),
        object(0, 0, "mine"),
        object(0, -1, "logits"),
        object(0, 1, "attn_norm"),
        object(1, -1, "embeddings"),
        object(0, 0, "attn_norm"),
    ];
    let stages = |records: &[RecordMeta]| -> Vec<String> {
        records
            .iter()
            .map(|m| format!("{}/{}/{}", m.seq, m.layer, m.stage))
            .collect()
    };
    let one = read(&[&objects.join("\n")]).expect("valid");
    assert_eq!(
        stages(&one),
        [
            "0/0/q_proj",
            "0/0/mine",
            "0/-1/logits",
            "0/1/attn_norm",
            "1/-1/embeddings",
            "0/0/attn_norm"
        ]
    );
    let files: Vec<&str> = objects.iter().map(String::as_str).collect();
    // A stage of nobody's vocabulary that stands alone in its file: somewhere in its layer.
    assert_eq!(
        stages(&read(&files).expect("valid")),
        [
            "0/0/attn_norm",
            "0/0/q_proj",
            "0/0/mine",
            "0/1/attn_norm",
            "0/-1/logits",
            "1/-1/embeddings"
        ]
    );
    let two = [objects[..2].join("\n"), objects[2..].join("\n")];
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    assert_eq!(
        stages(&read(&two).expect("valid"))[..3],
        ["0/0/attn_norm", "0/0/q_proj", "0/0/mine"]
    );
}

#[test]
fn the_order_that_files_tell_is_kept() {
    let object = |op: i64, stage: &str| {
        format!(r#"{{"stage":"{stage}","layer":0,"op_index":{op},"rms":1,"num_elements":1}}"#)
    };
    let (a, b) = (object(7, "attn_norm"), object(5, "q_proj"));
    let told = read(&[&a, &b]).expect("valid");
    assert_eq!(keys(&told), [(0, 0, "q_proj", 5), (0, 0, "attn_norm", 7)]);
}

#[test]
fn records_of_one_key_are_told_apart() {
    let object = r#"{"stage":"q_proj","layer":0,"rms":1,"num_elements":1}"#;
    let records = read(&[&format!("{object}{object}"), object]).expect("valid");
    let occurrences: Vec<i32> = records.iter().map(|m| m.occurrence).collect();
    assert_eq!(occurrences, [0, 1, 2]);
}

#[test]
fn every_malformed_file_has_its_own_error_and_line() {
    let with = |keys: &str| format!(r#"{{"stage":"x","rms":1,"num_elements":1,{keys}}}"#);
    assert_eq!(problem(""), (1, TraceProblem::Empty));
    assert_eq!(problem(" \n\n"), (1, TraceProblem::Empty));
    assert_eq!(problem("garbage\n"), (1, TraceProblem::NoObject));
    assert_eq!(problem("\n[]"), (2, TraceProblem::NoObject));
    assert_eq!(
        problem(&format!("{}\n\nx", pretty("q", ""))),
        (13, TraceProblem::NoObject)
    );
    assert_eq!(problem("{\"name\": \"x\",\n"), (1 + 1, TraceProblem::CutOff));
    let (line, json) = problem("{\"rms\": 1,\n\n \"seq\": \"a\"}");
    assert!(
        matches!(json, TraceProblem::Json { column: 11, .. }) && line == 3,
        "{json:?}"
    );
    assert!(!json.to_string().contains(" at line "), "{json}");
    assert_eq!(problem("{}"), (1, TraceProblem::NoStage));
    assert_eq!(problem(r#"{"name":"a/","rms":1}"#), (1, TraceProblem::NoStage));
    assert_eq!(
        problem(r#"{"stage":"x","num_elements":1}"#),
        (1, TraceProblem::NothingToCompare)
    );
    assert_eq!(problem(r#"{"stage":"x","rms":1}"#), (1, TraceProblem::NoShape));
    assert_eq!(
        problem(&with(r#""blake3":"407a12f3...""#)),
        (1, TraceProblem::Hash)
    );
    assert_eq!(
        problem(&with(r#""blake3_of":"f8""#)),
        (1, TraceProblem::DType("f8".into()))
    );
    let number = |key: &'static str, n: i64| TraceProblem::Number {
        key,
        value: Shown::Integer(n),
    };
    for (text, expected) in [
        (r#""seq":-1"#, number("seq", -1)),
        (r#""layer":-3"#, number("layer", -3)),
        (r#""layer":3000000000"#, number("layer", 3_000_000_000)),
        (r#""request":-1"#, number("request", -1)),
        (r#""pass":9999999999"#, number("pass", 9_999_999_999)),
        (r#""op_index":-5"#, number("op_index", -5)),
        (r#""nan_count":2"#, number("nan_count", 2)),
        (r#""nan_count":1,"inf_count":1"#, number("inf_count", 2)),
        (
            r#""abs_max":-1.5"#,
            TraceProblem::Number {
                key: "abs_max",
                value: Shown::Real(-1.5),
            },
        ),
        (
            r#""shape":[2]"#,
            TraceProblem::Elements {
                found: 1,
                shape: vec![2],
            },
        ),
        (r#""shape":[-1,-1]"#, TraceProblem::Shape),
        (r#""shape":[9223372036854775807,2]"#, TraceProblem::Shape),
    ] {
        assert_eq!(problem(&with(text)), (1, expected), "{text}");
    }
    let dims = format!("\"shape\":[{}1]", "1,".repeat(64));
    assert_eq!(problem(&with(&dims)).1, TraceProblem::Shape);
    let op = format!("\"op\":\"{}\"", "x".repeat(5000));
    assert_eq!(
        problem(&with(&op)).1,
        TraceProblem::Text {
            key: "op",
            bytes: 5000
        }
    );
    assert!(
        problem(&with(r#""rms":-1"#))
            .1
            .to_string()
            .contains("duplicate field")
    );
    assert!(matches!(
        problem(&with(r#""mean":1e999"#)).1,
        TraceProblem::Json { .. }
    ));
}

#[test]
fn an_error_shows_where_it_is() {
    let error = read(&["\n\n{\"stage\": 3}"]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "line 3: not a record: invalid type: integer `3`, expected a string (column 11)"
    );
}

fn meta(stage: &str, dtype: DType, shape: Vec<i64>, stats: Stats) -> RecordMeta {
    RecordMeta {
        seq: 4,
        layer: 2,
        stage: stage.into(),
        name: "Qcur-2".into(),
        op: "MUL_MAT".into(),
        op_index: 9,
        request: 1,
        pass: 3,
        occurrence: 0,
        num_elements: shape.iter().product(),
        shape,
        dtype,
        blake3: HASH.into(),
        stats,
    }
}

#[test]
fn a_record_survives_its_line() {
    let full = Stats::of_f32(&[1.0, -2.5, f32::NAN, f32::INFINITY]);
    for (dtype, stats) in [
        (DType::F32, full),
        (DType::F16, full),
        (DType::I64, Stats::of_f32(&[f32::NAN; 4])),
    ] {
        let meta = meta("mine", dtype, vec![2, 2], stats);
        let line = TraceRecord::from(&meta).to_line();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(read(&[&line]).expect("valid"), [meta], "{line}");
    }
}

#[test]
fn a_line_begins_with_the_keys_of_the_older_crate() {
    let stats = Stats::of_f32(&[2.0]);
    let line = TraceRecord::from(&meta("q_proj", DType::F32, vec![1], stats)).to_line();
    let expected = format!(
        r#"{{"name":"Qcur-2","shape":[1],"dtype":"F32","blake3":"{HASH}","rms":2.0,"num_elements":1,"seq":4,"layer":2,"stage":"q_proj","#
    );
    assert!(line.starts_with(&expected), "{line}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = TraceFiles::new(StageGraph::builtin()).add(&bytes);
    }

    #[test]
    fn no_edit_of_a_file_makes_the_reader_panic(at in 0usize..200, byte: u8) {
        let mut text = pretty("t0/blk0/attn_norm", ",\"nan_count\": 1").into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let _ = TraceFiles::new(StageGraph::builtin()).add(&text);
    }
}
