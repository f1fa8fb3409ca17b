//! Records as `.npy` and `.trace` files.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bitnet_trace_schema::{DType, StageGraph};
use bitnet_trace_store::export::{Existing, ExportError, npy, npy_files, trace};
use bitnet_trace_store::{Filter, Row, Run, Traces};
use std::collections::BTreeSet;
use std::path::Path;
use support::{Record, record, records, write};

/// Header and array of an `.npy` file.
fn parts(path: &Path) -> (String, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + length) % 64, 0, "the array is aligned");
    let header = String::from_utf8(bytes[10..10 + length].to_vec()).unwrap();
    assert!(header.ends_with('\n'));
    (header.trim_end().to_owned(), bytes[10 + length..].to_vec())
}

fn opened(dir: &Path, records: &[Record]) -> (Run, Vec<Row>) {
    let run = Run::open(write(dir, "a", records)).unwrap();
    let rows = run.records(&Filter::default());
    (run, rows)
}

/// A record of another dtype, with its elements as the format keeps them.
fn of(dtype: DType, shape: &[i64], values: Option<&[f32]>, raw: Option<Vec<u8>>) -> Record {
    let mut r = record(0, 3, 6, "x", values.unwrap_or_default());
    r.meta.dtype = dtype;
    r.meta.shape = shape.to_vec();
    r.meta.num_elements = shape.iter().product();
    r.values = values.map(<[f32]>::to_vec);
    r.raw = raw;
    r
}

#[test]
fn every_dtype_becomes_the_one_that_numpy_has_for_it() {
    let half: Vec<u8> = [0x3c00u16, 0x0001, 0xfc00]
        .iter()
        .flat_map(|h| h.to_le_bytes())
        .collect();
    let smallest = 2f32.powi(-24);
    type Case<'a> = (DType, Option<&'a [f32]>, Option<Vec<u8>>, &'a str, Vec<u8>);
    let cases: [Case<'_>; 10] = [
        (
            DType::F32,
            Some(&[1.5, -0.0, f32::INFINITY]),
            None,
            "<f4",
            floats(&[1.5, -0.0, f32::INFINITY]),
        ),
        (
            DType::BF16,
            Some(&[1.5, 2.0, 3.0]),
            None,
            "<f4",
            floats(&[1.5, 2.0, 3.0]),
        ),
        (
            DType::F16,
            Some(&[1.0, smallest, f32::NEG_INFINITY]),
            None,
            "<f2",
            half,
        ),
        (
            DType::I8,
            Some(&[-128.0, 0.0, 127.0]),
            None,
            "|i1",
            vec![0x80, 0, 0x7f],
        ),
        (
            DType::I16,
            Some(&[-32768.0, 1.0, 2.0]),
            None,
            "<i2",
            vec![0, 0x80, 1, 0, 2, 0],
        ),
        (
            DType::U8,
            Some(&[0.0, 200.0, 255.0]),
            None,
            "|u1",
            vec![0, 200, 255],
        ),
        (DType::Bool, Some(&[0.0, 1.0, 1.0]), None, "|b1", vec![0, 1, 1]),
        (
            DType::F64,
            None,
            Some((0..24).collect()),
            "<f8",
            (0..24).collect(),
        ),
        (
            DType::I64,
            None,
            Some((0..24).collect()),
            "<i8",
            (0..24).collect(),
        ),
        (
            DType::I32,
            None,
            Some((0..12).collect()),
            "<i4",
            (0..12).collect(),
        ),
    ];
    for (dtype, values, raw, descr, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (run, rows) = opened(dir.path(), &[of(dtype, &[3], values, raw)]);
        let path = dir.path().join("x.npy");
        let exported = npy(&run, &rows[0], &path, Existing::Keep).unwrap();
        let (header, bytes) = parts(&path);
        assert_eq!(bytes, expected, "{dtype}");
        assert_eq!(
            header,
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,), }}")
        );
        assert_eq!(exported.bytes, path.metadata().unwrap().len());
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn shapes_are_python_tuples() {
    for (shape, tuple) in [
        (&[][..], "()"),
        (&[1], "(1,)"),
        (&[2, 3], "(2, 3)"),
        (&[0, 4], "(0, 4)"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let n = shape.iter().product::<i64>() as usize;
        let (run, rows) = opened(dir.path(), &[of(DType::F32, shape, Some(&vec![1.0; n]), None)]);
        let path = dir.path().join("x.npy");
        npy(&run, &rows[0], &path, Existing::Keep).unwrap();
        let (header, bytes) = parts(&path);
        assert!(header.contains(&format!("'shape': {tuple}, ")), "{header}");
        assert_eq!(bytes.len(), 4 * n);
    }
}

#[test]
fn every_record_gets_a_file_of_its_own_inside_the_folder() {
    let mut all = records();
    for (i, stage) in [
        "../../up",
        "/etc/passwd",
        "..",
        "a/b",
        "a\\b",
        "a:b",
        "nul\0",
        "ü\u{202e}",
        "A-B",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        all.push(record(100 + i as i64, 7, -2, stage, &[i as f32]));
    }
    all.push(record(200, 7, -2, &"long".repeat(1000), &[1.0]));
    for (pass, occurrence) in [(1, 0), (1, 1), (2, 0)] {
        let mut again = record(300, 0, 0, "q_proj", &[1.0]);
        (again.meta.pass, again.meta.occurrence) = (pass, occurrence);
        all.push(again);
    }
    let mut other = record(400, 0, 0, "q_proj", &[1.0]);
    other.meta.request = 5;
    all.push(other);
    let dir = tempfile::tempdir().unwrap();
    let (run, rows) = opened(&dir.path().join("db"), &all);
    let into = dir.path().join("x/npy");
    let exported = npy_files(&run, &rows, &into, Existing::Keep).unwrap();
    let on_disk: BTreeSet<String> = std::fs::read_dir(&into)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(on_disk.len(), all.len());
    assert!(exported.iter().all(|e| e.path.parent() == Some(&into)));
    let plain = |name: &String| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    assert!(on_disk.iter().all(plain), "{on_disk:?}");
    for name in [
        "request0_seq00000_layer-01_embeddings.npy",
        "request0_seq00000_layer000_q_proj_pass1_1.npy",
        "request0_seq00007_layer-02_..-..-up.npy",
        "request0_seq00007_layer-02_a-b_pass0-2.npy",
    ] {
        assert!(on_disk.contains(name), "{name}: {on_disk:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "db and x");
    for (row, file) in rows.iter().zip(&exported) {
        let (_, bytes) = parts(&file.path);
        assert_eq!(
            Some(&*floats(run.tensor(row).unwrap().values().unwrap())),
            Some(&*bytes)
        );
    }
}

#[test]
fn files_that_exist_are_kept_unless_they_are_to_be_replaced_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (run, rows) = opened(&dir.path().join("db"), &records());
    let (file, link, victim) = (
        dir.path().join("a.npy"),
        dir.path().join("b.npy"),
        dir.path().join("victim"),
    );
    std::fs::write(&file, "mine").unwrap();
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    for path in [&file, &link] {
        let kept = npy(&run, &rows[0], path, Existing::Keep);
        assert!(matches!(kept, Err(ExportError::Exists { .. })), "{kept:?}");
        npy(&run, &rows[0], path, Existing::Replace).unwrap();
        parts(path);
    }
    assert!(
        link.symlink_metadata().unwrap().is_file(),
        "the link was replaced"
    );
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");

    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    std::os::unix::fs::symlink(
        dir.path().join("absent"),
        into.join("seq00001_layer-01_logits.npy"),
    )
    .unwrap();
    let kept = npy_files(&run, &rows, &into, Existing::Keep);
    assert!(matches!(kept, Err(ExportError::Exists { .. })), "{kept:?}");
    assert_eq!(
        std::fs::read_dir(&into).unwrap().count(),
        1,
        "found before anything is written"
    );
    npy_files(&run, &rows, &into, Existing::Replace).unwrap();
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), rows.len());
    assert!(!dir.path().join("absent").exists());
}

