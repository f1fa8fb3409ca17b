//! The journal beside a part: what the part cannot say of itself before its end.

use super::disk;
use super::part::PartError;
use crate::shared::Shared;
use bitnet_trace_schema::journal::{PageAt, PendingRows, PushError, checksum, header, tokens};
use bitnet_trace_schema::part::{PageBytes, Row};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Room on the disk that an open journal keeps for the manifest: a run that fails because the disk is full
/// can say so.
const RESERVE: u64 = 256 << 10;
/// The journal takes room on the disk in steps of this.
const STEP: u64 = 256 << 10;
/// Memory for entries that is kept to be used again.
const KEEP: usize = 1 << 20;

/// An open journal. What it names is never cut off.
pub(super) struct Journal {
    pub path: PathBuf,
    file: File,
    pending: PendingRows,
    /// Entries on their way to the file.
    out: Vec<u8>,
    /// Ids of a token entry.
    ids: Vec<i32>,
    /// Bytes of whole entries in the file.
    end: u64,
    /// Bytes that the file has room for; `None` where the file system can't tell.
    room: Option<u64>,
}

impl Journal {
    /// Creates the journal of part number `index`, at `path`.
    pub fn create(path: &Path, shared: &Shared, index: u32, created_by: &str) -> Result<Self, PartError> {
        let path = path.to_owned();
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| PartError::io(&path, error))?;
        let mut journal = Self {
            path,
            file,
            pending: PendingRows::default(),
            out: Vec::new(),
            ids: Vec::new(),
            end: 0,
            room: Some(0),
        };
        header(&shared.run, index, created_by, &mut journal.out);
        journal.append()?;
        Ok(journal)
    }

    /// Notes a row that joined the next page.
    pub fn row(&mut self, row: &Row<'_>) -> Result<(), PushError> {
        let floats = row.values.map(|values| (values.len() / 4) as u64);
        self.pending.push(row.meta, floats, row.raw)
    }

    /// Whether there are rows that the file does not tell of.
    pub fn is_behind(&self) -> bool {
        !self.pending.is_told()
    }

    /// Tells of a page that was written.
    pub fn page(&mut self, page: &PageBytes<'_>, shared: &Shared) -> Result<(), PartError> {
        self.tokens(shared)?;
        let entry = self.pending.page(&PageAt {
            offset: page.offset,
            bytes: (page.head.len() + page.values.len()) as u32,
            checksum: checksum(&[page.head, page.values]),
        });
        let size = entry.len() as u64;
        let written = reserve(&self.file, &mut self.room, self.end + size)
            .and_then(|()| self.file.write_all(entry))
            .map_err(|error| PartError::io(&self.path, error));
        self.pending.clear();
        written.map(|()| self.end += size)
    }

    /// Tells of the rows that wait for their page, whose values are `values`, as far as that was not told.
    pub fn rows(&mut self, values: &[u8], shared: &Shared) -> Result<(), PartError> {
        self.tokens(shared)?;
        self.pending.rows(values, &mut self.out)?;
        self.append()
    }

    /// Tells of the token ids that came since.
    pub fn tokens(&mut self, shared: &Shared) -> Result<(), PartError> {
        let Self { out, ids, .. } = self;
        shared.take_tokens(&mut |request, first_seq, rewrites, found| {
            ids.clear();
            ids.extend(found);
            tokens(request, first_seq, rewrites, ids, out);
        });
        self.append()
    }

    fn append(&mut self) -> Result<(), PartError> {
        let size = self.out.len() as u64;
        if size == 0 {
            return Ok(());
        }
        let written = reserve(&self.file, &mut self.room, self.end + size)
            .and_then(|()| self.file.write_all(&self.out));
        self.out.clear();
        self.out.shrink_to(KEEP);
        written.map_err(|error| PartError::io(&self.path, error))?;
        self.end += size;
        Ok(())
    }

    /// Forces it to disk.
    pub fn sync(&self) -> Result<(), PartError> {
        self.file
            .sync_data()
            .map_err(|error| PartError::io(&self.path, error))
    }

    #[cfg(test)]
    pub fn fill_disk(&mut self) {
        let full = OpenOptions::new().write(true).open("/dev/full");
        self.file = full.expect("a device that is always full");
    }

    /// After a failure, gives back all room behind the last whole entry.
    pub fn make_room(&self) {
        let _ = self.file.set_len(self.end); // nothing is left to try if this fails
    }
}

/// Takes room on the disk for `end` bytes and [`RESERVE`] behind them, which is not part of the file's length.
fn reserve(file: &File, room: &mut Option<u64>, end: u64) -> io::Result<()> {
    let Some(had) = *room else { return Ok(()) };
    if end + RESERVE <= had {
        return Ok(());
    }
    let mut taken = Ok(());
    for wanted in [end + RESERVE + STEP, end + RESERVE] {
        taken = disk::allocate(file, had, wanted - had);
        if taken.is_ok() {
            *room = Some(wanted);
            return Ok(());
        }
    }
    match taken.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::ENOSPC | libc::EDQUOT)) => taken,
        _ => {
            *room = None; // this file system does not know how to
            Ok(())
        }
    }
}
