//! Reads runs back with the parquet crate, which shares no code with the hand-written pages.
#![allow(dead_code)] // each test file uses its own part of it

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use bitnet_trace_schema::{DType, Manifest, RecordMeta, Stats, columns, quant, run_dir};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A row as a stranger reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub meta: RecordMeta,
    pub values: Option<Vec<f32>>,
    pub raw: Option<Vec<u8>>,
}

pub fn manifest(run: &Path) -> Manifest {
    let text = std::fs::read(run.join(run_dir::MANIFEST)).expect("a manifest");
    Manifest::from_json(&text).expect("a valid manifest")
}

/// The sealed parts that the manifest lists, which are all that there are.
pub fn parts(run: &Path) -> Vec<PathBuf> {
    let mut found: Vec<String> = (std::fs::read_dir(run).expect("a directory"))
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|n| n != run_dir::MANIFEST)
        .collect();
    found.sort();
    let listed: Vec<String> = manifest(run).parts.into_iter().map(|p| p.file).collect();
    assert_eq!(found, listed, "files of the run and parts of its manifest");
    listed.into_iter().map(|f| run.join(f)).collect()
}

/// Every record of a run, part by part.
pub fn read(run: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for part in parts(run) {
        let file = File::open(&part).expect("a part");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file");
        assert_eq!(
            **reader.schema(),
            arrow_schema_of(&reader),
            "schema of {}",
            part.display()
        );
        for batch in reader.with_batch_size(37).build().expect("a reader") {
            rows(&batch.expect("a batch"), &mut records);
        }
    }
    assert_eq!(records.len() as u64, manifest(run).records);
    records
}

fn arrow_schema_of<T>(reader: &ParquetRecordBatchReaderBuilder<T>) -> arrow_schema::Schema
where
    T: parquet::file::reader::ChunkReader + 'static,
{
    columns::arrow_schema().with_metadata(reader.schema().metadata().clone())
}

fn rows(batch: &RecordBatch, out: &mut Vec<Record>) {
    let column = |name: &str| batch.column_by_name(name).expect("a column");
    let long = |name: &str, i| column(name).as_primitive::<Int64Type>().value(i);
    let int = |name: &str, i| column(name).as_primitive::<Int32Type>().value(i);
    let text = |name: &str, i| column(name).as_string::<i32>().value(i).to_owned();
    let double = |name: &str, i| {
        let column = column(name).as_primitive::<Float64Type>();
        (!column.is_null(i)).then(|| column.value(i))
    };
    for i in 0..batch.num_rows() {
        let (values, raw) = (
            column("values").as_list::<i32>(),
            column("raw").as_binary::<i32>(),
        );
        out.push(Record {
            meta: RecordMeta {
                seq: long("seq", i),
                layer: int("layer", i),
                stage: text("stage", i).into(),
                name: text("name", i).into(),
                op: text("op", i).into(),
                op_index: long("op_index", i),
                request: int("request", i),
                pass: int("pass", i),
                occurrence: int("occurrence", i),
                shape: column("shape")
                    .as_list::<i32>()
                    .value(i)
                    .as_primitive::<Int64Type>()
                    .values()
                    .to_vec(),
                dtype: text("dtype", i).parse::<DType>().expect("a dtype"),
                num_elements: long("num_elements", i),
                blake3: text("blake3", i),
                stats: Stats {
                    rms: double("rms", i),
                    mean: double("mean", i),
                    min: double("min", i),
                    max: double("max", i),
                    abs_max: double("abs_max", i),
                    nan_count: long("nan_count", i) as u64,
                    inf_count: long("inf_count", i) as u64,
                },
            },
            values: (!values.is_null(i))
                .then(|| values.value(i).as_primitive::<Float32Type>().values().to_vec()),
            raw: (!raw.is_null(i)).then(|| raw.value(i).to_vec()),
        });
    }
}

/// Checks what a record says of its own elements; `bytes` are the original ones.
pub fn check_record(record: &Record, bytes: &[u8]) {
    assert_eq!(record.meta.blake3, blake3::hash(bytes).to_hex().to_string());
    assert_eq!(
        record.meta.num_elements,
        record.meta.shape.iter().product::<i64>()
    );
    let size = record.meta.dtype.bytes(record.meta.num_elements as u64);
    assert_eq!(size, Some(bytes.len() as u64));
    if let Some(values) = quant::dequantized(record.meta.dtype, bytes) {
        assert_eq!(record.meta.stats, Stats::of_f32(&values));
    }
    if let Some(values) = &record.values {
        assert_eq!(record.meta.stats, Stats::of_f32(values));
    }
}
