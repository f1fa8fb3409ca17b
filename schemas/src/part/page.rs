//! A page of the `values` column: header, levels, and where its floats begin.

use crate::levels::{self, RowLen};

/// Where in the file the floats of a page should begin: a multiple of a cache line, so that a reader of
/// the mapped file gets aligned slices.
const ALIGNMENT: u64 = 64;

/// Puts header and levels of a page into `out`, to be followed by its floats; `levels` is memory that is used
/// again. The page will be written at `offset` in the file, and its definition levels are lengthened so
/// that the floats begin aligned, which is possible but for pages of a few floats.
pub(super) fn begin_page(rows: &[RowLen], offset: u64, levels: &mut Vec<u8>, out: &mut Vec<u8>) {
    let floats: u64 = rows.iter().map(|row| row.unwrap_or(0)).sum();
    levels.clear();
    levels::encode_repetition(rows, levels);
    let rep_len = levels.len();
    let mut padding = 0;
    // a longer page may need a longer header, so that a second look is due; more than a few never are
    for _ in 0..8 {
        levels.truncate(rep_len);
        let padded = levels::encode_definition(rows, padding, levels);
        header(rows, floats, rep_len, levels.len() - rep_len, out);
        let start = offset + (out.len() + levels.len()) as u64;
        let missing = (ALIGNMENT - start % ALIGNMENT) % ALIGNMENT;
        if floats == 0 || (padded && missing == 0) {
            break;
        }
        padding += if padded {
            missing as usize
        } else {
            ALIGNMENT as usize
        };
    }
    out.extend_from_slice(levels);
}

/// Parquet's `PageHeader` of an uncompressed data page v2, in Thrift's compact protocol.
fn header(rows: &[RowLen], floats: u64, rep_len: usize, def_len: usize, out: &mut Vec<u8>) {
    let entries = levels::entries(rows);
    let size = floats * 4 + (rep_len + def_len) as u64;
    let mut thrift = Compact { out, last: 0 };
    thrift.out.clear();
    thrift.int(1, 3); // type: DATA_PAGE_V2
    thrift.int(2, size); // uncompressed_page_size
    thrift.int(3, size); // compressed_page_size
    thrift.field(8, STRUCT); // data_page_header_v2
    thrift.last = 0;
    thrift.int(1, entries); // num_values
    thrift.int(2, entries - floats); // num_nulls: entries without a float
    thrift.int(3, rows.len() as u64); // num_rows
    thrift.int(4, 0); // encoding: PLAIN
    thrift.int(5, def_len as u64); // definition_levels_byte_length
    thrift.int(6, rep_len as u64); // repetition_levels_byte_length
    thrift.field(7, FALSE); // is_compressed
    thrift.out.extend([STOP, STOP]);
}

const STOP: u8 = 0;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

/// As much of Thrift's compact protocol as a page header needs.
struct Compact<'a> {
    out: &'a mut Vec<u8>,
    last: u8,
}

impl Compact<'_> {
    /// A field's header: the distance from the field before, and its type.
    fn field(&mut self, id: u8, kind: u8) {
        self.out.push((id - self.last) << 4 | kind);
        self.last = id;
    }

    /// An i32, zigzag and as a varint. The callers' numbers are below 2^31 as a page is below 2 GiB.
    fn int(&mut self, id: u8, value: u64) {
        self.field(id, I32);
        let mut rest = value << 1;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_begin_aligned_wherever_a_page_begins() {
        let (mut out, mut levels) = (vec![], vec![]);
        let pages: [&[RowLen]; 6] = [
            &[Some(576)],
            &[Some(64); 1000],
            &[None, Some(0), Some(2560), None],
            &[Some(327_680)],
            &[Some(1); 300],
            &[Some(9), Some(49_152)],
        ];
        for rows in pages {
            for offset in (4..400).chain([1 << 30, (1 << 31) - 7]) {
                begin_page(rows, offset, &mut levels, &mut out);
                assert_eq!((offset + out.len() as u64) % 64, 0, "{rows:?} at {offset}");
            }
        }
    }

    #[test]
    fn a_page_that_cannot_be_aligned_is_short() {
        let (mut out, mut levels) = (vec![], vec![]);
        begin_page(&[Some(3)], 4, &mut levels, &mut out);
        assert!(out.len() < 128, "{}", out.len());
        begin_page(&[None, None, Some(0)], 4, &mut levels, &mut out);
        assert!(out.len() < 40, "{}", out.len());
    }
}
