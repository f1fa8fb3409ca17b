//! Changes that a reader does not refuse at once.

use crate::archive;
use bitnet_trace_schema::journal::{MAGIC, checksum};
use libfuzzer_sys::fuzzer_mutate;

/// Numbers that a seed of libFuzzer's gives.
pub struct Random(u64);

impl Random {
    /// A sequence that begins at `seed`.
    pub fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`; 0 where `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// Changes up to 64 bytes of `bytes` and no length, so that every offset still holds.
pub fn in_place(bytes: &mut [u8], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let start = random.below(bytes.len());
    let length = (1 + random.below(64)).min(bytes.len() - start);
    let mut window = bytes[start..start + length].to_vec();
    let n = fuzzer_mutate(&mut window, length, length).min(length);
    bytes[start..start + n].copy_from_slice(&window[..n]);
}

/// Changes a part: anywhere in place, or its footer, whose length is then put right. Where the result is no
/// part, or sometimes, whatever libFuzzer likes.
pub fn part(bytes: &mut Vec<u8>, max: usize, random: &mut Random) {
    const TAIL: usize = 8;
    let tail = bytes.len().saturating_sub(TAIL);
    let footer = match bytes.get(tail..tail + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => usize::MAX,
    };
    let kind = random.below(8);
    if footer > tail || kind == 0 {
        return anything(bytes, max);
    }
    let at = tail - footer;
    match kind {
        1..=3 => in_place(&mut bytes[..at], random),
        4..=5 => in_place(&mut bytes[at..tail], random),
        _ => {
            let mut changed = bytes[at..tail].to_vec();
            anything(&mut changed, max.saturating_sub(at + TAIL).max(1));
            bytes.truncate(at);
            bytes.extend_from_slice(&changed);
            bytes.extend((changed.len() as u32).to_le_bytes());
            bytes.extend(b"PAR1");
        }
    }
}

/// Changes a row table in place: its check puts the checksum right. Sometimes whole lines of 64 bytes, of which sections are
/// made, are left out, doubled or swapped, and seldom it is whatever libFuzzer likes.
pub fn rows(bytes: &mut Vec<u8>, max: usize, random: &mut Random) {
    const LINE: usize = 64;
    let lines = bytes.len() / LINE;
    let kind = random.below(16);
    if lines < 3 || kind == 0 {
        return anything(bytes, max);
    }
    let (chosen, other) = (random.below(lines) * LINE, random.below(lines) * LINE);
    match kind {
        1 => drop(bytes.drain(chosen..chosen + LINE)),
        2 if bytes.len() + LINE <= max => {
            drop(bytes.splice(other..other, bytes[chosen..chosen + LINE].to_vec()))
        }
        3 if chosen != other => {
            let (low, high) = bytes.split_at_mut(chosen.max(other));
            low[chosen.min(other)..][..LINE].swap_with_slice(&mut high[..LINE]);
        }
        // the head and the names, where most of what can be wrong is
        4..=9 => {
            let end = (10 * LINE).min(bytes.len());
            in_place(&mut bytes[LINE..end], random);
        }
        _ => in_place(bytes, random),
    }
}

/// Changes a journal: entries in place, as a whole, left out, twice or swapped, with lengths and checksums put
/// right. Where the result is no journal, or sometimes, whatever libFuzzer likes.
pub fn journal(bytes: &mut Vec<u8>, max: usize, random: &mut Random) {
    let Some(mut entries) = payloads(bytes) else {
        return anything(bytes, max);
    };
    if entries.is_empty() || random.below(8) == 0 {
        return anything(bytes, max);
    }
    let (chosen, other) = (random.below(entries.len()), random.below(entries.len()));
    let room = max.saturating_sub(bytes.len());
    match random.below(8) {
        0 => drop(entries.remove(chosen)),
        1 => entries.insert(other, entries[chosen].clone()),
        2 => entries.swap(chosen, other),
        3..=5 => in_place(&mut entries[chosen], random),
        _ => {
            let most = (entries[chosen].len() + room).max(1);
            anything(&mut entries[chosen], most);
        }
    }
    put(entries, bytes);
}

/// Writes the checksums of a part's pages, as they are now, into its journal.
fn put_pages_right(journal: &mut Vec<u8>, part: &[u8]) {
    const PAGE: u8 = 2;
    let Some(mut entries) = payloads(journal) else {
        return;
    };
    for page in entries.iter_mut().filter(|entry| entry.first() == Some(&PAGE)) {
        let Some((head, sum)) = page[1..].split_at_mut_checked(8 + 4) else {
            continue;
        };
        let offset = u64::from_le_bytes(std::array::from_fn(|i| head[i])) as usize;
        let bytes = u32::from_le_bytes(std::array::from_fn(|i| head[8 + i])) as usize;
        let at = part.get(offset..offset.saturating_add(bytes));
        if let (Some(at), Some(sum)) = (at, sum.first_chunk_mut::<8>()) {
            *sum = checksum(&[at]).to_le_bytes();
        }
    }
    put(entries, journal);
}

/// Entries with these payloads, behind the journal's magic.
fn put(entries: Vec<Vec<u8>>, journal: &mut Vec<u8>) {
    journal.truncate(MAGIC.len());
    for payload in entries {
        journal.extend((payload.len() as u32).to_le_bytes());
        journal.extend(checksum(&[&payload]).to_le_bytes());
        journal.extend(payload);
    }
}

/// Bytes before a payload: its length, its checksum.
const FRAME: usize = 4 + 8;

/// The payloads of a journal's entries, up to one that is cut off.
fn payloads(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = bytes.strip_prefix(&MAGIC)?;
    let mut payloads = Vec::new();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let end = FRAME.saturating_add(u32::from_le_bytes(*length) as usize);
        let Some(payload) = rest.get(FRAME..end) else {
            break;
        };
        payloads.push(payload.to_vec());
        rest = &rest[end..];
    }
    Some(payloads)
}

