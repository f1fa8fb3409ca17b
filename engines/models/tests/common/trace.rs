//! Reads a recorded run back with the plain Parquet reader, so that the tests share no code with the writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// One row of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub seq: i64,
    pub layer: i32,
    pub stage: String,
    pub pass: i32,
    pub op_index: i64,
    pub shape: Vec<i64>,
    pub values: Vec<f32>,
}

/// All records of the run in `dir`, in the order of (position, execution).
pub fn read_run(dir: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            read_part(&path, &mut records);
        }
    }
    records.sort_by_key(|record| (record.seq, record.op_index));
    records
}

fn read_part(path: &Path, records: &mut Vec<Record>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let (seq, op_index) = (column("seq").as_primitive::<Int64Type>(), column("op_index"));
        let op_index = op_index.as_primitive::<Int64Type>();
        let layer = column("layer").as_primitive::<Int32Type>();
        let pass = column("pass").as_primitive::<Int32Type>();
        let stage = column("stage").as_string::<i32>();
        let (shape, values) = (
            column("shape").as_list::<i32>(),
            column("values").as_list::<i32>(),
        );
        for row in 0..batch.num_rows() {
            records.push(Record {
                seq: seq.value(row),
                layer: layer.value(row),
                stage: stage.value(row).to_owned(),
                pass: pass.value(row),
                op_index: op_index.value(row),
                shape: shape.value(row).as_primitive::<Int64Type>().values().to_vec(),
                values: values.value(row).as_primitive::<Float32Type>().values().to_vec(),
            });
        }
    }
}

/// The records by key.
pub fn by_key(records: &[Record]) -> BTreeMap<(i64, i32, &str), &Record> {
    let map: BTreeMap<_, _> = records
        .iter()
        .map(|record| ((record.seq, record.layer, record.stage.as_str()), record))
        .collect();
    assert_eq!(map.len(), records.len(), "a key comes twice");
    map
}
