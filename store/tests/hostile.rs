//! Parts and manifests that are damaged, foreign or malicious: an error each, and never a panic.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use arrow_array::{ArrayRef, Int32Array, Int64Array, ListArray, StringArray};
use bitnet_trace_schema::columns::{KEY_FORMAT_VERSION, KEY_RUN};
use bitnet_trace_schema::{DType, ManifestError};
use bitnet_trace_store::{Filter, Run, StoreError};
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterVersion;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::*;

/// The error of a run whose only part has these bytes (and, as far as the manifest says, `rows` rows).
fn error_of(rows: usize, bytes: Vec<u8>) -> StoreError {
    let dir = temp();
    let run = write_parts(dir.path(), "a", &[(rows, bytes)]);
    let error = Run::open(run).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("part-00000.parquet") && !message.contains('\n'),
        "{message}"
    );
    error
}

fn error_of_records(records: &[Record]) -> StoreError {
    error_of(records.len(), part("a", records))
}

fn error_of_column(name: &str, column: Option<ArrayRef>) -> (String, String) {
    let bytes = file(&with_column(&batch(&records()), name, column), properties("a"));
    match error_of(16, bytes) {
        StoreError::Column { column, problem, .. } => (column, problem),
        other => panic!("{other}"),
    }
}

/// The run under a name that gets no index: these tests open it thousands of times.
fn alone(run: &Path) -> PathBuf {
    let to = run.with_file_name("alone");
    std::fs::rename(run, &to).unwrap();
    to
}

