//! The file of a part: created under its `.open` name, filled by the encoder, sealed.

use crate::{Layout, run::sync_dir, shared::Shared};
use bitnet_trace_schema::part::{EncodeError, PageBytes, PartEncoder, Row, Sink};
use bitnet_trace_schema::{PartEntry, run_dir};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// Why a part could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("no memory for {0} bytes of values")]
    Memory(usize),
}

/// A part that is being written, under its `.open` name.
pub(crate) struct Part {
    dir: PathBuf,
    name: String,
    encoder: PartEncoder,
    out: Output,
}

/// The open file.
struct Output {
    path: PathBuf,
    file: File,
    /// Where the page written last begins.
    last_page: u64,
}

impl Part {
    /// Creates part number `index` of the run.
    pub fn create(shared: &Shared, index: u32, layout: Layout) -> Result<Self, PartError> {
        let writer = &shared.writer;
        let created_by = format!("{} version {}", writer.name, writer.version);
        let encoder = PartEncoder::new(&shared.run, &created_by, layout)?;
        let name = run_dir::part_name(index);
        let path = shared.dir.join(format!("{name}{}", run_dir::OPEN_SUFFIX));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| PartError::Io {
            path: path.clone(),
            error,
        })?;
        Ok(Self {
            dir: shared.dir.clone(),
            name,
            encoder,
            out: Output {
                path,
                file,
                last_page: 0,
            },
        })
    }

    /// Whether the file is large enough that the next row belongs to another part.
    pub fn is_full(&self) -> bool {
        self.encoder.is_full()
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), PartError> {
        self.encoder.push(row, &mut self.out)
    }

    /// Ends the file and gives it its name. The order makes a part that has its name whole, whatever
    /// happens: the footer is written, the file's bytes are forced to disk, only then is it renamed, and
    /// the directory is forced to disk as it holds the name.
    pub fn seal(self) -> Result<PartEntry, PartError> {
        let Self {
            dir,
            name,
            encoder,
            mut out,
        } = self;
        let rows = encoder.rows();
        let sealed = encoder.finish(&mut out).and_then(|bytes| {
            (out.file.sync_all())
                .and_then(|()| std::fs::rename(&out.path, dir.join(&name)))
                .and_then(|()| sync_dir(&dir))
                .map_err(|e| out.error(e))?;
            Ok(PartEntry {
                file: name,
                rows,
                bytes,
            })
        });
        sealed.inspect_err(|_| out.make_room())
    }

    /// After a failure, makes room on a full disk.
    pub fn make_room(&self) {
        self.out.make_room();
    }
}

impl Output {
    /// After a failure, cuts off the last page and what was written of the next: on a full disk, that is
    /// the room for a manifest that says so.
    fn make_room(&self) {
        let _ = self.file.set_len(self.last_page); // nothing is left to try if this fails
    }

    fn error(&self, error: io::Error) -> PartError {
        PartError::Io {
            path: self.path.clone(),
            error,
        }
    }
}

impl Sink for Output {
    type Error = PartError;

    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), PartError> {
        self.bytes(page.head)?;
        self.bytes(page.values)?;
        self.last_page = page.offset;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.file.write_all(bytes).map_err(|e| self.error(e))
    }
}
