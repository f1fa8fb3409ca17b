//! The journal of a part: what a part that is being written does not say of itself until its end.
//!
//! Values are streamed to `part-NNNNN.parquet.open`, but names, shapes, hashes and statistics are kept in
//! memory until their row group ends, and the footer until the part does. They are appended to
//! `part-NNNNN.parquet.journal` as well, so that a process may die at any moment and a reader can still
//! finish the part. `FORMAT.md` describes the bytes. This module makes and reads them; it opens no file.
//!
//! # How a writer appends
//! 1. Create the file, write [`header`] to it.
//! 2. For every row given to the part: [`PendingRows::push`]. It copies the row's scalars and its raw bytes,
//!    not its values, into a buffer that is used again: no allocation in steady state.
//! 3. When a page was written to the part: write [`PendingRows::page`] (which needs [`checksum`] of the
//!    page's bytes), then [`PendingRows::clear`]. All pending rows must be those of that page.
//! 4. When rows have waited long for their page: write what [`PendingRows::rows`] returns. It holds the rows
//!    that no entry has told yet, and their values; call it as often as wanted. The next page supersedes it.
//! 5. When token ids came: write [`tokens`] before the rows that come after them.
//!
//! A row is safe from the death of its process when its entry was written (`write` returned), and from a
//! power loss when the part's file and then the journal's were forced to disk.
//!
//! # How a reader replays
//! [`Reader::next`] returns entry after entry, up to the first that is torn or was not written by this
//! module; [`Reader::torn`] says where and why. Then:
//! 1. Pages, in order, up to the first whose bytes in the part have another [`checksum`]: behind the last
//!    good one the part's file is cut. What came after a page that is not good is not used.
//! 2. The rows of all [`Entry::Rows`] behind the last page, in order: they make one more page.
//! 3. A page that does not begin where the one before ends begins a row group. The scalar columns of all
//!    groups and the footer are written behind the last page.
//! 4. Token ids by [`Tokens::replay`].

mod decode;
mod encode;
mod row;
#[cfg(test)]
mod tests;

pub use decode::{Entry, JournalError, Page, Reader, RowData, Rows, Tokens, Torn};
pub use encode::{PageAt, PendingRows, PushError, header, tokens};

use std::hash::Hasher;
use twox_hash::xxhash3_64::{Hasher as Xxh3, RawHasher, SecretBuffer};

/// First bytes of a journal.
pub const MAGIC: [u8; 8] = *b"BNTJRNL1";
/// Most bytes of an entry's payload: the raw bytes of the largest tensor, and as much again as a page's rows take.
pub const MAX_PAYLOAD: u32 = (1 << 31) + (128 << 20);

/// Most rows of an entry: some times those of a page.
pub const MAX_ROWS: u32 = 1 << 16;

/// Bytes before a payload: its length, its checksum.
const FRAME: usize = 4 + 8;
/// First byte of a payload.
const HEADER: u8 = 1;
const PAGE: u8 = 2;
const ROWS: u8 = 3;
const TOKENS: u8 = 4;

/// XXH3 (64 bits, no seed) of bytes that come in pieces.
///
/// ```
/// use bitnet_trace_schema::journal::{Checksum, checksum};
/// let mut sum = Checksum::default();
/// sum.write(b"head");
/// sum.write(b"values");
/// assert_eq!(sum.finish(), checksum(&[b"headvalues"]));
/// ```
pub struct Checksum(Option<RawHasher<[u8; 192]>>);

impl Default for Checksum {
    fn default() -> Self {
        // The library's own constructor allocates the secret. 192 bytes are what it takes, so that there is
        // always a hasher.
        Self(SecretBuffer::with_seed(0, [0; 192]).ok().map(RawHasher::new))
    }
}

impl Checksum {
    /// More bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.0 {
            hasher.write(bytes);
        }
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.as_ref().map_or(0, Hasher::finish)
    }
}

/// The [`Checksum`] of `pieces` put one behind the other.
pub fn checksum(pieces: &[&[u8]]) -> u64 {
    if let [all] = pieces {
        return Xxh3::oneshot(all);
    }
    let mut sum = Checksum::default();
    pieces.iter().for_each(|piece| sum.write(piece));
    sum.finish()
}