/// Writes a file anew: ext4 waits for the disk when a file is cut to nothing and written again.
fn rewrite(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

/// Opens the run and touches everything; any error will do.
fn read_all(run: &Path) -> Result<(), StoreError> {
    let run = Run::open(run)?;
    for row in run.records(&Filter::default()) {
        let tensor = run.tensor(&row)?;
        std::hint::black_box((tensor.values().map(|v| v.iter().sum::<f32>()), tensor.to_f64()));
    }
    Ok(())
}

#[test]
fn files_that_are_no_parquet_are_refused() {
    assert!(matches!(error_of(0, vec![]), StoreError::EmptyPart { .. }));
    assert!(matches!(error_of(1, b"PA".to_vec()), StoreError::CutOff { .. }));
    assert!(matches!(
        error_of(1, b"hello, world".to_vec()),
        StoreError::NotParquet { .. }
    ));
    assert!(matches!(
        error_of(1, b"PAR1 hello, world".to_vec()),
        StoreError::CutOff { .. }
    ));
    assert!(matches!(
        error_of(1, b"PAR1\xff\xff\xff\xffPAR1".to_vec()),
        StoreError::Footer { .. }
    ));
    assert!(matches!(
        error_of(1, b"PAR1\0\0\0\0PAR1".to_vec()),
        StoreError::Footer { .. }
    ));
    assert!(matches!(
        error_of(1, b"PAR1junk\x04\0\0\0PAR1".to_vec()),
        StoreError::Footer { .. }
    ));
}

#[test]
fn a_directory_in_place_of_a_part_is_refused() {
    let dir = temp();
    let run = write(dir.path(), "a", &records());
    std::fs::remove_file(run.join("part-00000.parquet")).unwrap();
    std::fs::create_dir(run.join("part-00000.parquet")).unwrap();
    assert!(matches!(Run::open(run), Err(StoreError::NotParquet { .. })));
}

#[test]
fn a_part_cut_off_at_any_byte_is_refused() {
    let dir = temp();
    let whole = part("a", &records()[..3]);
    // The manifest is silent about parts, as a live one may be, so that only the part can tell.
    let run = write_run(dir.path(), "a", &[(3, whole.clone())], |m| {
        m.state = bitnet_trace_schema::RunState::Recording;
        m.owner.pid = std::process::id();
        m.parts.clear();
    });
    let run = alone(&run);
    read_all(&run).unwrap();
    for length in 0..whole.len() {
        rewrite(&run.join("part-00000.parquet"), &whole[..length]);
        assert!(Run::open(&run).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn a_part_that_is_not_as_long_as_its_manifest_says_is_refused() {
    let dir = temp();
    let run = write(dir.path(), "a", &records());
    let path = run.join("part-00000.parquet");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, whole.len() / 2, whole.len() - 1, whole.len() + 1] {
        let mut bytes = whole.clone();
        bytes.resize(length, 0);
        std::fs::write(&path, bytes).unwrap();
        let error = Run::open(&run).unwrap_err();
        assert!(matches!(error, StoreError::PartSize { .. }), "{error}");
    }
    assert!(matches!(
        error_of(15, whole),
        StoreError::PartRows {
            listed: 15,
            found: 16,
            ..
        }
    ));
}

#[test]
fn parts_of_other_runs_and_versions_are_refused() {
    let error = error_of(16, part("b", &records()));
    assert!(
        matches!(error, StoreError::OtherRun { ref found, .. } if found == "b"),
        "{error}"
    );
    let keyed = |version: Option<&str>| {
        let mut keys = vec![KeyValue::new(KEY_RUN.to_owned(), "a".to_owned())];
        keys.extend(version.map(|v| KeyValue::new(KEY_FORMAT_VERSION.to_owned(), v.to_owned())));
        error_of(
            16,
            file(
                &batch(&records()),
                properties("a").set_key_value_metadata(Some(keys)),
            ),
        )
    };
    assert!(keyed(Some("2")).to_string().contains("\"2\""));
    assert!(matches!(keyed(Some("2")), StoreError::Version { .. }));
    assert!(keyed(None).to_string().contains("not a part of a run"));
}

#[test]
fn values_that_cannot_be_read_in_place_are_refused() {
    let bytes = |p: parquet::file::properties::WriterPropertiesBuilder| file(&batch(&records()), p);
    let path = values_path;
    for (why, properties) in [
        (
            "compressed",
            properties("a").set_column_compression(path(), Compression::ZSTD(Default::default())),
        ),
        (
            "dictionary",
            properties("a").set_column_dictionary_enabled(path(), true),
        ),
        (
            "version 1",
            properties("a").set_writer_version(WriterVersion::PARQUET_1_0),
        ),
        (
            "plain encoding",
            properties("a").set_column_encoding(path(), Encoding::BYTE_STREAM_SPLIT),
        ),
    ] {
        match error_of(16, bytes(properties)) {
            StoreError::Layout { problem, .. } => assert!(problem.contains(why), "{problem}"),
            other => panic!("{why}: {other}"),
        }
    }
}

#[test]
fn a_missing_or_wrongly_typed_column_is_named() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0; 16]));
    let small: ArrayRef = Arc::new(Int32Array::from(vec![0; 16]));
    for column in bitnet_trace_schema::columns::scalar_fields() {
        let name = column.name();
        assert_eq!(error_of_column(name, None), (name.clone(), "is missing".into()));
        let wrong = if matches!(name.as_str(), "layer" | "request" | "pass" | "occurrence") {
            &numbers
        } else {
            &small
        };
        let (found, problem) = error_of_column(name, Some(Arc::clone(wrong)));
        assert!(
            found == *name && problem.contains("has the type"),
            "{name}: {problem}"
        );
    }
    assert_eq!(error_of_column("values", None).0, "values");
    assert!(error_of_column("values", Some(small)).1.contains("floats"));
    let optional = ListArray::from_iter_primitive::<arrow_array::types::Float32Type, _, _>(
        (0..16).map(|_| Some(vec![Some(1.0), None])),
    );
    assert!(
        error_of_column("values", Some(Arc::new(optional)))
            .1
            .contains("required")
    );
    let dims = ListArray::from_iter_primitive::<arrow_array::types::Int64Type, _, _>(
        (0..16).map(|_| Some(vec![None])),
    );
    assert_eq!(error_of_column("shape", Some(Arc::new(dims))).1, "has nulls");
    let nulls: ArrayRef = Arc::new((0..16).map(|i| (i > 3).then_some(i)).collect::<Int64Array>());
    assert_eq!(
        error_of_column("seq", Some(nulls)),
        ("seq".into(), "has nulls".into())
    );
}

#[test]
fn texts_that_are_not_what_their_column_holds_are_refused() {
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; 16])) };
    assert!(
        error_of_column("dtype", Some(texts("Q9_9")))
            .1
            .contains("unknown dtype \"Q9_9\"")
    );
    assert!(
        error_of_column("blake3", Some(texts("abc")))
            .1
            .contains("64 hex digits in row 0")
    );
    assert!(
        error_of_column("stage", Some(texts(&"x".repeat(5000))))
            .1
            .contains("5000 bytes")
    );
    let negative: ArrayRef = Arc::new(Int64Array::from(vec![-1; 16]));
    assert!(
        error_of_column("nan_count", Some(negative))
            .1
            .contains("negative")
    );
}

