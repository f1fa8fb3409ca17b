//! Makes entries.

use super::row::{self, put_i64, put_text, put_u64};
use super::{FRAME, HEADER, MAGIC, MAX_PAYLOAD, MAX_ROWS, PAGE, ROWS, TOKENS, checksum};
use crate::RecordMeta;
use crate::levels::RowLen;
use std::ops::Range;

/// Bytes before the rows of a page: kind, offset, bytes, checksum, number of rows.
const PAGE_HEAD: usize = 1 + 8 + 4 + 8 + 4;
/// A buffer that grew beyond this, by large raw tensors, is given back.
const KEEP: usize = 8 << 20;

/// A page in the part's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageAt {
    /// Byte offset of the page's header.
    pub offset: u64,
    /// Bytes of header, levels and values.
    pub bytes: u32,
    /// [`checksum`] of these bytes.
    pub checksum: u64,
}

/// Why a row cannot be journaled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The entry would be larger, or have more rows, than a reader takes.
    #[error("{0} bytes, or {MAX_ROWS} rows, are too many for an entry of the journal")]
    TooLarge(usize),
    /// An allocation failed.
    #[error("no memory for {0} bytes of the journal")]
    Memory(usize),
    /// `blake3` is not 64 lowercase hex digits.
    #[error("{0:?} is not a BLAKE3 hash")]
    Hash(String),
}

/// Appends what a journal begins with: the magic and an entry that says which part it belongs to.
pub fn header(run: &str, part: u32, created_by: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    entry(HEADER, out, |out| {
        out.extend_from_slice(&part.to_le_bytes());
        put_text(run, out);
        put_text(created_by, out);
    });
}

/// Appends the entry of token ids that a request was given, from position `first_seq` on; an id below 0 is
/// one that is not known. `rewrites` is the request's count of changed positions, these included.
pub fn tokens(request: i32, first_seq: i64, rewrites: u64, ids: &[i32], out: &mut Vec<u8>) {
    entry(TOKENS, out, |out| {
        put_i64(request.into(), out);
        put_i64(first_seq, out);
        put_u64(rewrites, out);
        put_u64(ids.len() as u64, out);
        for &id in ids {
            put_i64(id.into(), out);
        }
    });
}

fn entry(kind: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    out.push(kind);
    payload(out);
    frame(&mut out[start..]);
}

/// Fills the frame in front of a payload.
fn frame(entry: &mut [u8]) {
    let (frame, payload) = entry.split_at_mut(FRAME);
    let (length, sum) = frame.split_at_mut(4);
    length.copy_from_slice(&(payload.len() as u32).to_le_bytes());
    sum.copy_from_slice(&checksum(&[payload]).to_le_bytes());
}

/// The rows that wait for their page, as they will stand in the journal.
#[derive(Debug)]
pub struct PendingRows {
    /// Room for the head of a page's entry, then the rows.
    entry: Vec<u8>,
    rows: u32,
    /// Floats of the rows.
    floats: u64,
    /// Where the first row begins that no entry has told: in `entry`, and which it is; and its first float.
    untold: (usize, u32, u64),
}

impl Default for PendingRows {
    fn default() -> Self {
        let start = FRAME + PAGE_HEAD;
        Self {
            entry: vec![0; start],
            rows: 0,
            floats: 0,
            untold: (start, 0, 0),
        }
    }
}

impl PendingRows {
    /// Adds a row that has `floats` values (`None` is null) and these raw bytes.
    ///
    /// # Errors
    /// [`PushError`]; the rows are as before.
    pub fn push(&mut self, meta: &RecordMeta, floats: RowLen, raw: Option<&[u8]>) -> Result<(), PushError> {
        let hash = row::unhex(&meta.blake3).ok_or_else(|| PushError::Hash(meta.blake3.clone()))?;
        let text = meta.stage.len() + meta.name.len() + meta.op.len() + meta.dtype.name().len();
        let room = row::FIXED + text + row::NUMBER * meta.shape.len() + raw.map_or(0, <[u8]>::len);
        let size = self.entry.len().saturating_add(room);
        if size > MAX_PAYLOAD as usize || self.rows >= MAX_ROWS {
            return Err(PushError::TooLarge(size));
        }
        self.entry
            .try_reserve(room)
            .map_err(|_| PushError::Memory(room))?;
        row::put(meta, &hash, floats, raw, &mut self.entry);
        self.rows += 1;
        self.floats += floats.unwrap_or(0);
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the rows without their values.
    pub fn bytes(&self) -> usize {
        self.entry.len() - FRAME - PAGE_HEAD
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entry.capacity()
    }

    /// Whether every row was in an entry of [`rows`](Self::rows).
    pub fn is_told(&self) -> bool {
        self.untold.1 == self.rows
    }

    /// The entry of the page that was written with these rows, to be appended to the journal.
    pub fn page(&mut self, at: &PageAt) -> &[u8] {
        let head = &mut self.entry[FRAME..][..PAGE_HEAD];
        head[0] = PAGE;
        head[1..9].copy_from_slice(&at.offset.to_le_bytes());
        head[9..13].copy_from_slice(&at.bytes.to_le_bytes());
        head[13..21].copy_from_slice(&at.checksum.to_le_bytes());
        head[21..25].copy_from_slice(&self.rows.to_le_bytes());
        frame(&mut self.entry);
        &self.entry
    }

    /// Appends the entry of the rows that no entry has told yet, with their values. `values` are the bytes of the floats of all rows since [`clear`](Self::clear), one behind
    /// the other; those of rows that were told before are not read. Nothing is appended where all rows
    /// are told.
    ///
    /// # Errors
    /// [`PushError::TooLarge`], [`PushError::Memory`]; nothing is appended.
    pub fn rows(&mut self, values: &[u8], out: &mut Vec<u8>) -> Result<(), PushError> {
        let (start, first, float) = self.untold;
        if first == self.rows {
            return Ok(());
        }
        let range: Range<usize> = (4 * float as usize).min(values.len())..values.len();
        let size = FRAME + 16 + self.entry.len() - start + range.len();
        if size > MAX_PAYLOAD as usize {
            return Err(PushError::TooLarge(size));
        }
        out.try_reserve(size).map_err(|_| PushError::Memory(size))?;
        entry(ROWS, out, |out| {
            out.extend_from_slice(&(self.rows - first).to_le_bytes());
            out.extend_from_slice(&self.entry[start..]);
            out.extend_from_slice(&values[range]);
        });
        self.untold = (self.entry.len(), self.rows, self.floats);
        Ok(())
    }

    /// Forgets the rows, and keeps their memory.
    pub fn clear(&mut self) {
        let start = FRAME + PAGE_HEAD;
        self.entry.truncate(start);
        if self.entry.capacity() > KEEP {
            self.entry.shrink_to(KEEP / 8);
        }
        self.rows = 0;
        self.floats = 0;
        self.untold = (start, 0, 0);
    }
}
