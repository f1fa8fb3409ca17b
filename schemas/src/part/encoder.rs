//! Rows in, bytes out: value pages as they fill, scalar columns behind each row group, footer at the end.

use super::footer::Footer;
use super::page::begin_page;
use super::scalars::{Chunks, Scalars};
use super::{EncodeError, PageBytes, Sink};
use crate::levels::{self, RowLen};
use crate::{Layout, RecordMeta};
use parquet::errors::ParquetError;
use parquet::file::metadata::OffsetIndexBuilder;

const MAGIC: &[u8; 4] = b"PAR1";
/// Rows of a page, which a reader decodes at once, even where they hold no values.
const PAGE_ROWS: usize = 20_000;
/// Names and shapes of a row group in bytes. They are small but the engine's, and kept in memory; a column
/// of them holds less than 2 GiB.
const GROUP_TEXT: u64 = 64 << 20;

/// A row to be written: its scalar columns, and its elements as the bytes of f32 or as they were.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The scalar columns.
    pub meta: &'a RecordMeta,
    /// The column `values`: little-endian f32; below 2 GiB, as a page is.
    pub values: Option<&'a [u8]>,
    /// The column `raw`.
    pub raw: Option<&'a [u8]>,
}

/// Encodes one part. The same rows make the same bytes.
pub struct PartEncoder {
    layout: Layout,
    footer: Footer,
    /// Bytes handed out so far.
    offset: u64,
    page: Page,
    group: Group,
    scalars: Scalars,
    rows: u64,
    /// Memory for the head of a page, used again.
    head: Vec<u8>,
    levels: Vec<u8>,
    /// Row groups whose scalar columns wait until all pages are there; used where pages were adopted.
    waiting: Option<Vec<(Group, Chunks)>>,
}

/// Rows that wait for their page to be full.
#[derive(Default)]
struct Page {
    rows: Vec<RowLen>,
    values: Vec<u8>,
}

/// The row group's pages so far.
#[derive(Default)]
pub(super) struct Group {
    pub pages: OffsetIndexBuilder,
    pub first_page: u64,
    pub bytes: u64,
    pub entries: u64,
    pub nulls: u64,
    pub rows: u64,
    /// Bytes of values and of raw elements.
    payload: u64,
    /// Bytes of names and shapes.
    text: u64,
}

impl PartEncoder {
    /// A part of `run`. `created_by` stands in the footer, such as `bitnet-trace version 0.1.0`.
    ///
    /// # Errors
    /// [`EncodeError::Parquet`], which is not expected.
    pub fn new(run: &str, created_by: &str, layout: Layout) -> Result<Self, EncodeError> {
        Ok(Self {
            layout: layout.within_parquet(),
            footer: Footer::new(run, created_by)?,
            offset: 0,
            page: Page::default(),
            group: Group::default(),
            scalars: Scalars::new(),
            rows: 0,
            head: Vec::new(),
            levels: Vec::new(),
            waiting: None,
        })
    }

    /// Rows so far, written or not.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes handed out so far: where in the file the next ones belong.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The rows that wait for their page: the length of each, and their values back to back.
    pub fn pending(&self) -> (&[RowLen], &[u8]) {
        (&self.page.rows, &self.page.values)
    }

    /// Whether the part is large enough that the next row belongs to another one.
    pub fn is_full(&self) -> bool {
        self.rows > 0 && self.offset + self.page.values.len() as u64 >= self.layout.part_bytes
    }

    /// Appends a row.
    ///
    /// # Errors
    /// Those of the sink, and [`EncodeError::Parquet`], which is not expected.
    pub fn push<S: Sink>(&mut self, row: &Row<'_>, sink: &mut S) -> Result<(), S::Error> {
        self.begin(sink)?;
        let values = row.values.unwrap_or_default();
        let (payload, text) = sizes(row.meta, values.len() as u64, row.raw);
        if self.group.is_full(payload, text, &self.layout) {
            self.end_group(sink)?;
        }
        let page = &mut self.page;
        if !page.rows.is_empty()
            && (page.values.len() + values.len() > self.layout.page_bytes || page.rows.len() >= PAGE_ROWS)
        {
            self.end_page(sink)?;
        }
        self.page.rows.push(row.values.map(|v| (v.len() / 4) as u64));
        sink.row(row)?;
        if values.len() > self.layout.page_bytes {
            self.write_page(values, sink)?; // by itself, without a copy
        } else {
            self.page.values.extend_from_slice(values);
        }
        self.add_scalars(row.meta, row.raw, payload, text);
        Ok(())
    }

