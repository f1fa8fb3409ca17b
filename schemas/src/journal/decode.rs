//! Reads entries, up to the first that cannot be trusted.

use super::row::{self, take_array, take_i32, take_i64, take_text, take_u64};
use super::{FRAME, HEADER, MAGIC, MAX_PAYLOAD, MAX_ROWS, PAGE, PageAt, ROWS, TOKENS, checksum};
use crate::levels::RowLen;
use crate::{RecordMeta, Sequence, run_dir};
use std::io::{self, Read};

/// Why a file is not a journal that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ends inside its first entry: its process died at once.
    #[error("the journal ends in its header")]
    Empty,
    /// It does not begin as a journal does.
    #[error("this is not a journal of version 1")]
    Magic,
    /// Its first entry is not a header.
    #[error("the journal's header is damaged: {0}")]
    Header(String),
}

/// Where a journal ends before its file does, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry at byte {at} is damaged: {problem}")]
pub struct Torn {
    /// Byte offset of the first entry that is not good.
    pub at: u64,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// An entry.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A page was written to the part, with these rows.
    Page(Page<'a>),
    /// Rows that wait for their page, with their values.
    Rows(Rows<'a>),
    /// Token ids.
    Tokens(Tokens<'a>),
}

/// A page in the part's file, and its rows.
#[derive(Debug)]
pub struct Page<'a> {
    /// Where it stands.
    pub at: PageAt,
    /// Its rows, whose values stand in the file.
    pub rows: Rows<'a>,
}

/// Rows of an entry.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    left: u32,
    rows: &'a [u8],
    /// The values of the rows to come, where the entry has them.
    values: Option<&'a [u8]>,
}

/// What a row has beside its scalar columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowData<'a> {
    /// Number of floats; `None` is null.
    pub floats: RowLen,
    /// Their bytes, of a row in an [`Entry::Rows`] that has floats.
    pub values: Option<&'a [u8]>,
    /// The original bytes.
    pub raw: Option<&'a [u8]>,
}

/// Token ids that a request was given.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    /// The request.
    pub request: i32,
    /// Position of the first.
    pub first_seq: i64,
    /// How many positions of the request had changed by then.
    pub rewrites: u64,
    left: u64,
    ids: &'a [u8],
}

/// Reads a journal.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Bytes that were read and are good.
    at: u64,
    bytes: u64,
    run: String,
    part: u32,
    created_by: String,
    payload: Vec<u8>,
    scratch: RecordMeta,
    torn: Option<Torn>,
}

impl<R: Read> Reader<R> {
    /// Reads the header of a journal of `bytes` bytes.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn new(mut from: R, bytes: u64) -> Result<Self, JournalError> {
        let mut magic = [0; MAGIC.len()];
        let known = (bytes as usize).min(magic.len());
        from.read_exact(&mut magic[..known])?;
        if magic[..known] != MAGIC[..known] {
            return Err(JournalError::Magic);
        }
        if known < magic.len() {
            return Err(JournalError::Empty);
        }
        let mut reader = Self {
            from,
            at: MAGIC.len() as u64,
            bytes,
            run: String::new(),
            part: 0,
            created_by: String::new(),
            payload: Vec::new(),
            scratch: RecordMeta::empty(),
            torn: None,
        };
        match reader.frame()? {
            Ok(true) => {}
            Ok(false) | Err("the file ends inside it") => return Err(JournalError::Empty),
            Err(problem) => return Err(JournalError::Header(problem.into())),
        }
        let damaged = |problem: &str| JournalError::Header(problem.into());
        let mut payload = &reader.payload[..];
        let (kind, part) = (take_array(&mut payload), take_array(&mut payload));
        if kind != Ok([HEADER]) {
            return Err(damaged("it is another entry"));
        }
        reader.part = u32::from_le_bytes(part.map_err(damaged)?);
        reader.run = take_text(&mut payload).map_err(damaged)?.to_owned();
        reader.created_by = take_text(&mut payload).map_err(damaged)?.to_owned();
        if !run_dir::is_run_name(&reader.run) {
            return Err(damaged("it does not name a run"));
        }
        reader.at += (FRAME + reader.payload.len()) as u64;
        Ok(reader)
    }

    /// Name of the run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Number of the part.
    pub fn part(&self) -> u32 {
        self.part
    }

    /// What the part's footer will say of its writer.
    pub fn created_by(&self) -> &str {
        &self.created_by
    }

    /// Bytes of the header and the entries so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Why [`next`](Self::next) ended before the file did.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// The next entry, all of whose rows were checked; `None` at the end, and at the first entry that is
    /// not good.
    ///
    /// # Errors
    /// Those of the file, and [`io::ErrorKind::OutOfMemory`].
    #[allow(clippy::should_implement_trait)] // an entry borrows from its reader
    pub fn next(&mut self) -> io::Result<Option<Entry<'_>>> {
        if self.torn.is_some() {
            return Ok(None);
        }
        let at = self.at;
        let problem = match self.frame()? {
            Ok(false) => return Ok(None),
            Ok(true) => {
                self.at += (FRAME + self.payload.len()) as u64;
                match parse(&self.payload, &mut self.scratch) {
                    Ok(entry) => return Ok(Some(entry)),
                    Err(problem) => problem,
                }
            }
            Err(problem) => problem,
        };
        self.at = at;
        self.torn = Some(Torn { at, problem });
        Ok(None)
    }

    /// Reads a payload: false at the end of the file, or what is wrong with the frame.
    fn frame(&mut self) -> io::Result<Result<bool, &'static str>> {
        let left = self.bytes.saturating_sub(self.at);
        if left == 0 {
            return Ok(Ok(false));
        }
        let Some(left) = left.checked_sub(FRAME as u64) else {
            return Ok(Err("the file ends inside it"));
        };
        let (mut length, mut sum) = ([0; 4], [0; 8]);
        self.from.read_exact(&mut length)?;
        self.from.read_exact(&mut sum)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_PAYLOAD {
            return Ok(Err("its length is impossible"));
        }
        if u64::from(length) > left {
            return Ok(Err("the file ends inside it"));
        }
        let length = length as usize;
        self.payload.clear();
        self.payload
            .try_reserve_exact(length)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.payload.resize(length, 0);
        self.from.read_exact(&mut self.payload)?;
        if checksum(&[&self.payload]) != u64::from_le_bytes(sum) {
            return Ok(Err("its checksum is wrong"));
        }
        Ok(Ok(true))
    }
}

