//! The writer thread: hash, statistics and pages of mixed sizes, against what writes the same bytes.

use crate::table::{Row, medians};
use arrow_array::builder::{BinaryBuilder, Float32Builder, Int64Builder, ListBuilder};
use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use bitnet_trace::{Recorder, Tap, bytes_of};
use bitnet_trace_schema::{Stats, columns};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Sizes of a forward call's tensors in floats: scores, vectors, feed-forward rows, logits.
const SIZES: [usize; 8] = [9, 576, 576, 576, 1536, 2560, 6912, 49_152];
const TOTAL: usize = 256 << 20;
const ROUNDS: usize = 7;

/// Stage, layer, position and elements of every record.
fn tensors(source: &[f32]) -> Vec<(usize, i64, &[f32])> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for seq in 0.. {
        for layer in 0..4 {
            for (i, &size) in SIZES.iter().enumerate() {
                let start = (seq * 7 + layer * 131 + i * 17) % (source.len() - size);
                all.push((i, seq as i64, &source[start..start + size]));
                bytes += size * 4;
            }
        }
        if bytes >= TOTAL {
            return all;
        }
    }
    all
}

pub fn rows(dir: &Path) -> Fallible<Vec<Row>> {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let source: Vec<f32> = (0..1 << 20)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect();
    let tensors = tensors(&source);
    let bytes: usize = tensors.iter().map(|t| t.2.len() * 4).sum();
    let (mut raw, mut arrow) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ours = record(dir, &tensors)?;
        raw.push((raw_writes(dir, &tensors)?, ours));
        arrow.push((arrow_writer(dir, &tensors)?, ours));
    }
    let speed = |seconds: f64| bytes as f64 / seconds / 1e9;
    let row = |pairs: &[(f64, f64)], reach: &str, least: f64| {
        let (theirs, ours, ratio) = medians(pairs);
        Row {
            what: format!(
                "writer thread with blake3 and statistics, {} tensors of 9 to 49152 floats, {} MiB, to the disk",
                tensors.len(),
                bytes >> 20
            ),
            reach: reach.into(),
            measured: format!(
                "{ratio:.2} × ({:.2} GB/s; {:.2} GB/s)",
                speed(ours),
                speed(theirs)
            ),
            reached: ratio >= least,
        }
    };
    Ok(vec![
        row(&raw, "≥ 0.6 × raw write() of the same bytes", 0.6),
        row(&arrow, "≥ 1.5 × arrow-rs' ArrowWriter doing the same", 1.5),
    ])
}

/// All of them at once in the queue, so that the writer never waits for them; until the run is sealed and on the disk.
fn record(dir: &Path, tensors: &[(usize, i64, &[f32])]) -> Fallible<f64> {
    let tmp = tempfile::tempdir_in(dir)?;
    let recorder = Recorder::builder(tmp.path())
        .run("writer")
        .queue_bytes(2 * TOTAL)
        .build()?;
    let start = Instant::now();
    for &(stage, seq, values) in tensors {
        recorder.record(Tap::new(STAGES[stage], 0, seq), values);
    }
    recorder.finish()?;
    Ok(start.elapsed().as_secs_f64())
}

const STAGES: [&str; 8] = [
    "attn_scores",
    "attn_norm",
    "q_proj",
    "attn_out",
    "ffn_gate",
    "layer_out",
    "ffn_up",
    "logits",
];

