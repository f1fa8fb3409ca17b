//! Finds the footer, and looks at it before the Parquet library does.

use super::PartError;
use bytes::Bytes;

const MAGIC: &[u8] = b"PAR1";
/// Length of the footer (u32) and magic at the end of a file.
const TAIL: usize = 8;
/// The library walks the schema by recursion, one call a level, so that a crafted footer of nested groups
/// would overflow the stack, which nothing can catch. A part's schema has 28 elements.
const MAX_SCHEMA_ELEMENTS: u64 = 512;
/// Nesting of the footer's own structures; the format needs 7.
const MAX_DEPTH: u32 = 32;

/// The footer's bytes and its offset in the file.
pub(super) fn bytes(file: &Bytes) -> Result<(Bytes, u64), PartError> {
    if !file.starts_with(&MAGIC[..MAGIC.len().min(file.len())]) {
        return Err(PartError::NotParquet);
    }
    if file.len() < MAGIC.len() + TAIL || !file.ends_with(MAGIC) {
        return Err(PartError::CutOff);
    }
    let damaged = |problem: &str| PartError::Footer {
        problem: problem.into(),
    };
    let tail = file.len() - TAIL;
    let mut length = [0; 4];
    length.copy_from_slice(&file[tail..tail + 4]);
    let length = u32::from_le_bytes(length) as usize;
    if length > tail - MAGIC.len() {
        return Err(damaged("it is longer than the file"));
    }
    let footer = file.slice(tail - length..tail);
    match schema_elements(&footer) {
        Some(1..=MAX_SCHEMA_ELEMENTS) => Ok((footer, (tail - length) as u64)),
        Some(_) => Err(damaged("its schema is not one of a trace")),
        None => Err(damaged("it is not a Parquet footer")),
    }
}

/// Number of schema elements that a footer declares: the largest list in field 2 of `FileMetaData`.
fn schema_elements(footer: &[u8]) -> Option<u64> {
    let mut thrift = Compact { rest: footer };
    let (mut id, mut found) = (0, 0);
    while let Some(kind) = thrift.field(&mut id)? {
        if id == 2 && kind == LIST {
            // Looks ahead; `skip` reads the list again.
            let mut list = Compact { rest: thrift.rest };
            found = found.max(list.list()?.1);
        }
        thrift.skip(kind, MAX_DEPTH)?;
    }
    Some(found)
}

const LIST: u8 = 9;

/// Reads just enough of Thrift's compact protocol to skip over values. Every step consumes input, so that
/// the work is bounded by the footer's length; `None` is malformed input.
struct Compact<'a> {
    rest: &'a [u8],
}

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            value |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn advance(&mut self, n: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(n).ok()?..)?;
        Some(())
    }

    /// The type of the next field of a struct, whose id is put into `id`; the inner `None` at its end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = match head >> 4 {
            0 => {
                let z = self.varint()?;
                (z >> 1) as i64 ^ -((z & 1) as i64)
            }
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(head & 0xf))
    }

    /// Element type and length of a list.
    fn list(&mut self) -> Option<(u8, u64)> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            n => u64::from(n),
        };
        Some((head & 0xf, length))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()), // a boolean field is its type
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let n = self.varint()?;
                self.advance(n)
            }
            LIST | 10 => {
                let (element, n) = self.list()?;
                for _ in 0..n {
                    self.element(element, depth)?;
                }
                Some(())
            }
            11 => {
                let n = self.varint()?;
                let kinds = if n > 0 { self.byte()? } else { 0 };
                for _ in 0..n {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 0xf, depth)?;
                }
                Some(())
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// Booleans take a byte in lists and maps, and none in a struct.
    fn element(&mut self, kind: u8, depth: u32) -> Option<()> {
        match kind {
            1 | 2 => self.advance(1),
            _ => self.skip(kind, depth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_footer_of_many_nested_groups_is_refused_before_the_library_sees_it() {
        // version = 1; schema = a list of 100,000 groups, each of one child
        let mut footer = vec![0x15, 2, 0x19, 0xfc, 0xa0, 0x8d, 0x06];
        for _ in 0..100_000 {
            footer.extend([0x35, 0, 0x18, 1, b'g', 0x15, 2, 0]); // repetition, name, num_children
        }
        footer.push(0);
        assert_eq!(schema_elements(&footer), Some(100_000));
        let mut file = b"PAR1".to_vec();
        file.extend_from_slice(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        assert!(matches!(bytes(&file.into()), Err(PartError::Footer { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_skipped_or_refused(footer: Vec<u8>) {
            let _ = schema_elements(&footer);
        }
    }
}
