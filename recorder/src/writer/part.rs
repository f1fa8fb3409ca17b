//! One part: value pages streamed to the file, scalar columns behind each row group, footer at the end.

use super::page::begin_page;
use super::scalars::Scalars;
use crate::{Layout, run::sync_dir, shared::Shared};
use bitnet_trace_schema::levels::RowLen;
use bitnet_trace_schema::{FORMAT_VERSION, PartEntry, RecordMeta, columns, run_dir};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexBuilder;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, OffsetIndexBuilder, ParquetMetaDataBuilder,
    ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"PAR1";
/// Rows of a page, which a reader decodes at once, even where they hold no values.
const PAGE_ROWS: usize = 20_000;
/// Names and shapes of a row group in bytes. They are small but the engine's, and kept in memory; a column
/// of them holds less than 2 GiB.
const GROUP_TEXT: u64 = 64 << 20;

/// Why a part could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Parquet { path: PathBuf, error: ParquetError },
    #[error("no memory for {0} bytes of values")]
    Memory(usize),
}

/// A row to be written: its scalar columns, and its elements as the bytes of f32 or as they were.
pub(crate) struct Row<'a> {
    pub meta: &'a RecordMeta,
    pub values: Option<&'a [u8]>,
    pub raw: Option<&'a [u8]>,
}

/// A part that is being written, under its `.open` name.
pub(crate) struct Part {
    dir: PathBuf,
    name: String,
    file: File,
    layout: Layout,
    footer: Footer,
    /// Bytes written so far.
    offset: u64,
    /// Where the page written last begins.
    last_page: u64,
    page: Page,
    group: Group,
    scalars: Scalars,
    rows: u64,
    scratch: Vec<u8>,
}

/// Rows that wait for their page to be full.
#[derive(Default)]
struct Page {
    rows: Vec<RowLen>,
    values: Vec<u8>,
}

/// The row group's pages so far.
#[derive(Default)]
struct Group {
    pages: OffsetIndexBuilder,
    first_page: u64,
    bytes: u64,
    entries: u64,
    nulls: u64,
    rows: u64,
    /// Bytes of values and of raw elements.
    payload: u64,
    /// Bytes of names and shapes.
    text: u64,
}

/// What the footer will say.
struct Footer {
    schema: SchemaDescPtr,
    key_values: Vec<KeyValue>,
    created_by: String,
    groups: Vec<RowGroupMetaData>,
    indexes: Vec<Vec<OffsetIndexMetaData>>,
}

impl Part {
    /// Creates part number `index` of the run.
    pub fn create(shared: &Shared, index: u32, layout: Layout) -> Result<Self, PartError> {
        let dir = &shared.dir;
        let name = run_dir::part_name(index);
        let path = dir.join(format!("{name}{}", run_dir::OPEN_SUFFIX));
        let io_error = |error| PartError::Io {
            path: path.clone(),
            error,
        };
        let footer = Footer::new(shared).map_err(|error| PartError::Parquet {
            path: path.clone(),
            error,
        })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error)?;
        file.write_all(MAGIC).map_err(io_error)?;
        Ok(Self {
            dir: dir.clone(),
            name,
            file,
            layout: layout.within_parquet(),
            footer,
            offset: MAGIC.len() as u64,
            last_page: 0,
            page: Page::default(),
            group: Group::default(),
            scalars: Scalars::new(),
            rows: 0,
            scratch: Vec::new(),
        })
    }

    /// Whether the file is large enough that the next row belongs to another part.
    pub fn is_full(&self) -> bool {
        self.rows > 0 && self.offset + self.page.values.len() as u64 >= self.layout.part_bytes
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), PartError> {
        let values = row.values.unwrap_or_default();
        let payload = (values.len() + row.raw.map_or(0, <[u8]>::len)) as u64;
        let meta = row.meta;
        let text = meta.stage.len() + meta.name.len() + meta.op.len() + 8 * meta.shape.len();
        if self.group.rows > 0
            && (self.group.text + text as u64 > GROUP_TEXT
                || self.group.payload + payload > self.layout.row_group_bytes
                || self.group.rows >= self.layout.row_group_rows)
        {
            self.end_group()?;
        }
        let page = &mut self.page;
        if !page.rows.is_empty()
            && (page.values.len() + values.len() > self.layout.page_bytes || page.rows.len() >= PAGE_ROWS)
        {
            self.end_page()?;
        }
        self.page.rows.push(row.values.map(|v| (v.len() / 4) as u64));
        if values.len() > self.layout.page_bytes {
            self.write_page(values)?; // by itself, without a copy
        } else {
            self.page.values.extend_from_slice(values);
        }
        self.scalars.push(row.meta, row.raw);
        self.group.rows += 1;
        self.group.payload += payload;
        self.group.text += text as u64;
        self.rows += 1;
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), PartError> {
        if self.page.rows.is_empty() {
            return Ok(());
        }
        let mut values = std::mem::take(&mut self.page.values);
        let written = self.write_page(&values);
        values.clear();
        self.page.values = values; // its memory is used again
        written
    }

    /// Writes the page's rows, whose floats are `values`.
    fn write_page(&mut self, values: &[u8]) -> Result<(), PartError> {
        let mut head = std::mem::take(&mut self.scratch);
        begin_page(&self.page.rows, self.offset, &mut head);
        let size = (head.len() + values.len()) as u64;
        let start = self.offset;
        let group = &mut self.group;
        if group.bytes == 0 {
            group.first_page = self.offset;
        }
        // a page's size was checked to fit when its tensor was taken
        group
            .pages
            .append_offset_and_size(self.offset as i64, size as i32);
        group.pages.append_row_count(self.page.rows.len() as i64);
        let entries = bitnet_trace_schema::levels::entries(&self.page.rows);
        group.entries += entries;
        group.nulls += entries - (values.len() / 4) as u64;
        group.bytes += size;
        self.page.rows.clear();
        let written = self.write(&head).and_then(|()| self.write(values));
        self.scratch = head;
        if written.is_ok() {
            self.last_page = start;
        }
        written
    }

    /// Writes the last page and the scalar columns of the row group.
    fn end_group(&mut self) -> Result<(), PartError> {
        self.end_page()?;
        let group = std::mem::take(&mut self.group);
        if group.rows == 0 {
            return Ok(());
        }
        let chunks = self
            .scalars
            .finish(self.offset)
            .map_err(|e| self.parquet_error(e))?;
        self.write(&chunks.bytes)?;
        let added = self.footer.add_group(group, chunks.metadata, chunks.indexes);
        added.map_err(|e| self.parquet_error(e))
    }

    /// Ends the file and gives it its name. The order makes a part that has its name whole, whatever
    /// happens: the footer is written, the file's bytes are forced to disk, only then is it renamed, and
    /// the directory is forced to disk as it holds the name.
    pub fn seal(&mut self) -> Result<PartEntry, PartError> {
        self.end_group()?;
        let footer = self
            .footer
            .encode(self.offset)
            .map_err(|e| self.parquet_error(e))?;
        self.write(&footer)?;
        let sealed = (self.file.sync_all())
            .and_then(|()| std::fs::rename(self.open_path(), self.dir.join(&self.name)))
            .and_then(|()| sync_dir(&self.dir));
        sealed.map_err(|e| self.io_error(e))?;
        Ok(PartEntry {
            file: self.name.clone(),
            rows: self.rows,
            bytes: self.offset,
        })
    }

    /// After a failure, cuts off the last page and what was written of the next: on a full disk, that is
    /// the room for a manifest that says so.
    pub fn make_room(&self) {
        let _ = self.file.set_len(self.last_page); // nothing is left to try if this fails
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.file.write_all(bytes).map_err(|e| self.io_error(e))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn open_path(&self) -> PathBuf {
        self.dir.join(format!("{}{}", self.name, run_dir::OPEN_SUFFIX))
    }

    fn io_error(&self, error: io::Error) -> PartError {
        PartError::Io {
            path: self.open_path(),
            error,
        }
    }

    fn parquet_error(&self, error: ParquetError) -> PartError {
        PartError::Parquet {
            path: self.open_path(),
            error,
        }
    }
}

