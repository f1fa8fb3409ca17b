//! *Row tables*: the scalar columns of a part, in a file that is mapped and read where it lies.
//!
//! A row table stands beside the index, `_index/run=NAME/part-00000.rows`, and is a cache as it is: made when the part
//! is indexed or its run is opened, and made again by whoever finds it missing, damaged, of another version or of another
//! state of the part. Where the folder cannot be written, the same bytes are kept in memory.
//!
//! ```text
//! preamble   u64 magic, which tells the byte order │ u64 version │ u64 length │ u64 where hashes begin │ u64 XXH3 of all
//!            that stands between this and there
//! head       size, time and footer's hash of the part │ numbers of rows, positions, bytes of names and odd rows
//! sums       u64 XXH3 of every 512 hashes, and of every 512 rows' moments
//! names      texts │ places: layer, stage │ labels: name, op │ forms: shape, dtype, numbers of elements
//! positions  columns: request, seq, first row
//! rows       columns, ordered by request, seq, op_index, pass, occurrence and row of the part
//! odd        rows that have elements which are not finite, and how many
//! hashes     whole, where the rows have their beginnings
//! moments    rms, mean, min, max, abs_max
//! ```
//!
//! Numbers have the byte order of the machine; sections stand at multiples of 64 bytes, so that columns are slices of the
//! map. A checksum tells damage from what was written, and no more: nothing that stands in a table can lead out of it.
//! What most comparisons never ask for comes last, and is checked by the block when somebody does: where a block is
//! spoiled, the part is packed again.

mod check;
mod folder;
mod layout;
mod names;
mod read;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod write;

pub(crate) use folder::Folder;
pub(crate) use read::{SMALL, Table};
pub(crate) use source::Source;
pub(crate) use write::Packer;

pub(crate) use layout::Buffer;

/// The bytes of a hash in hex; none where it is empty.
pub(crate) fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}
