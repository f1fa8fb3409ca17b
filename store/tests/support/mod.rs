//! Runs made with the Parquet library's own writer, so that what is tested is a reader of the format and
//! not of the recorder's bytes.
#![allow(dead_code, missing_docs)] // each test binary uses its own part of it

use arrow_array::builder::{BinaryBuilder, Float32Builder, Int64Builder, ListBuilder};
use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Schema};
use bitnet_trace_schema::columns::{KEY_FORMAT_VERSION, KEY_RUN, arrow_schema};
use bitnet_trace_schema::{
    DType, Dropped, Engine, Manifest, Observation, Owner, PartEntry, Preset, RecordMeta, RunState, Settings,
    Stats, ValuesMode, Writer, run_dir,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnPath;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A record as it goes into a part.
#[derive(Debug, Clone)]
pub struct Record {
    pub meta: RecordMeta,
    pub values: Option<Vec<f32>>,
    pub raw: Option<Vec<u8>>,
}

/// An f32 record.
pub fn record(op_index: i64, seq: i64, layer: i32, stage: &str, values: &[f32]) -> Record {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Record {
        meta: RecordMeta {
            seq,
            layer,
            stage: stage.into(),
            name: format!("{stage}-{layer}").into(),
            op: "MUL_MAT".into(),
            op_index,
            request: 0,
            pass: 0,
            occurrence: 0,
            shape: vec![values.len() as i64],
            dtype: DType::F32,
            num_elements: values.len() as i64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
            stats: Stats::of_f32(values),
        },
        values: Some(values.to_vec()),
        raw: None,
    }
}

/// A few records of two tokens and two layers, in the order of execution.
pub fn records() -> Vec<Record> {
    let mut all = Vec::new();
    let mut op_index = 0;
    let mut add = |layer, stage: &str, n: usize| {
        for seq in 0..2 {
            let values: Vec<f32> = (0..n)
                .map(|i| i as f32 * 0.5 - seq as f32 + layer as f32)
                .collect();
            all.push(record(op_index, seq, layer, stage, &values));
        }
        op_index += 1;
    };
    add(-1, "embeddings", 8);
    for layer in 0..2 {
        add(layer, "attn_norm", 8);
        add(layer, "q_proj", 16);
        add(layer, "layer_out", 8);
    }
    add(-1, "logits", 33);
    all
}

/// The leaf column of `values`.
pub fn values_path() -> ColumnPath {
    ColumnPath::new(["values", "list", "element"].map(str::to_owned).to_vec())
}

/// The properties of a part.
pub fn properties(run: &str) -> WriterPropertiesBuilder {
    let key = |k: &str, v: &str| KeyValue::new(k.to_owned(), v.to_owned());
    let values = values_path();
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(values.clone(), false)
        .set_column_encoding(values, Encoding::PLAIN)
        .set_key_value_metadata(Some(vec![key(KEY_FORMAT_VERSION, "1"), key(KEY_RUN, run)]))
}

/// Records as a batch of the format's columns.
pub fn batch(records: &[Record]) -> RecordBatch {
    let schema = Arc::new(arrow_schema());
    let DataType::List(element) = schema.field(0).data_type() else {
        unreachable!("values is a list")
    };
    let mut values = ListBuilder::new(Float32Builder::new()).with_field(Arc::clone(element));
    let DataType::List(dim) = schema.field_with_name("shape").unwrap().data_type() else {
        unreachable!("shape is a list")
    };
    let mut shape = ListBuilder::new(Int64Builder::new()).with_field(Arc::clone(dim));
    let mut raw = BinaryBuilder::new();
    for r in records {
        if let Some(v) = &r.values {
            values.values().append_slice(v);
        }
        values.append(r.values.is_some());
        raw.append_option(r.raw.as_deref());
        shape.values().append_slice(&r.meta.shape);
        shape.append(true);
    }
    let text = |f: &dyn Fn(&RecordMeta) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(records.iter().map(|r| f(&r.meta))))
    };
    let int = |f: &dyn Fn(&RecordMeta) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(records.iter().map(|r| f(&r.meta))))
    };
    let small = |f: &dyn Fn(&RecordMeta) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(records.iter().map(|r| f(&r.meta))))
    };
    let moment = |f: &dyn Fn(&Stats) -> Option<f64>| -> ArrayRef {
        Arc::new(records.iter().map(|r| f(&r.meta.stats)).collect::<Float64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(values.finish()),
        Arc::new(raw.finish()),
        int(&|m| m.seq),
        small(&|m| m.layer),
        text(&|m| m.stage.to_string()),
        text(&|m| m.name.to_string()),
        text(&|m| m.op.to_string()),
        int(&|m| m.op_index),
        small(&|m| m.request),
        small(&|m| m.pass),
        small(&|m| m.occurrence),
        Arc::new(shape.finish()),
        text(&|m| m.dtype.name().into()),
        int(&|m| m.num_elements),
        text(&|m| m.blake3.clone()),
        moment(&|s| s.rms),
        moment(&|s| s.mean),
        moment(&|s| s.min),
        moment(&|s| s.max),
        moment(&|s| s.abs_max),
        int(&|m| m.stats.nan_count as i64),
        int(&|m| m.stats.inf_count as i64),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// A batch as a Parquet file.
pub fn file(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// A batch with a column changed, or left out.
pub fn with_column(batch: &RecordBatch, name: &str, column: Option<ArrayRef>) -> RecordBatch {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, old) in batch.schema().fields().iter().zip(batch.columns()) {
        let new = if field.name() == name {
            column.clone()
        } else {
            Some(Arc::clone(old))
        };
        if let Some(new) = new {
            let nullable = field.is_nullable() || new.null_count() > 0;
            fields.push(arrow_schema::Field::new(
                field.name(),
                new.data_type().clone(),
                nullable,
            ));
            columns.push(new);
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Records as a part of `run`.
pub fn part(run: &str, records: &[Record]) -> Vec<u8> {
    file(&batch(records), properties(run))
}

/// A manifest of a complete run without parts.
pub fn manifest(run: &str) -> Manifest {
    Manifest {
        format_version: 1,
        required_features: vec![],
        run: run.into(),
        state: RunState::Complete,
        failure: None,
        created_unix_ms: 1_000,
        finished_unix_ms: Some(2_000),
        owner: Owner {
            pid: u32::MAX,
            start_ticks: 0,
            boot_id: String::new(),
            host: String::new(),
        },
        writer: Writer {
            name: "test".into(),
            version: "0".into(),
        },
        engine: Engine::new("tester", "1"),
        command_line: vec![],
        model: None,
        settings: Settings::default(),
        prompt: None,
        prompt_tokens: None,
        sequences: vec![],
        values: ValuesMode::Full,
        preset: Preset::Default,
        queue_bytes: None,
        selection: None,
        imported: None,
        replay: None,
        observation: Observation::default(),
        records: 0,
        dropped: Dropped::default(),
        parts: vec![],
        recovery: None,
    }
}

/// Writes a complete run of the given parts (rows and bytes of each).
pub fn write_parts(db: &Path, run: &str, parts: &[(usize, Vec<u8>)]) -> PathBuf {
    write_run(db, run, parts, |_| {})
}

/// Writes a complete run of `records` in one part.
pub fn write(db: &Path, run: &str, records: &[Record]) -> PathBuf {
    write_parts(db, run, &[(records.len(), part(run, records))])
}

/// Writes a run whose manifest is changed by `edit`.
pub fn write_run(
    db: &Path,
    run: &str,
    parts: &[(usize, Vec<u8>)],
    edit: impl FnOnce(&mut Manifest),
) -> PathBuf {
    let dir = db.join(run_dir::dir_name(run));
    std::fs::create_dir_all(&dir).unwrap();
    let mut manifest = manifest(run);
    for (i, (rows, bytes)) in parts.iter().enumerate() {
        let file = run_dir::part_name(i as u32);
        std::fs::write(dir.join(&file), bytes).unwrap();
        manifest.records += *rows as u64;
        manifest.parts.push(PartEntry {
            file,
            rows: *rows as u64,
            bytes: bytes.len() as u64,
        });
    }
    edit(&mut manifest);
    std::fs::write(dir.join(run_dir::MANIFEST), manifest.to_json()).unwrap();
    dir
}

/// A fresh folder.
pub fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Every kind of row.
pub fn kinds() -> Vec<Record> {
    let mut all = records()[..4].to_vec();
    all.push(record(9, 0, 0, "empty", &[]));
    all[1].values = None;
    let mut raw = record(10, 0, 0, "raw", &[]);
    (raw.meta.dtype, raw.meta.shape, raw.meta.num_elements) = (DType::F64, vec![2], 2);
    (raw.values, raw.raw) = (None, Some(vec![7; 16]));
    all.push(raw);
    let mut packed = record(11, 0, 0, "packed", &[]);
    (packed.meta.dtype, packed.meta.shape, packed.meta.num_elements) = (DType::Q4_0, vec![32], 32);
    (packed.values, packed.raw) = (None, Some(vec![7; 18]));
    all.push(packed);
    all
}
