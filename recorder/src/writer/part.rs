//! The files of a part: created under its `.open` name with a journal beside it, filled by the encoder, sealed.

use super::disk::{self, LARGE_PAGE};
use super::journal::Journal;
use crate::{Layout, run::sync_dir, shared::Shared};
use bitnet_trace_schema::journal::PushError;
use bitnet_trace_schema::part::{EncodeError, PageBytes, PartEncoder, Row, Sink};
use bitnet_trace_schema::{PartEntry, run_dir};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The system is asked to begin with bringing a part to the disk after so many bytes, so that little is left to
/// wait for when the part is sealed.
const BEHIND: u64 = 8 << 20;

/// Why a part could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{0}")]
    Journal(#[from] PushError),
    #[error("no memory for {0} bytes of values")]
    Memory(usize),
}

impl PartError {
    pub fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

/// A part that is being written, under its `.open` name.
pub(crate) struct Part<'a> {
    name: String,
    encoder: PartEncoder,
    out: Output<'a>,
}

/// The part's file and its journal.
struct Output<'a> {
    shared: &'a Shared,
    path: PathBuf,
    file: File,
    journal: Journal,
    /// End of the last page that the journal names.
    end: u64,
    /// End of the zeros that were written ahead of pages.
    ahead: u64,
    /// End of what the system was asked to bring to the disk.
    begun: u64,
    /// Rows of the pages that the journal names.
    paged: u64,
    /// Rows that the journal names, with a page or without.
    safe: u64,
}

/// A part that has its name. Its journal is still there.
pub(crate) struct Sealed {
    pub entry: PartEntry,
    pub journal: PathBuf,
}

impl<'a> Part<'a> {
    /// Creates part number `index` of the run.
    pub fn create(shared: &'a Shared, index: u32, layout: Layout) -> Result<Self, PartError> {
        let writer = &shared.writer;
        let created_by = format!("{} version {}", writer.name, writer.version);
        let encoder = PartEncoder::new(&shared.run, &created_by, layout)?;
        let name = run_dir::part_name(index);
        let path = shared.dir.join(format!("{name}{}", run_dir::OPEN_SUFFIX));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| PartError::io(&path, error))?;
        let journal = shared.dir.join(format!("{name}{}", run_dir::JOURNAL_SUFFIX));
        let journal = Journal::create(&journal, shared, index, &created_by)?;
        if shared.is_durable() {
            sync_dir(&shared.dir).map_err(|error| PartError::io(&shared.dir, error))?;
        }
        Ok(Self {
            name,
            encoder,
            out: Output {
                shared,
                path,
                file,
                journal,
                end: 0,
                ahead: 0,
                begun: 0,
                paged: 0,
                safe: 0,
            },
        })
    }

    /// Whether the file is large enough that the next row belongs to another part.
    pub fn is_full(&self) -> bool {
        self.encoder.is_full()
    }

    /// How many of the part's rows the death of the process cannot lose any more.
    pub fn safe_rows(&self) -> u64 {
        self.out.safe
    }

    /// Whether a crash would lose rows that were pushed.
    pub fn is_behind(&self) -> bool {
        self.out.journal.is_behind()
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), PartError> {
        self.encoder.push(row, &mut self.out)
    }

    /// Makes every row safe that was pushed, and the token ids that came.
    pub fn save(&mut self) -> Result<(), PartError> {
        let (_, values) = self.encoder.pending();
        self.out.journal.rows(values, self.out.shared)?;
        self.out.safe = self.encoder.rows();
        self.out.sync()
    }

    /// Ends the file and gives it its name. The order makes a part that has its name whole, whatever
    /// happens: the footer is written, the file's bytes are forced to disk, only then is it renamed, and
    /// the directory is forced to disk as it holds the name. The journal is left to the caller.
    pub fn seal(self) -> Result<Sealed, PartError> {
        let Self {
            name,
            encoder,
            mut out,
        } = self;
        let (rows, dir) = (encoder.rows(), &out.shared.dir);
        let ended = encoder.finish(&mut out).and_then(|bytes| {
            (out.cut())
                .and_then(|()| out.file.sync_all())
                .and_then(|()| std::fs::rename(&out.path, dir.join(&name)))
                .map_err(|error| PartError::io(&out.path, error))?;
            Ok(bytes)
        });
        let bytes = ended.inspect_err(|_| out.make_room())?;
        sync_dir(dir).map_err(|error| PartError::io(dir, error))?;
        Ok(Sealed {
            entry: PartEntry {
                file: name,
                rows,
                bytes,
            },
            journal: out.journal.path,
        })
    }

    /// Lets the journal stand on a disk that is full.
    #[cfg(test)]
    pub fn fill_disk(&mut self) {
        self.out.journal.fill_disk();
    }

    /// After a failure, makes room on a full disk.
    pub fn make_room(&self) {
        self.out.make_room();
    }
}

impl Output<'_> {
    /// After a failure, cuts off what the journal does not name, and the room that the journal kept: on a full
    /// disk, that is the room for a manifest that says so.
    fn make_room(&self) {
        let _ = self.file.set_len(self.end); // nothing is left to try if this fails
        self.journal.make_room();
    }

    /// Writes a page that ends at `end`, and zeros ahead where it is the first of a large page of the cache. Small parts and
    /// those that are forced to disk page by page do without.
    fn write(&mut self, page: &PageBytes<'_>, end: u64) -> io::Result<()> {
        let is_first = end > self.ahead && end > LARGE_PAGE && !self.shared.is_durable();
        if !is_first {
            return disk::write_both(&self.file, page.head, page.values, 0);
        }
        self.ahead = end.next_multiple_of(LARGE_PAGE);
        disk::write_both(&self.file, page.head, page.values, (self.ahead - end) as usize)?;
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }

    /// Cuts off the zeros ahead that no page came to lie on, at the end of what was written.
    fn cut(&mut self) -> io::Result<()> {
        let end = self.file.stream_position()?;
        if end < self.ahead {
            self.file.set_len(end)
        } else {
            Ok(())
        }
    }

    /// Forces to disk what was written, the part before the journal that names it, where the run is to survive a
    /// power loss.
    fn sync(&self) -> Result<(), PartError> {
        if !self.shared.is_durable() {
            return Ok(());
        }
        (self.file.sync_data()).map_err(|error| PartError::io(&self.path, error))?;
        self.journal.sync()
    }
}

impl Sink for Output<'_> {
    type Error = PartError;

    fn row(&mut self, row: &Row<'_>) -> Result<(), PartError> {
        Ok(self.journal.row(row)?)
    }

    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), PartError> {
        let end = page.offset + (page.head.len() + page.values.len()) as u64;
        (self.write(page, end)).map_err(|error| PartError::io(&self.path, error))?;
        if self.shared.is_durable() {
            (self.file.sync_data()).map_err(|error| PartError::io(&self.path, error))?;
        }
        self.journal.page(page, self.shared)?;
        self.end = end;
        let whole = end - end % LARGE_PAGE; // what follows in the same large page changes still
        if whole - self.begun.min(whole) >= BEHIND {
            disk::start_writing(&self.file, self.begun, whole - self.begun);
            self.begun = whole;
        }
        self.paged += page.rows as u64;
        self.safe = self.safe.max(self.paged);
        if self.shared.is_durable() {
            self.journal.sync()?;
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        (self.file.write_all(bytes)).map_err(|error| PartError::io(&self.path, error))
    }
}
