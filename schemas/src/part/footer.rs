//! What stands behind the last row group: offset indexes and footer.

use super::encoder::Group;
use super::scalars::Chunks;
use crate::{FORMAT_VERSION, columns};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexBuilder;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaDataBuilder, ParquetMetaDataWriter,
    RowGroupMetaData,
};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;
use std::io::{self, Write};
use std::sync::Arc;

/// What the footer will say.
pub(super) struct Footer {
    schema: SchemaDescPtr,
    key_values: Vec<KeyValue>,
    created_by: String,
    groups: Vec<RowGroupMetaData>,
    indexes: Vec<Vec<OffsetIndexMetaData>>,
}

impl Footer {
    pub fn new(run: &str, created_by: &str) -> Result<Self, ParquetError> {
        let arrow = columns::arrow_schema();
        Ok(Self {
            schema: Arc::new(ArrowSchemaConverter::new().convert(&arrow)?),
            key_values: vec![
                KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&arrow)),
                KeyValue::new(columns::KEY_FORMAT_VERSION.to_owned(), FORMAT_VERSION.to_string()),
                KeyValue::new(columns::KEY_RUN.to_owned(), run.to_owned()),
            ],
            created_by: created_by.to_owned(),
            groups: Vec::new(),
            indexes: Vec::new(),
        })
    }

    /// Adds a row group, whose scalar columns stand at `offset`.
    pub fn add_group(&mut self, group: Group, scalars: &Chunks, offset: u64) -> Result<(), ParquetError> {
        let values = ColumnChunkMetaData::builder(self.schema.column(0))
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_compression(Compression::UNCOMPRESSED)
            .set_num_values(group.entries as i64)
            .set_total_compressed_size(group.bytes as i64)
            .set_total_uncompressed_size(group.bytes as i64)
            .set_data_page_offset(group.first_page as i64)
            .set_statistics(Statistics::float(None, None, None, Some(group.nulls), false))
            .build()?;
        let (scalars, scalar_indexes) = scalars.at(offset)?;
        let columns: Vec<_> = std::iter::once(values).chain(scalars).collect();
        let bytes = columns.iter().map(ColumnChunkMetaData::uncompressed_size).sum();
        let metadata = RowGroupMetaData::builder(Arc::clone(&self.schema))
            .set_num_rows(group.rows as i64)
            .set_total_byte_size(bytes)
            .set_file_offset(group.first_page as i64)
            .set_ordinal(self.groups.len() as i32)
            .set_column_metadata(columns)
            .build()?;
        self.groups.push(metadata);
        let values_index = std::iter::once(group.pages.build());
        self.indexes.push(values_index.chain(scalar_indexes).collect());
        Ok(())
    }

    /// Offset indexes and footer, to be written at `offset`.
    pub fn encode(self, offset: u64) -> Result<Vec<u8>, ParquetError> {
        let mut indexes = PageIndexBuilder::new(self.groups.len(), self.schema.num_columns());
        for (group, columns) in self.indexes.into_iter().enumerate() {
            for (column, index) in columns.into_iter().enumerate() {
                indexes.put_offset_index(index, group, column);
            }
        }
        let file = FileMetaData::new(
            2,
            self.groups.iter().map(RowGroupMetaData::num_rows).sum(),
            Some(self.created_by),
            Some(self.key_values),
            Arc::clone(&self.schema),
            None,
        );
        let metadata = ParquetMetaDataBuilder::new(file)
            .set_row_groups(self.groups)
            .set_page_index(Some(Arc::new(indexes.build())))
            .build();
        let mut out = Vec::new();
        let written = counted_from(offset, &mut out)?;
        ParquetMetaDataWriter::new_with_tracked(written, &metadata).finish()?;
        Ok(out)
    }
}

/// Writes to `out` as if at `offset`: parquet's metadata writer takes the number of bytes written so far for
/// the position in the file, and nothing but writing sets that number. What is written to get there is
/// neither read nor kept, so that it costs a thousand calls a GiB and no memory traffic.
fn counted_from(offset: u64, out: &mut Vec<u8>) -> io::Result<TrackedWrite<Behind<'_>>> {
    static NOTHING: [u8; 1 << 20] = [0; 1 << 20];
    let mut counted = TrackedWrite::new(Behind { skip: offset, out });
    let mut left = offset;
    while left > 0 {
        let n = left.min(NOTHING.len() as u64);
        counted.write_all(&NOTHING[..n as usize])?;
        left -= n;
    }
    Ok(counted)
}

/// Keeps what is written behind the first `skip` bytes.
struct Behind<'a> {
    skip: u64,
    out: &'a mut Vec<u8>,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64) as usize;
        self.skip -= skipped as u64;
        self.out.extend_from_slice(&bytes[skipped..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