/// An entry of a payload, with every row tried.
fn parse<'a>(mut from: &'a [u8], scratch: &mut RecordMeta) -> Result<Entry<'a>, &'static str> {
    let [kind] = take_array(&mut from)?;
    match kind {
        PAGE => {
            let at = PageAt {
                offset: u64::from_le_bytes(take_array(&mut from)?),
                bytes: u32::from_le_bytes(take_array(&mut from)?),
                checksum: u64::from_le_bytes(take_array(&mut from)?),
            };
            let left = u32::from_le_bytes(take_array(&mut from)?);
            let rows = Rows {
                left,
                rows: from,
                values: None,
            };
            let (floats, rest) = check(&rows, scratch)?;
            if !rest.is_empty() {
                return Err("bytes behind the rows of a page");
            }
            if floats.saturating_mul(4) > at.bytes.into() {
                return Err("more values than their page has bytes");
            }
            Ok(Entry::Page(Page { at, rows }))
        }
        ROWS => {
            let left = u32::from_le_bytes(take_array(&mut from)?);
            let mut rows = Rows {
                left,
                rows: from,
                values: None,
            };
            let (floats, values) = check(&rows, scratch)?;
            if floats.saturating_mul(4) != values.len() as u64 {
                return Err("not as many values as its rows say");
            }
            rows.rows = &from[..from.len() - values.len()];
            rows.values = Some(values);
            Ok(Entry::Rows(rows))
        }
        TOKENS => {
            let tokens = Tokens {
                request: take_i32(&mut from)?,
                first_seq: take_i64(&mut from)?,
                rewrites: take_u64(&mut from)?,
                left: take_u64(&mut from)?,
                ids: from,
            };
            let mut rest = from;
            for _ in 0..tokens.left {
                take_i32(&mut rest)?;
            }
            match rest {
                [] => Ok(Entry::Tokens(tokens)),
                _ => Err("bytes behind the token ids"),
            }
        }
        HEADER => Err("a second header"),
        _ => Err("an entry of an unknown kind"),
    }
}

/// Decodes every row: the sum of their floats, and the bytes behind them.
fn check<'a>(rows: &Rows<'a>, scratch: &mut RecordMeta) -> Result<(u64, &'a [u8]), &'static str> {
    let mut from = rows.rows;
    let mut floats = 0u64;
    match rows.left {
        0 => return Err("no rows"),
        1..=MAX_ROWS => {}
        _ => return Err("too many rows"),
    }
    for _ in 0..rows.left {
        let (row, _) = row::take(&mut from, scratch)?;
        floats = floats
            .checked_add(row.unwrap_or(0))
            .ok_or("a row of too many values")?;
    }
    Ok((floats, from))
}

impl<'a> Rows<'a> {
    /// Number of rows to come.
    pub fn left(&self) -> usize {
        self.left as usize
    }

    /// Puts the scalar columns of the next row into `meta`, whose texts are used again, and returns the
    /// rest of it; `None` behind the last.
    pub fn next_into(&mut self, meta: &mut RecordMeta) -> Option<RowData<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (floats, raw) = row::take(&mut self.rows, meta).ok()?; // it was tried before
        let values = match (&mut self.values, floats) {
            (Some(values), Some(floats)) => {
                let (row, rest) = values.split_at_checked(4 * floats as usize)?;
                *values = rest;
                Some(row)
            }
            _ => None,
        };
        Some(RowData { floats, values, raw })
    }
}

impl Tokens<'_> {
    /// The ids, from [`first_seq`](Self::first_seq) on; below 0 where one is not known.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        let mut from = self.ids;
        (0..self.left).map_while(move |_| take_i32(&mut from).ok())
    }

    /// Puts the ids into the request's sequence, which may know them already: a manifest is written from time to
    /// time, and may be older or newer than the entry. An entry that saw fewer changes than the sequence did
    /// is the older one and only fills positions of which nothing is known.
    ///
    /// A sequence is a dense list: it grows by at most `room` positions, which are taken off, and ids beyond
    /// are left out.
    pub fn replay(&self, sequence: &mut Sequence, room: &mut usize) {
        let newer = self.rewrites >= sequence.rewrites;
        sequence.rewrites = sequence.rewrites.max(self.rewrites);
        for (i, id) in self.ids().enumerate() {
            let position = self.first_seq.checked_add(i as i64);
            let position = position.and_then(|p| usize::try_from(p).ok());
            let Some(position) = position.filter(|&p| p < sequence.ids.len().saturating_add(*room)) else {
                continue;
            };
            if sequence.ids.len() <= position {
                *room -= position + 1 - sequence.ids.len();
                sequence.ids.resize(position + 1, None);
            }
            let known = &mut sequence.ids[position];
            if id >= 0 && (newer || known.is_none()) {
                *known = Some(id);
            }
        }
    }
}
