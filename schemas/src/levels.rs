//! Repetition and definition levels of the `values` column.
//!
//! `values` is an optional list of required floats, so a row is one of: null (definition level 0), an
//! empty list (1), or n elements (n times 2; repetition level 0, then n−1 times 1). Levels are written
//! as runs of Parquet's RLE/bit-packing hybrid, so a row costs a few bytes, whatever its length. The
//! run of definition levels may be split into several: legal bytes that move the start of the values
//! to an aligned offset.

/// Largest definition level of `values`.
pub const MAX_DEF: u8 = 2;
/// Largest repetition level of `values`.
pub const MAX_REP: u8 = 1;

/// Length of a row's list: `None` is a null list.
pub type RowLen = Option<u64>;

/// Why level bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The bytes end inside a run, or a length does not fit.
    #[error("levels are cut off at byte {0}")]
    Truncated(usize),
    /// A level above the column's maximum.
    #[error("level {0} is above the maximum")]
    TooLarge(u8),
    /// Repetition and definition levels contradict each other.
    #[error("a list continues where none was begun")]
    Orphan,
    /// More rows or values than the page declares.
    #[error("levels describe more rows or values than the page header declares")]
    TooMany,
    /// Fewer values than the page declares.
    #[error("levels describe {found} entries where the page header declares {declared}")]
    TooFew {
        /// Entries found.
        found: u64,
        /// Entries declared.
        declared: u64,
    },
}

/// Number of level entries of rows: what Parquet calls the page's `num_values`.
pub fn entries(rows: &[RowLen]) -> u64 {
    rows.iter().map(|r| r.unwrap_or(0).max(1)).sum()
}

/// Repetition levels of `rows`.
pub fn encode_repetition(rows: &[RowLen], out: &mut Vec<u8>) {
    let mut zeros = 0;
    for row in rows {
        zeros += 1;
        if let Some(rest @ 1..) = row.unwrap_or(0).checked_sub(1) {
            push_run(0, zeros, out);
            push_run(1, rest, out);
            zeros = 0;
        }
    }
    push_run(0, zeros, out);
}

/// Definition levels of `rows`, longer than the shortest encoding by exactly `padding` bytes.
///
/// Returns false, and writes the shortest encoding, where no splitting gives that length: in pages of a
/// few elements, and for odd bytes such as 1, which no run costs (to align to 64, ask for 64 more then).
pub fn encode_definition(rows: &[RowLen], padding: usize, out: &mut Vec<u8>) -> bool {
    let mut runs: Vec<(u8, u64)> = Vec::new();
    for row in rows {
        let (level, count) = match row {
            None => (0, 1),
            Some(0) => (1, 1),
            Some(n) => (2, *n),
        };
        match runs.last_mut() {
            Some((l, c)) if *l == level => *c += count,
            _ => runs.push((level, count)),
        }
    }
    let longest = (0..runs.len()).max_by_key(|&i| runs[i].1);
    let split = longest.and_then(|i| split_for(runs[i].1, padding));
    for (i, &(level, count)) in runs.iter().enumerate() {
        match (&split, Some(i) == longest) {
            (Some(parts), true) => parts.iter().for_each(|&n| push_run(level, n, out)),
            _ => push_run(level, count, out),
        }
    }
    padding == 0 || split.is_some()
}

/// Bytes of a run: its varint header and its value.
fn run_len(count: u64) -> usize {
    let bits = 64 - (count << 1).leading_zeros() as usize;
    bits.div_ceil(7).max(1) + 1
}

/// Lengths of runs that together hold `count` values and cost `padding` bytes more than one run does:
/// runs of one value (2 bytes each) and, for odd padding, of 64 (3 bytes).
fn split_for(count: u64, padding: usize) -> Option<Vec<u64>> {
    let wanted = run_len(count) + padding;
    for long in 0..=2u64 {
        for short in 0..=wanted as u64 / 2 {
            let Some(rest) = count.checked_sub(short + 64 * long) else {
                break;
            };
            let rest_len = if rest == 0 { 0 } else { run_len(rest) };
            if 2 * short as usize + 3 * long as usize + rest_len == wanted {
                let mut runs = vec![1; short as usize];
                runs.extend(std::iter::repeat_n(64, long as usize));
                runs.extend((rest > 0).then_some(rest));
                return Some(runs);
            }
        }
    }
    None
}

fn push_run(level: u8, count: u64, out: &mut Vec<u8>) {
    if count == 0 {
        return;
    }
    let mut header = count << 1;
    while header >= 0x80 {
        out.push(header as u8 | 0x80);
        header >>= 7;
    }
    out.push(header as u8);
    out.push(level);
}