/// One write a tensor, and to the disk.
fn raw_writes(dir: &Path, tensors: &[(usize, i64, &[f32])]) -> Fallible<f64> {
    let tmp = tempfile::tempdir_in(dir)?;
    let start = Instant::now();
    let mut file = File::create(tmp.path().join("raw"))?;
    for &(_, _, values) in tensors {
        file.write_all(bytes_of(values))?;
    }
    file.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The same columns, in batches of a mebibyte and row groups of 64 MiB, and to the disk.
fn arrow_writer(dir: &Path, tensors: &[(usize, i64, &[f32])]) -> Fallible<f64> {
    let tmp = tempfile::tempdir_in(dir)?;
    let start = Instant::now();
    // what nobody would want of values that hardly repeat
    let schema = Arc::new(columns::arrow_schema());
    let element = field(&schema, "values").name().clone();
    let values = ColumnPath::new(vec!["values".into(), "list".into(), element]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(values.clone(), false)
        .set_column_statistics_enabled(values, EnabledStatistics::None)
        .build();
    let file = File::create(tmp.path().join("arrow.parquet"))?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
    let (mut at, mut group) = (0, 0);
    while at < tensors.len() {
        let (mut end, mut bytes) = (at, 0);
        while end < tensors.len() && bytes < 1 << 20 {
            bytes += tensors[end].2.len() * 4;
            end += 1;
        }
        writer.write(&batch(&schema, &tensors[at..end], at)?)?;
        (at, group) = (end, group + bytes);
        if group >= 64 << 20 {
            writer.flush()?;
            group = 0;
        }
    }
    writer.into_inner()?.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

fn batch(
    schema: &Arc<arrow_schema::Schema>,
    tensors: &[(usize, i64, &[f32])],
    first: usize,
) -> Fallible<RecordBatch> {
    let rows = tensors.len();
    let (mut hashes, mut stats) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut values = ListBuilder::new(Float32Builder::new()).with_field(field(schema, "values"));
    let mut shapes = ListBuilder::new(Int64Builder::new()).with_field(field(schema, "shape"));
    let mut raw = BinaryBuilder::new();
    for &(_, _, tensor) in tensors {
        hashes.push(blake3::hash(bytes_of(tensor)).to_hex().to_string());
        stats.push(Stats::of_f32(tensor));
        values.values().append_slice(tensor);
        values.append(true);
        shapes.values().append_value(tensor.len() as i64);
        shapes.append(true);
        raw.append_null();
    }
    let (mut values, mut shapes, mut raw): (Option<ArrayRef>, Option<ArrayRef>, Option<ArrayRef>) = (
        Some(Arc::new(values.finish())),
        Some(Arc::new(shapes.finish())),
        Some(Arc::new(raw.finish())),
    );
    let number = |f: &dyn Fn(usize) -> i64| -> ArrayRef {
        Arc::new((0..rows).map(|i| Some(f(i))).collect::<Int64Array>())
    };
    let moment = |f: fn(&Stats) -> Option<f64>| -> ArrayRef {
        Arc::new(stats.iter().map(f).collect::<Float64Array>())
    };
    let mut columns: Vec<ArrayRef> = Vec::new();
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            "seq" => number(&|i| tensors[i].1),
            "op_index" => number(&|i| (first + i) as i64),
            "num_elements" => number(&|i| tensors[i].2.len() as i64),
            "nan_count" => number(&|i| stats[i].nan_count as i64),
            "inf_count" => number(&|i| stats[i].inf_count as i64),
            "rms" => moment(|s| s.rms),
            "mean" => moment(|s| s.mean),
            "min" => moment(|s| s.min),
            "max" => moment(|s| s.max),
            "abs_max" => moment(|s| s.abs_max),
            "stage" => Arc::new(StringArray::from_iter_values(tensors.iter().map(|t| STAGES[t.0]))),
            "blake3" => Arc::new(StringArray::from_iter_values(&hashes)),
            "dtype" => Arc::new(StringArray::from(vec!["F32"; rows])),
            "values" => values.take().ok_or("values twice")?,
            "shape" => shapes.take().ok_or("shape twice")?,
            "raw" => raw.take().ok_or("raw twice")?,
            _ if *field.data_type() == arrow_schema::DataType::Int32 => {
                Arc::new(Int32Array::from(vec![0; rows]))
            }
            _ => Arc::new(StringArray::from(vec![""; rows])),
        });
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The field of a list's elements.
fn field(schema: &arrow_schema::Schema, name: &str) -> arrow_schema::FieldRef {
    match schema.field_with_name(name).map(|f| f.data_type()) {
        Ok(arrow_schema::DataType::List(field)) => Arc::clone(field),
        other => panic!("{name} is no list but {other:?}"),
    }
}
