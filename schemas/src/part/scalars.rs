//! The scalar columns of a row group, buffered as Arrow arrays and encoded by the Arrow writer.

use crate::{RecordMeta, columns};
use arrow_array::builder::{
    BinaryBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::ops::Range;
use std::sync::Arc;

/// The scalar columns of the rows since the row group began.
pub(super) struct Scalars {
    schema: SchemaRef,
    raw: BinaryBuilder,
    seq: Int64Builder,
    layer: Int32Builder,
    stage: StringBuilder,
    name: StringBuilder,
    op: StringBuilder,
    op_index: Int64Builder,
    request: Int32Builder,
    pass: Int32Builder,
    occurrence: Int32Builder,
    shape: ListBuilder<Int64Builder>,
    dtype: StringBuilder,
    num_elements: Int64Builder,
    blake3: StringBuilder,
    moments: [Float64Builder; 5],
    nan_count: Int64Builder,
    inf_count: Int64Builder,
}

/// Encoded column chunks, to be put behind the values of their row group.
pub(super) struct Chunks {
    /// A Parquet file of one row group.
    file: Vec<u8>,
    metadata: ParquetMetaData,
    /// Where in `file` the chunks' pages stand.
    range: Range<usize>,
}

impl Scalars {
    pub fn new() -> Self {
        let dim = Field::new("element", DataType::Int64, false);
        Self {
            schema: Arc::new(Schema::new(columns::scalar_fields())),
            raw: BinaryBuilder::new(),
            seq: Int64Builder::new(),
            layer: Int32Builder::new(),
            stage: StringBuilder::new(),
            name: StringBuilder::new(),
            op: StringBuilder::new(),
            op_index: Int64Builder::new(),
            request: Int32Builder::new(),
            pass: Int32Builder::new(),
            occurrence: Int32Builder::new(),
            shape: ListBuilder::new(Int64Builder::new()).with_field(dim),
            dtype: StringBuilder::new(),
            num_elements: Int64Builder::new(),
            blake3: StringBuilder::new(),
            moments: std::array::from_fn(|_| Float64Builder::new()),
            nan_count: Int64Builder::new(),
            inf_count: Int64Builder::new(),
        }
    }

    pub fn push(&mut self, meta: &RecordMeta, raw: Option<&[u8]>) {
        self.raw.append_option(raw);
        self.seq.append_value(meta.seq);
        self.layer.append_value(meta.layer);
        self.stage.append_value(&meta.stage);
        self.name.append_value(&meta.name);
        self.op.append_value(&meta.op);
        self.op_index.append_value(meta.op_index);
        self.request.append_value(meta.request);
        self.pass.append_value(meta.pass);
        self.occurrence.append_value(meta.occurrence);
        self.shape.values().append_slice(&meta.shape);
        self.shape.append(true);
        self.dtype.append_value(meta.dtype.name());
        self.num_elements.append_value(meta.num_elements);
        self.blake3.append_value(&meta.blake3);
        let s = &meta.stats;
        for (column, value) in self
            .moments
            .iter_mut()
            .zip([s.rms, s.mean, s.min, s.max, s.abs_max])
        {
            column.append_option(value);
        }
        self.nan_count.append_value(s.nan_count as i64);
        self.inf_count.append_value(s.inf_count as i64);
    }

    /// Encodes and forgets the rows.
    ///
    /// # Errors
    /// Those of the Arrow writer; none is expected of rows that were pushed.
    pub fn finish(&mut self) -> Result<Chunks> {
        let batch = self.batch()?;
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, Arc::clone(&self.schema), Some(properties()?))?;
        writer.write(&batch)?;
        let metadata = writer.close()?;
        Chunks::new(file, metadata)
    }

    fn batch(&mut self) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.raw.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.layer.finish()),
            Arc::new(self.stage.finish()),
            Arc::new(self.name.finish()),
            Arc::new(self.op.finish()),
            Arc::new(self.op_index.finish()),
            Arc::new(self.request.finish()),
            Arc::new(self.pass.finish()),
            Arc::new(self.occurrence.finish()),
            Arc::new(self.shape.finish()),
            Arc::new(self.dtype.finish()),
            Arc::new(self.num_elements.finish()),
            Arc::new(self.blake3.finish()),
        ];
        for moment in &mut self.moments {
            columns.push(Arc::new(moment.finish()));
        }
        columns.push(Arc::new(self.nan_count.finish()));
        columns.push(Arc::new(self.inf_count.finish()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

fn properties() -> Result<WriterProperties> {
    let once = |name: &str| ColumnPath::from(name);
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(None)
        // no two records share these
        .set_column_dictionary_enabled(once(columns::RAW), false)
        .set_column_statistics_enabled(once(columns::RAW), EnabledStatistics::None)
        .set_column_dictionary_enabled(once("blake3"), false)
        .build())
}

impl Chunks {
    fn new(file: Vec<u8>, metadata: ParquetMetaData) -> Result<Self> {
        let [group] = metadata.row_groups() else {
            return Err(unexpected());
        };
        let ranges = group.columns().iter().map(ColumnChunkMetaData::byte_range);
        let start = ranges.clone().map(|(start, _)| start).min().unwrap_or(0);
        let end = ranges.map(|(start, size)| start + size).max().unwrap_or(start);
        let range = start as usize..end as usize;
        match file.get(range.clone()) {
            Some(_) => Ok(Self {
                file,
                metadata,
                range,
            }),
            None => Err(unexpected()),
        }
    }

    /// The chunks' pages, back to back.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// Metadata and offset indexes of the chunks, whose bytes will stand at `offset`.
    pub fn at(&self, offset: u64) -> Result<(Vec<ColumnChunkMetaData>, Vec<OffsetIndexMetaData>)> {
        let shift = offset as i64 - self.range.start as i64;
        let group = self.metadata.row_group(0);
        let pages = self.metadata.page_index_for_row_group(0);
        let (mut metadata, mut indexes) = (Vec::new(), Vec::new());
        for (i, column) in group.columns().iter().enumerate() {
            let dictionary = column.dictionary_page_offset().map(|at| at + shift);
            let moved = column.clone().into_builder();
            let moved = moved.set_data_page_offset(column.data_page_offset() + shift);
            let moved = moved.set_column_index_offset(None).set_column_index_length(None);
            metadata.push(moved.set_dictionary_page_offset(dictionary).build()?);
            let mut index = pages.offset_index(i).ok_or_else(unexpected)?.clone();
            for page in &mut index.page_locations {
                page.offset += shift;
            }
            indexes.push(index);
        }
        Ok((metadata, indexes))
    }
}

fn unexpected() -> ParquetError {
    ParquetError::General("the scalar columns were not written as one row group".into())
}