impl Footer {
    fn new(shared: &Shared) -> Result<Self, ParquetError> {
        let arrow = columns::arrow_schema();
        Ok(Self {
            schema: Arc::new(ArrowSchemaConverter::new().convert(&arrow)?),
            key_values: vec![
                KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&arrow)),
                KeyValue::new(columns::KEY_FORMAT_VERSION.to_owned(), FORMAT_VERSION.to_string()),
                KeyValue::new(columns::KEY_RUN.to_owned(), shared.run.clone()),
            ],
            created_by: format!("{} version {}", shared.writer.name, shared.writer.version),
            groups: Vec::new(),
            indexes: Vec::new(),
        })
    }

    fn add_group(
        &mut self,
        group: Group,
        scalars: Vec<ColumnChunkMetaData>,
        scalar_indexes: Vec<OffsetIndexMetaData>,
    ) -> Result<(), ParquetError> {
        let values = ColumnChunkMetaData::builder(self.schema.column(0))
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_compression(Compression::UNCOMPRESSED)
            .set_num_values(group.entries as i64)
            .set_total_compressed_size(group.bytes as i64)
            .set_total_uncompressed_size(group.bytes as i64)
            .set_data_page_offset(group.first_page as i64)
            .set_statistics(Statistics::float(None, None, None, Some(group.nulls), false))
            .build()?;
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
    fn encode(&mut self, offset: u64) -> Result<Vec<u8>, ParquetError> {
        let groups = std::mem::take(&mut self.groups);
        let mut indexes = PageIndexBuilder::new(groups.len(), self.schema.num_columns());
        for (group, columns) in std::mem::take(&mut self.indexes).into_iter().enumerate() {
            for (column, index) in columns.into_iter().enumerate() {
                indexes.put_offset_index(index, group, column);
            }
        }
        let file = FileMetaData::new(
            2,
            groups.iter().map(RowGroupMetaData::num_rows).sum(),
            Some(self.created_by.clone()),
            Some(std::mem::take(&mut self.key_values)),
            Arc::clone(&self.schema),
            None,
        );
        let metadata = ParquetMetaDataBuilder::new(file)
            .set_row_groups(groups)
            .set_page_index(Some(Arc::new(indexes.build())))
            .build();
        let mut out = Vec::new();
        let mut counted = TrackedWrite::new(Behind {
            skip: offset,
            out: &mut out,
        });
        counted.swallow(offset)?;
        ParquetMetaDataWriter::new_with_tracked(counted, &metadata).finish()?;
        Ok(out)
    }
}

/// Keeps what is written behind the first `skip` bytes: parquet's metadata writer takes the number of
/// bytes written so far for the position in the file.
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

/// Counts bytes that stand before the metadata.
trait Swallow {
    fn swallow(&mut self, bytes: u64) -> io::Result<()>;
}

impl Swallow for TrackedWrite<Behind<'_>> {
    fn swallow(&mut self, mut bytes: u64) -> io::Result<()> {
        static NOTHING: [u8; 1 << 16] = [0; 1 << 16];
        while bytes > 0 {
            let n = bytes.min(NOTHING.len() as u64);
            self.write_all(&NOTHING[..n as usize])?;
            bytes -= n;
        }
        Ok(())
    }
}
