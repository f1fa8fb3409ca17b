//! One row: every scalar column, and the bytes of `raw`.

use crate::levels::RowLen;
use crate::{RecordMeta, Stats};

/// Bits of a row's first byte: which moments there are (bits 0 to 4), whether it has values, whether raw bytes.
const HAS_VALUES: u8 = 1 << 5;
const HAS_RAW: u8 = 1 << 6;

/// Most bytes that a row takes beside its texts, its shape and its raw bytes.
pub(super) const FIXED: usize = 1 + 14 * 10 + 5 * 8 + 32;
/// Most bytes of a number.
pub(super) const NUMBER: usize = 10;

/// Appends a row. `hash` are the 32 bytes of its `blake3`.
pub(super) fn put(meta: &RecordMeta, hash: &[u8; 32], floats: RowLen, raw: Option<&[u8]>, out: &mut Vec<u8>) {
    let s = &meta.stats;
    let moments = [s.rms, s.mean, s.min, s.max, s.abs_max];
    let mut flags = 0;
    for (i, moment) in moments.iter().enumerate() {
        flags |= u8::from(moment.is_some()) << i;
    }
    flags |= if floats.is_some() { HAS_VALUES } else { 0 };
    flags |= if raw.is_some() { HAS_RAW } else { 0 };
    out.push(flags);
    put_i64(meta.seq, out);
    put_i64(meta.layer.into(), out);
    put_text(&meta.stage, out);
    put_text(&meta.name, out);
    put_text(&meta.op, out);
    put_i64(meta.op_index, out);
    put_i64(meta.request.into(), out);
    put_i64(meta.pass.into(), out);
    put_i64(meta.occurrence.into(), out);
    put_u64(meta.shape.len() as u64, out);
    for &extent in &meta.shape {
        put_i64(extent, out);
    }
    put_text(meta.dtype.name(), out);
    put_i64(meta.num_elements, out);
    out.extend_from_slice(hash);
    for moment in moments.into_iter().flatten() {
        out.extend_from_slice(&moment.to_le_bytes());
    }
    put_u64(s.nan_count, out);
    put_u64(s.inf_count, out);
    if let Some(floats) = floats {
        put_u64(floats, out);
    }
    if let Some(raw) = raw {
        put_u64(raw.len() as u64, out);
        out.extend_from_slice(raw);
    }
}

/// Takes a row from the front of `from` into `meta`, whose texts are used again.
///
/// # Errors
/// What is wrong with it.
pub(super) fn take<'a>(
    from: &mut &'a [u8],
    meta: &mut RecordMeta,
) -> Result<(RowLen, Option<&'a [u8]>), &'static str> {
    let [flags] = take_array(from)?;
    meta.seq = take_i64(from)?;
    meta.layer = take_i32(from)?;
    meta.stage.set(take_text(from)?);
    meta.name.set(take_text(from)?);
    meta.op.set(take_text(from)?);
    meta.op_index = take_i64(from)?;
    meta.request = take_i32(from)?;
    meta.pass = take_i32(from)?;
    meta.occurrence = take_i32(from)?;
    let dims = take_u64(from)?;
    // an extent takes a byte or more, so what is reserved is no more than what was read
    if dims > from.len() as u64 {
        return Err("a shape longer than its entry");
    }
    meta.shape.clear();
    for _ in 0..dims {
        meta.shape.push(take_i64(from)?);
    }
    meta.dtype = take_text(from)?.parse().map_err(|_| "an unknown dtype")?;
    meta.num_elements = take_i64(from)?;
    let hash: [u8; 32] = take_array(from)?;
    meta.blake3.clear();
    for byte in hash {
        for digit in [byte >> 4, byte & 15] {
            meta.blake3
                .push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    let mut moments = [None; 5];
    for (i, moment) in moments.iter_mut().enumerate() {
        if flags & (1 << i) != 0 {
            *moment = Some(f64::from_le_bytes(take_array(from)?));
        }
    }
    let [rms, mean, min, max, abs_max] = moments;
    meta.stats = Stats {
        rms,
        mean,
        min,
        max,
        abs_max,
        nan_count: take_count(from)?,
        inf_count: take_count(from)?,
    };
    let floats = match flags & HAS_VALUES {
        0 => None,
        _ => Some(take_u64(from)?),
    };
    let raw = match flags & HAS_RAW {
        0 => None,
        _ => Some(take_bytes(from)?),
    };
    Ok((floats, raw))
}

/// The 32 bytes of 64 hex digits.
pub(super) fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let digit = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// LEB128: 7 bits a byte, the low ones first, the top bit says that more follow.
pub(super) fn put_u64(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Zigzag, so that small negative numbers are short, too.
pub(super) fn put_i64(number: i64, out: &mut Vec<u8>) {
    put_u64((number << 1 ^ number >> 63) as u64, out);
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_u64(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn take_array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (array, rest) = from.split_first_chunk().ok_or("it ends inside a field")?;
    *from = rest;
    Ok(*array)
}

pub(super) fn take_u64(from: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(from)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits")
}

pub(super) fn take_i64(from: &mut &[u8]) -> Result<i64, &'static str> {
    let zigzag = take_u64(from)?;
    Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

pub(super) fn take_i32(from: &mut &[u8]) -> Result<i32, &'static str> {
    i32::try_from(take_i64(from)?).map_err(|_| "a number of more than 32 bits")
}

/// A count that the columns of a part can hold.
fn take_count(from: &mut &[u8]) -> Result<u64, &'static str> {
    let count = take_u64(from)?;
    i64::try_from(count).map_err(|_| "a count of more than 63 bits")?;
    Ok(count)
}

pub(super) fn take_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(take_u64(from)?).unwrap_or(usize::MAX);
    let (bytes, rest) = from
        .split_at_checked(length)
        .ok_or("bytes longer than their entry")?;
    *from = rest;
    Ok(bytes)
}

pub(super) fn take_text<'a>(from: &mut &'a [u8]) -> Result<&'a str, &'static str> {
    std::str::from_utf8(take_bytes(from)?).map_err(|_| "a text that is not UTF-8")
}