/// Row lengths from the level bytes of a page that declares `num_values` entries in `num_rows` rows.
///
/// # Errors
/// [`LevelError`] for bytes that are not levels of such a page. Nothing is allocated beyond `num_rows`
/// entries, so the caller bounds `num_rows` by what it can check.
pub fn decode(rep: &[u8], def: &[u8], num_values: u64, num_rows: usize) -> Result<Vec<RowLen>, LevelError> {
    let (mut rep, mut def) = (Runs::new(rep, 1, num_values), Runs::new(def, 2, num_values));
    let mut rows: Vec<RowLen> = Vec::new();
    let mut found = 0u64;
    while found < num_values {
        let (r, left) = rep.current()?.ok_or(LevelError::TooFew {
            found,
            declared: num_values,
        })?;
        let (d, right) = def.current()?.ok_or(LevelError::TooFew {
            found,
            declared: num_values,
        })?;
        let count = left.min(right).min(num_values - found);
        if d > MAX_DEF || r > MAX_REP {
            return Err(LevelError::TooLarge(d.max(r)));
        }
        if r == 0 {
            if rows.len() as u64 + count > num_rows as u64 {
                return Err(LevelError::TooMany);
            }
            let row = [None, Some(0), Some(1)][usize::from(d)];
            rows.extend(std::iter::repeat_n(row, count as usize));
        } else {
            match rows.last_mut() {
                Some(Some(n @ 1..)) if d == MAX_DEF => *n += count,
                _ => return Err(LevelError::Orphan),
            }
        }
        rep.advance(count);
        def.advance(count);
        found += count;
    }
    if rows.len() != num_rows {
        return Err(LevelError::TooFew {
            found: rows.len() as u64,
            declared: num_rows as u64,
        });
    }
    Ok(rows)
}

/// Reads the RLE/bit-packing hybrid as (level, count) runs.
struct Runs<'a> {
    bytes: &'a [u8],
    at: usize,
    width: usize,
    limit: u64,
    run: Option<(u8, u64)>,
    packed: u64, // values left of a bit-packed run
    bit: usize,
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8], width: usize, limit: u64) -> Self {
        Self {
            bytes,
            at: 0,
            width,
            limit,
            run: None,
            packed: 0,
            bit: 0,
        }
    }

    fn byte(&mut self) -> Result<u8, LevelError> {
        let b = *self.bytes.get(self.at).ok_or(LevelError::Truncated(self.at))?;
        self.at += 1;
        Ok(b)
    }

    fn current(&mut self) -> Result<Option<(u8, u64)>, LevelError> {
        while self.run.is_none_or(|(_, n)| n == 0) {
            if self.packed > 0 {
                let at = self.at + self.bit / 8;
                let byte = *self.bytes.get(at).ok_or(LevelError::Truncated(at))?;
                let level = (byte >> (self.bit % 8)) & ((1 << self.width) - 1);
                self.bit += self.width;
                self.packed -= 1;
                if self.packed == 0 {
                    self.at += self.bit.div_ceil(8);
                }
                self.run = Some((level, 1));
            } else if self.at == self.bytes.len() {
                return Ok(None);
            } else {
                self.header()?;
            }
        }
        Ok(self.run)
    }

    fn header(&mut self) -> Result<(), LevelError> {
        let mut header = 0u64;
        for shift in (0..).step_by(7) {
            let b = self.byte()?;
            if shift > 35 {
                return Err(LevelError::Truncated(self.at));
            }
            header |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                break;
            }
        }
        let count = header >> 1;
        if header & 1 == 1 {
            self.packed = count.saturating_mul(8);
            self.bit = 0;
            if self.packed > self.limit.saturating_add(7) {
                return Err(LevelError::TooMany);
            }
        } else {
            self.run = Some((self.byte()?, count));
        }
        Ok(())
    }

    fn advance(&mut self, count: u64) {
        if let Some((_, n)) = &mut self.run {
            *n -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = RowLen> {
        prop_oneof![
            Just(None),
            Just(Some(0)),
            (1u64..5).prop_map(Some),
            (1u64..400).prop_map(Some),
            (8000u64..2_000_000).prop_map(Some)
        ]
    }

    proptest! {
        #[test]
        fn levels_round_trip_with_any_padding(rows in proptest::collection::vec(row(), 1..20), padding in 0usize..64) {
            let (mut rep, mut def, mut plain) = (vec![], vec![], vec![]);
            encode_repetition(&rows, &mut rep);
            let padded = encode_definition(&rows, padding, &mut def);
            prop_assert!(encode_definition(&rows, 0, &mut plain));
            prop_assert_eq!(def.len() - plain.len(), if padded { padding } else { 0 });
            prop_assert_eq!(decode(&rep, &def, entries(&rows), rows.len()), Ok(rows));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(rep: Vec<u8>, def: Vec<u8>, values in 0u64..1000, rows in 0usize..1000) {
            if let Ok(found) = decode(&rep, &def, values, rows) {
                prop_assert_eq!(found.len(), rows);
                prop_assert_eq!(entries(&found), values);
            }
        }
    }

    #[test]
    fn every_alignment_is_reachable_from_256_elements_on() {
        for n in (256..9000).chain([16_000, 65_536, 1_048_576, 5_000_000]) {
            for padding in 0..64 {
                let reached = [padding, padding + 64].into_iter().find(|&p| {
                    let mut def = vec![];
                    encode_definition(&[Some(n)], p, &mut def) && def.len() == run_len(n) + p
                });
                assert!(reached.is_some(), "{n} elements, {padding} bytes");
            }
        }
    }

    #[test]
    fn bit_packed_levels_of_other_writers_are_read() {
        // rows [2 elements], null, [1]: repetition 0 1 0 0, definition 2 2 0 2
        let (rep, def) = ([0b11, 0b0010], [0b11, 0b1000_1010, 0]);
        assert_eq!(decode(&rep, &def, 4, 3), Ok(vec![Some(2), None, Some(1)]));
    }
}