#[test]
fn a_record_without_values_and_a_folder_that_cannot_be_written_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = records();
    all[3].values = None;
    let (run, rows) = opened(&dir.path().join("db"), &all);
    let into = dir.path().join("into");
    let none = npy_files(&run, &rows, &into, Existing::Keep).unwrap_err();
    assert_eq!(
        none.to_string(),
        "seq=0, layer=0, stage=q_proj of the run a has no values: it was recorded with statistics only, or imported"
            .replace("seq=0, layer=0, stage=q_proj", &shown(&rows))
    );
    assert!(!into.exists());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = npy(&run, &rows[0], &file.join("x.npy"), Existing::Keep);
    assert!(matches!(refused, Err(ExportError::Io { .. })), "{refused:?}");
    let refused = npy_files(&run, &rows[..1], &file, Existing::Replace);
    assert!(matches!(refused, Err(ExportError::Io { .. })), "{refused:?}");
}

fn shown(rows: &[Row]) -> String {
    let m = &rows.iter().find(|r| !r.has_elements()).unwrap().meta;
    format!("seq={}, layer={}, stage={}", m.seq, m.layer, m.stage)
}

#[test]
fn a_trace_file_holds_what_can_be_told_of_each_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = records();
    all.push(of(DType::I64, &[3], None, Some((0..24).collect())));
    all.push(record(50, 9, 0, "nan", &[f32::NAN, f32::INFINITY]));
    let (_, rows) = opened(&dir.path().join("db"), &all);
    let path = dir.path().join("all.trace");
    let exported = trace(&rows, &path, Existing::Keep).unwrap();
    assert_eq!(exported.bytes, path.metadata().unwrap().len());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), rows.len());
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    for key in ["name", "shape", "dtype", "blake3", "rms", "seq", "layer", "stage"] {
        assert!(first.get(key).is_some(), "{key}");
    }
    let read = Traces::read(&[&path], StageGraph::builtin()).unwrap();
    let mut expected: Vec<_> = rows.iter().map(|r| r.meta.clone()).collect();
    expected.sort_by_key(|m| m.op_index);
    assert_eq!(read.records, expected);
    assert!(matches!(
        trace(&rows, &path, Existing::Keep),
        Err(ExportError::Exists { .. })
    ));
}
