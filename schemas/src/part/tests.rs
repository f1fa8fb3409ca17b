use super::*;
use crate::levels::RowLen;
use crate::{DType, Layout, RecordMeta, Stats, Text};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const LAYOUT: Layout = Layout {
    page_bytes: 2048,
    row_group_bytes: 5000,
    row_group_rows: 15,
    part_bytes: 1 << 30,
};

fn meta(seq: usize, floats: usize) -> RecordMeta {
    RecordMeta {
        seq: seq as i64,
        layer: 0,
        stage: "q_proj".into(),
        name: format!("name-{seq}").into(),
        op: Text::new(),
        op_index: seq as i64,
        request: 0,
        pass: 0,
        occurrence: 0,
        shape: vec![floats as i64],
        dtype: DType::F32,
        num_elements: floats as i64,
        blake3: "0".repeat(64),
        stats: Stats::default(),
    }
}

fn values(seq: usize, floats: usize) -> Vec<f32> {
    (0..floats).map(|i| (seq * 1000 + i) as f32).collect()
}

fn lengths() -> Vec<usize> {
    (0..70).map(|i| [64, 0, 300, 1, 700][i % 5]).collect()
}

/// A file and its pages: offset, bytes, rows.
#[derive(Default)]
struct Kept {
    file: Vec<u8>,
    pages: Vec<(u64, u64, usize)>,
    rows: usize,
}

impl Sink for Kept {
    type Error = EncodeError;

    fn row(&mut self, _: &Row<'_>) -> Result<(), EncodeError> {
        self.rows += 1;
        Ok(())
    }

    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), EncodeError> {
        assert_eq!(page.offset, self.file.len() as u64);
        let bytes = page.head.len() + page.values.len();
        self.pages.push((page.offset, bytes as u64, page.rows));
        let rows: usize = self.pages.iter().map(|&(.., rows)| rows).sum();
        assert_eq!(rows, self.rows, "a page holds the rows since the one before");
        self.file.page(page)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.file.bytes(bytes)
    }
}

fn push<S: Sink>(part: &mut PartEncoder, seq: usize, floats: usize, sink: &mut S) -> Result<(), S::Error> {
    let values: Vec<u8> = values(seq, floats).iter().flat_map(|x| x.to_le_bytes()).collect();
    let row = Row {
        meta: &meta(seq, floats),
        values: Some(&values),
        raw: None,
    };
    part.push(&row, sink)
}

fn write() -> Result<Kept, EncodeError> {
    let mut kept = Kept::default();
    let mut part = PartEncoder::new("a", "test", LAYOUT)?;
    for (seq, &floats) in lengths().iter().enumerate() {
        push(&mut part, seq, floats, &mut kept)?;
    }
    let bytes = part.finish(&mut kept)?;
    assert_eq!(bytes, kept.file.len() as u64);
    Ok(kept)
}

/// Reads a part with the parquet crate, and checks that it holds the first rows.
fn check(file: Vec<u8>, lengths: &[usize]) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).expect("a Parquet file");
    let mut seq = 0;
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("a batch");
        let seqs = batch.column_by_name("seq").expect("seq");
        let names = batch.column_by_name("name").expect("name");
        for i in 0..batch.num_rows() {
            assert_eq!(seqs.as_primitive::<Int64Type>().value(i), seq as i64);
            assert_eq!(names.as_string::<i32>().value(i), format!("name-{seq}"));
            let found = batch.column(0).as_list::<i32>().value(i);
            let found = found.as_primitive::<Float32Type>().values().to_vec();
            assert_eq!(found, values(seq, lengths[seq]), "row {seq}");
            seq += 1;
        }
    }
    assert_eq!(seq, lengths.len());
}

#[test]
fn a_part_needs_no_more_than_something_to_write_to() {
    let mut plain = Vec::new();
    let mut part = PartEncoder::new("a", "test", LAYOUT).expect("an encoder");
    for (seq, &floats) in lengths().iter().enumerate() {
        push(&mut part, seq, floats, &mut plain).expect("encoded");
    }
    part.finish(&mut plain).expect("encoded");
    assert!(plain == write().expect("encoded").file);
    check(plain, &lengths());
}

#[test]
fn a_part_without_rows_is_a_parquet_file() {
    let mut file = Vec::new();
    let part = PartEncoder::new("a", "test", LAYOUT).expect("an encoder");
    part.finish(&mut file).expect("encoded");
    check(file, &[]);
}

#[test]
fn a_part_cut_behind_any_page_can_be_ended() {
    let kept = write().expect("encoded");
    let lengths = lengths();
    for cut in 0..=kept.pages.len() {
        for more in [0, 1, 40] {
            let mut part = PartEncoder::new("a", "test", LAYOUT).expect("an encoder");
            let mut row = 0;
            for &(offset, bytes, rows) in &kept.pages[..cut] {
                let metas: Vec<_> = (row..row + rows).map(|seq| meta(seq, lengths[seq])).collect();
                let lens = |m: &RecordMeta| -> RowLen { Some(m.num_elements as u64) };
                let rows_of = metas.iter().map(|m| (m, lens(m), None));
                part.adopt_page(offset, bytes, rows_of).expect("in order");
                row += rows;
            }
            let mut file = kept.file[..part.offset() as usize].to_vec();
            let end = (row + more).min(lengths.len());
            for (seq, &floats) in lengths.iter().enumerate().take(end).skip(row) {
                push(&mut part, seq, floats, &mut file).expect("encoded");
            }
            part.finish(&mut file).expect("encoded");
            check(file, &lengths[..end]);
        }
    }
}

#[test]
fn a_page_that_cannot_stand_where_it_is_said_to_is_not_adopted() {
    let part = || PartEncoder::new("a", "test", LAYOUT).expect("an encoder");
    let row = meta(0, 1);
    let rows = || [(&row, Some(1), None)];
    let refused = |part: &mut PartEncoder, offset, bytes| {
        let adopted = part.adopt_page(offset, bytes, rows());
        assert!(
            matches!(adopted, Err(EncodeError::PageOrder { .. })),
            "{adopted:?}"
        );
    };
    refused(&mut part(), 3, 10);
    refused(&mut part(), 4, 1 << 31);
    refused(&mut part(), u64::MAX - 10, 9);
    refused(&mut part(), u64::MAX - 10, 11);
    let mut begun = part();
    begun.adopt_page(4, 96, rows()).expect("in order");
    refused(&mut begun, 99, 10);
    begun.adopt_page(101, 10, rows()).expect("in order");
    let mut pushed = part();
    push(&mut pushed, 0, 1, &mut Vec::new()).expect("encoded");
    refused(&mut pushed, 4, 10);
}
