//! *Row tables*: the scalar columns of a part, in a file that is mapped and read where it lies.
//!
//! A row table stands beside the index, `_index/run=NAME/part-00000.rows`, and is a cache as it is: made when the part
//! is indexed, and made again by whoever finds it missing, damaged, of another version or of another state of the part.
//! Where the folder cannot be written, the same bytes are kept in memory.
//!
//! ```text
//! preamble   u64 magic, which tells the byte order │ u64 version │ u64 length │ u64 XXH3 of all that follows
//! head       size, time and footer's hash of the part │ numbers of rows, positions, bytes of names and odd rows
//! names      texts │ places: layer, stage │ labels: name, op │ forms: shape, dtype, numbers of elements
//! positions  columns: request, seq, first row
//! rows       columns, ordered by request, seq, op_index, pass, occurrence and row of the part
//! odd        rows that have elements which are not finite, and how many
//! ```
//!
//! Numbers have the byte order of the machine; sections stand at multiples of 64 bytes, so that columns are slices of the
//! map. A checksum tells damage from what was written, and no more: nothing that stands in a table can lead out of it.

mod check;
mod folder;
mod layout;
mod names;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod write;

pub(crate) use folder::Folder;
pub(crate) use read::{SMALL, Table};
pub(crate) use write::Packer;

use crate::StoreError;
use crate::part::Part;
use crate::scan::PartStat;
pub(crate) use layout::Buffer;
use std::path::Path;

/// The bytes of a hash in hex; none where it is empty.
pub(crate) fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}

/// The rows of `part`, packed.
pub(crate) fn pack(part: &Part, stat: &PartStat, run: &Path) -> Result<Buffer, StoreError> {
    let mut packer = Packer::new(part.rows(), &run.join(&stat.file))?;
    part.for_each_row(|row, meta, place| {
        packer.push(row, &meta, place);
        Ok(())
    })?;
    Ok(packer.finish(stat))
}