/// Changes one file of a run in a way that suits its name, or sometimes the whole.
pub fn run(bytes: &mut Vec<u8>, max: usize, random: &mut Random) {
    let mut files = archive::unpack(bytes);
    if files.is_empty() || random.below(8) == 0 {
        return anything(bytes, max);
    }
    let chosen = random.below(files.len());
    let room = max.saturating_sub(bytes.len());
    let (name, file) = &mut files[chosen];
    let room = file.len() + room;
    if name.ends_with(".parquet") {
        part(file, room, random);
    } else if name.ends_with(".journal") {
        journal(file, room, random);
    } else if let Some(stem) = name.strip_suffix("open") {
        in_place(file, random);
        let (part, journal) = (std::mem::take(file), format!("{stem}journal"));
        if let Some((_, journal)) = files.iter_mut().find(|(name, _)| *name == journal) {
            put_pages_right(journal, &part);
        }
        files[chosen].1 = part;
    } else if random.below(2) == 0 {
        in_place(file, random);
    } else {
        anything(file, room.max(1));
    }
    *bytes = archive::pack(&files);
}

/// Whatever libFuzzer likes.
pub fn anything(bytes: &mut Vec<u8>, max: usize) {
    let size = bytes.len().min(max);
    bytes.resize(max, 0);
    let n = fuzzer_mutate(bytes, size, max);
    bytes.truncate(n);
}

/// The crates of whose panics the store makes errors.
pub const PARQUET: &[&str] = &["/parquet-", "/arrow-", "/thrift-", "/bytes-"];

/// Runs `change` on libFuzzer's buffer, as its custom mutator must.
pub fn with(
    data: &mut [u8],
    size: usize,
    max: usize,
    seed: u32,
    change: impl FnOnce(&mut Vec<u8>, &mut Random),
) -> usize {
    let mut bytes = data[..size].to_vec();
    change(&mut bytes, &mut Random::new(seed));
    bytes.truncate(max);
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Lets panics in `crates` that another crate is known to catch be caught, and ends the process at all others.
///
/// libFuzzer's own hook ends it at every panic; the store catches those of the Parquet library.
pub fn let_be_caught(crates: &'static [&'static str]) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |l| l.file());
        if !crates.iter().any(|c| file.contains(c)) {
            default(info);
        }
    }));
}
