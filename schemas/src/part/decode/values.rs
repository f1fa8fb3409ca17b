//! Finds the values of every row in the pages of `values`, without reading the values.

use super::{Part, PartError, guarded};
use crate::columns::VALUES;
use crate::levels::{self, MAX_DEF, MAX_REP};
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;

/// Index of the leaf column under the root column `values`.
fn leaf(part: &Part) -> Option<usize> {
    let schema = part.meta.file_metadata().schema_descr();
    (0..schema.num_columns()).find(|&i| schema.get_column_root(i).name() == VALUES)
}

/// `values` is an optional list of required floats.
pub(super) fn check_type(part: &Part) -> Result<(), PartError> {
    let schema = part.meta.file_metadata().schema_descr();
    let column = leaf(part).map(|i| schema.column(i));
    let problem = match column {
        None => "is missing",
        Some(c) if c.physical_type() != Type::FLOAT => "is not a list of 32-bit floats",
        Some(c) if (c.max_def_level(), c.max_rep_level()) != (MAX_DEF.into(), MAX_REP.into()) => {
            "is not an optional list of required floats"
        }
        Some(_) => return Ok(()),
    };
    Err(PartError::Column {
        column: VALUES.into(),
        problem: problem.into(),
    })
}

/// Byte offset and number of values of every row of a row group; `None` for a null list.
pub(super) fn locate(part: &Part, row_group: usize) -> Result<Vec<Option<(u64, u64)>>, PartError> {
    let layout = |problem: &str| PartError::Layout {
        problem: format!("row group {row_group}: {problem}"),
    };
    let Some(leaf) = leaf(part) else {
        return Ok(Vec::new()); // check_type has refused such a part
    };
    let group = part.meta.row_group(row_group);
    let chunk = group.column(leaf);
    if chunk.compression() != Compression::UNCOMPRESSED {
        return Err(layout("the chunk is compressed"));
    }
    let rows = group.num_rows().unsigned_abs() as usize;
    let file = Arc::new(part.bytes.clone());
    let mut pages = guarded(|| SerializedPageReader::new(file, chunk, rows, None))?;
    let mut found: Vec<Option<(u64, u64)>> = Vec::new();
    for page in 0.. {
        let Some(data) = guarded(|| pages.get_next_page())? else {
            break;
        };
        let Page::DataPageV2 {
            buf,
            num_values,
            encoding,
            num_rows,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } = data
        else {
            return Err(layout("a dictionary or a data page of version 1"));
        };
        if encoding != Encoding::PLAIN {
            return Err(layout("a page is not in the plain encoding"));
        }
        // The page is a slice of the map, so its place in the file is a difference of addresses.
        let start = (buf.as_ptr() as usize).checked_sub(part.bytes.as_ptr() as usize);
        let Some(start) = start.filter(|s| s.saturating_add(buf.len()) <= part.bytes.len()) else {
            return Err(layout("a page is not stored as it is"));
        };
        let (rep_len, def_len) = (rep_levels_byte_len as usize, def_levels_byte_len as usize);
        let (Some(rep), Some(def), Some(floats)) = (
            buf.get(..rep_len),
            buf.get(rep_len..rep_len.saturating_add(def_len)),
            buf.get(rep_len.saturating_add(def_len)..),
        ) else {
            return Err(layout("the levels of a page are longer than the page"));
        };
        let num_rows = num_rows as usize;
        if num_rows > rows - found.len() {
            return Err(layout("the pages hold more rows than the row group"));
        }
        let lengths =
            levels::decode(rep, def, num_values.into(), num_rows).map_err(|source| PartError::Levels {
                row_group,
                page,
                source,
            })?;
        let mut at = (start + rep_len + def_len) as u64;
        let end = at + floats.len() as u64;
        for length in lengths {
            found.push(length.map(|n| (at, n)));
            // The levels sum to num_values, a u32, so that this cannot overflow.
            at += 4 * length.unwrap_or(0);
        }
        if at != end {
            return Err(layout("a page has not as many values as its levels say"));
        }
    }
    if found.len() != rows {
        return Err(layout("the pages hold fewer rows than the row group"));
    }
    Ok(found)
}