#[test]
fn rows_that_contradict_themselves_are_refused() {
    let bent = |bend: &dyn Fn(&mut Record)| {
        let mut all = records();
        bend(&mut all[5]);
        match error_of_records(&all) {
            StoreError::Row { row: 5, problem, .. } => problem,
            other => panic!("{other}"),
        }
    };
    assert!(bent(&|r| r.meta.num_elements += 1).contains("shape"));
    assert!(bent(&|r| r.meta.shape = vec![-1, -8]).contains("shape"));
    assert!(bent(&|r| r.meta.shape = vec![i64::MAX, 3]).contains("shape"));
    assert!(bent(&|r| r.values = Some(vec![1.0])).contains("`values` holds 1"));
    assert!(bent(&|r| r.meta.dtype = DType::F64).contains("f32 does not hold"));
    assert!(bent(&|r| r.raw = Some(vec![1])).contains("belongs in `values`"));
    assert!(
        bent(&|r| (r.values, r.raw, r.meta.dtype) = (None, Some(vec![1]), DType::F64)).contains("1 bytes")
    );
    assert!(bent(&|r| r.meta.stats.nan_count = 1 << 40).contains("exceed"));
}

#[test]
fn hostile_manifests_are_refused() {
    let dir = temp();
    let run = write(dir.path(), "a", &records());
    let path = run.join("run.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bent = |bend: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        bend(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
        Run::open(&run).unwrap_err()
    };
    let source = |e: StoreError| match e {
        StoreError::Manifest { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(
        source(bent(&|v| v["format_version"] = 9.into())),
        ManifestError::Version(9)
    ));
    assert!(matches!(
        source(bent(&|v| v["run"] = "../../etc".into())),
        ManifestError::RunName(_)
    ));
    assert!(matches!(
        source(bent(&|v| v["parts"][0]["file"] = "/etc/passwd".into())),
        ManifestError::PartName(_)
    ));
    assert!(matches!(
        source(bent(&|v| v["records"] = (-1).into())),
        ManifestError::Json(_)
    ));
    let twice = bent(&|v| v["parts"] = serde_json::json!([v["parts"][0], v["parts"][0]]));
    assert!(matches!(twice, StoreError::PartName { problem: "twice", .. }));
    assert!(matches!(
        bent(&|v| v["parts"][0]["file"] = "part-000000.parquet".into()),
        StoreError::PartName { .. }
    ));
    assert!(matches!(
        bent(&|v| v["parts"][0]["bytes"] = u64::MAX.into()),
        StoreError::PartSize { .. }
    ));
    for text in [&b""[..], b"\xff\xfe", b"null", &b"[".repeat(100_000)] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(
            source(Run::open(&run).unwrap_err()),
            ManifestError::Json(_)
        ));
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(Run::open(&run), Err(StoreError::ManifestSize { .. })));
}

/// A small part of every kind of row.
fn small_part() -> Vec<u8> {
    part("a", &kinds())
}

#[test]
fn any_bit_of_a_part_may_be_wrong() {
    let dir = temp();
    let whole = small_part();
    let run = alone(&write_parts(dir.path(), "a", &[(6, whole.clone())]));
    let path = run.join("part-00000.parquet");
    let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
    // Every bit of the page headers and levels of `values`, and every third byte of the rest.
    for at in (0..400)
        .chain((400..whole.len()).step_by(3))
        .chain(whole.len() - 40..whole.len())
    {
        let bits = if at < 400 || at > whole.len() - footer - 8 {
            &[0, 3, 7][..]
        } else {
            &[5][..]
        };
        for bit in bits {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            rewrite(&path, &bytes);
            let _ = read_all(&run);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_bytes_of_a_part_may_be_wrong(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        in_footer: bool,
    ) {
        let dir = temp();
        let mut bytes = small_part();
        let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
        let start = if in_footer { bytes.len() - 8 - footer } else { 0 };
        for (at, byte) in edits {
            let at = start + at.index(bytes.len() - start);
            bytes[at] = byte;
        }
        let run = alone(&write_parts(dir.path(), "a", &[(6, bytes)]));
        let _ = read_all(&run);
    }
}