    /// Takes over a page of `rows` that stands at `offset` in the file and takes `bytes` there: for recovery, where
    /// only scalar columns and footer are missing. Pages are adopted in order, before any row is pushed. One that
    /// does not begin where the one before ends begins a row group, as scalar columns stood between. All scalar
    /// columns will be written behind the last page, and those that stood between become bytes that nothing refers to.
    ///
    /// # Errors
    /// [`EncodeError::PageOrder`], and [`EncodeError::Parquet`], which is not expected.
    pub fn adopt_page<'a>(
        &mut self,
        offset: u64,
        bytes: u64,
        rows: impl IntoIterator<Item = (&'a RecordMeta, RowLen, Option<&'a [u8]>)>,
    ) -> Result<(), EncodeError> {
        let end = self.offset.max(MAGIC.len() as u64);
        let pushed = !self.page.rows.is_empty() || (self.waiting.is_none() && self.rows > 0);
        let after = (offset.checked_add(bytes)).filter(|&after| i64::try_from(after).is_ok());
        let Some(after) = after.filter(|_| !pushed && offset >= end && bytes <= i32::MAX as u64) else {
            return Err(EncodeError::PageOrder { offset, end });
        };
        self.waiting.get_or_insert_default();
        if offset != end {
            self.park_group()?;
        }
        for (meta, len, raw) in rows {
            let (payload, text) = sizes(meta, len.unwrap_or(0).saturating_mul(4), raw);
            self.page.rows.push(len);
            self.add_scalars(meta, raw, payload, text);
        }
        self.group.add_page(offset, bytes, &self.page.rows);
        self.page.rows.clear();
        self.offset = after;
        Ok(())
    }

    /// Writes what waits, the scalar columns and the footer; returns the size of the file.
    ///
    /// # Errors
    /// As those of [`PartEncoder::push`].
    pub fn finish<S: Sink>(mut self, sink: &mut S) -> Result<u64, S::Error> {
        self.begin(sink)?;
        self.end_group(sink)?;
        for (group, chunks) in self.waiting.take().unwrap_or_default() {
            self.write_chunks(group, &chunks, sink)?;
        }
        let footer = self.footer.encode(self.offset).map_err(EncodeError::from)?;
        sink.bytes(&footer)?;
        Ok(self.offset + footer.len() as u64)
    }

    fn begin<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.offset == 0 {
            sink.bytes(MAGIC)?;
            self.offset = MAGIC.len() as u64;
        }
        Ok(())
    }

    fn add_scalars(&mut self, meta: &RecordMeta, raw: Option<&[u8]>, payload: u64, text: u64) {
        self.scalars.push(meta, raw);
        self.group.rows += 1;
        self.group.payload += payload;
        self.group.text += text;
        self.rows += 1;
    }

    fn end_page<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.page.rows.is_empty() {
            return Ok(());
        }
        let mut values = std::mem::take(&mut self.page.values);
        let written = self.write_page(&values, sink);
        values.clear();
        self.page.values = values; // its memory is used again
        written
    }

    /// Writes the page's rows, whose floats are `values`.
    fn write_page<S: Sink>(&mut self, values: &[u8], sink: &mut S) -> Result<(), S::Error> {
        begin_page(&self.page.rows, self.offset, &mut self.levels, &mut self.head);
        let size = (self.head.len() + values.len()) as u64;
        self.group.add_page(self.offset, size, &self.page.rows);
        let written = sink.page(&PageBytes {
            offset: self.offset,
            head: &self.head,
            values,
            rows: self.page.rows.len(),
        });
        self.page.rows.clear();
        self.offset += size;
        written
    }

    /// Writes the last page and the scalar columns of the row group.
    fn end_group<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        self.end_page(sink)?;
        if self.waiting.is_some() {
            return Ok(self.park_group().map_err(EncodeError::from)?);
        }
        if self.group.rows == 0 {
            return Ok(());
        }
        let group = std::mem::take(&mut self.group);
        let chunks = self.scalars.finish().map_err(EncodeError::from)?;
        self.write_chunks(group, &chunks, sink)
    }

    /// Keeps the row group's scalar columns until [`PartEncoder::finish`].
    fn park_group(&mut self) -> Result<(), ParquetError> {
        if self.group.rows > 0 {
            let group = std::mem::take(&mut self.group);
            let chunks = self.scalars.finish()?;
            self.waiting.get_or_insert_default().push((group, chunks));
        }
        Ok(())
    }

    fn write_chunks<S: Sink>(&mut self, group: Group, chunks: &Chunks, sink: &mut S) -> Result<(), S::Error> {
        sink.bytes(chunks.bytes())?;
        let added = self.footer.add_group(group, chunks, self.offset);
        self.offset += chunks.bytes().len() as u64;
        Ok(added.map_err(EncodeError::from)?)
    }
}

/// Bytes of elements, and of names and shape.
fn sizes(meta: &RecordMeta, values: u64, raw: Option<&[u8]>) -> (u64, u64) {
    let text = meta.stage.len() + meta.name.len() + meta.op.len() + 8 * meta.shape.len();
    let raw = raw.map_or(0, <[u8]>::len) as u64;
    (values.saturating_add(raw), text as u64)
}

impl Group {
    /// Whether a row of `payload` and `text` bytes belongs to another group.
    fn is_full(&self, payload: u64, text: u64, layout: &Layout) -> bool {
        self.rows > 0
            && (self.text + text > GROUP_TEXT
                || self.payload + payload > layout.row_group_bytes
                || self.rows >= layout.row_group_rows)
    }

    /// Adds a page at `offset`, whose size an i32 holds: that was checked when its tensors were taken.
    fn add_page(&mut self, offset: u64, bytes: u64, rows: &[RowLen]) {
        if self.bytes == 0 {
            self.first_page = offset;
        }
        self.pages.append_offset_and_size(offset as i64, bytes as i32);
        self.pages.append_row_count(rows.len() as i64);
        let entries = levels::entries(rows);
        let floats: u64 = rows.iter().map(|row| row.unwrap_or(0)).sum();
        self.entries += entries;
        self.nulls += entries - floats;
        self.bytes += bytes;
    }
}
