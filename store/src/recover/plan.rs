//! Reads a journal and looks whether the part has what it says. Nothing is changed.

use super::Progress;
use super::files::Files;
use bitnet_trace_schema::journal::{Checksum, Entry, JournalError, PageAt, Reader, Tokens};
use bitnet_trace_schema::run_dir;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// What can be saved of an open part.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) number: u32,
    /// Number of good pages.
    pub(super) pages: usize,
    /// Where the last of them ends; 0 where there is none.
    pub(super) end: u64,
    /// Rows of these pages.
    paged: u64,
    /// Rows behind them, which no page has.
    pub(super) waiting: u64,
    /// Bytes of the file behind its last good page.
    pub(super) cut_bytes: u64,
    /// Why what the journal says after that was not used.
    pub(super) problem: Option<String>,
}

/// Why a journal does not help.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It is none, or that of another part: it is left alone, and so is its part.
    Journal(String),
    /// It could not be read, this time.
    Io(String),
}

impl Plan {
    pub(super) fn rows(&self) -> u64 {
        self.paged + self.waiting
    }

    pub(super) fn name(&self) -> String {
        run_dir::part_name(self.number)
    }
}

/// The journal of a part, whose header fits; `None` where it is cut off in its header.
pub(super) fn open(
    files: &Files<'_>,
    number: u32,
    run: &str,
) -> Result<Option<Reader<BufReader<File>>>, Unusable> {
    let name = format!("{}{}", run_dir::part_name(number), run_dir::JOURNAL_SUFFIX);
    let left = |problem: String| Unusable::Journal(format!("{name} is left as it is: {problem}"));
    let file = files.journal(number).map_err(|e| left(e.to_string()))?;
    let bytes = file.metadata().map_err(|e| Unusable::Io(e.to_string()))?.len();
    let reader = match Reader::new(BufReader::with_capacity(1 << 16, file), bytes) {
        Ok(reader) => reader,
        Err(JournalError::Empty) => return Ok(None),
        Err(JournalError::Io(e)) => return Err(Unusable::Io(format!("{name}: {e}"))),
        Err(error) => return Err(left(error.to_string())),
    };
    if (reader.run(), reader.part()) != (run, number) {
        let (run, part) = (reader.run(), reader.part());
        return Err(left(format!("it belongs to part {part} of the run {run:?}")));
    }
    Ok(Some(reader))
}

/// Finds the last good page of the part, and tells of token ids. `None` where there is no such open part.
pub(super) fn read(
    files: &Files<'_>,
    number: u32,
    run: &str,
    tokens: &mut dyn FnMut(&Tokens<'_>),
    progress: &mut Progress<'_>,
) -> Result<Option<Plan>, Unusable> {
    let journal = open(files, number, run)?;
    let part = match files.read_open(number) {
        Ok(file) => Some(Part::new(file).map_err(|e| Unusable::Io(e.to_string()))?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Unusable::Journal(e.to_string())),
    };
    let mut plan = Plan {
        number,
        ..Plan::default()
    };
    let Some(mut journal) = journal else {
        return Ok(part.map(|part| Plan {
            cut_bytes: part.bytes,
            ..plan
        }));
    };
    let io = |e: io::Error| Unusable::Io(format!("{}: {e}", run_dir::part_name(number)));
    let mut part = part;
    while let Some(entry) = journal.next().map_err(io)? {
        match entry {
            Entry::Tokens(t) => tokens(&t),
            _ if plan.problem.is_some() => {}
            Entry::Rows(rows) => plan.waiting += rows.left() as u64,
            Entry::Page(page) => {
                let Some(part) = &mut part else { continue };
                match part.check(&page.at, plan.end, progress).map_err(io)? {
                    Ok(end) => {
                        plan.pages += 1;
                        plan.end = end;
                        plan.paged += page.rows.left() as u64;
                        plan.waiting = 0;
                    }
                    Err(problem) => {
                        plan.problem = Some(format!("the page at byte {} {problem}", page.at.offset))
                    }
                }
            }
        }
    }
    if plan.problem.is_none() {
        plan.problem = journal.torn().map(|t| format!("the journal ends early: {t}"));
    }
    Ok(part.map(|part| Plan {
        cut_bytes: part.bytes.saturating_sub(plan.end.max(4)),
        ..plan
    }))
}

/// The file of an open part.
struct Part {
    file: File,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Part {
    fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            bytes: file.metadata()?.len(),
            file,
            buffer: vec![0; 1 << 18],
        })
    }

    /// Where a page ends, if it is in the file as the journal says, behind `end`.
    fn check(
        &mut self,
        at: &PageAt,
        end: u64,
        progress: &mut Progress<'_>,
    ) -> io::Result<Result<u64, &'static str>> {
        let after = at.offset.checked_add(at.bytes.into());
        let Some(after) = after.filter(|_| at.bytes <= i32::MAX as u32 && at.offset >= end.max(4)) else {
            return Ok(Err("cannot be there"));
        };
        if after > self.bytes {
            return Ok(Err("is cut off"));
        }
        self.file.seek(SeekFrom::Start(at.offset))?;
        let mut sum = Checksum::default();
        let mut left = at.bytes as usize;
        while left > 0 {
            let piece = left.min(self.buffer.len());
            self.file.read_exact(&mut self.buffer[..piece])?;
            sum.write(&self.buffer[..piece]);
            left -= piece;
        }
        progress.add(at.bytes.into());
        Ok(match sum.finish() == at.checksum {
            true => Ok(after),
            false => Err("is not the one of the journal"),
        })
    }
}
