//! What a table is made of.

use super::{Buffer, Folder, Packer};
use crate::StoreError;
use crate::part::{Part, PartMap};
use crate::scan::{self, PartStat};
use std::fs::File;
use std::path::PathBuf;

/// A part in the state that it had when its run was opened, and where its table is kept.
#[derive(Debug)]
pub(crate) struct Source {
    /// The run's name, as its directory has it, and that directory.
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// The run's name, as its manifest and its parts have it.
    pub(crate) run: String,
    /// Number of the part.
    pub(crate) number: u32,
    pub(crate) stat: PartStat,
    /// Whether it is the only part of the run.
    pub(crate) is_alone: bool,
    /// None where tables are kept in memory.
    pub(crate) folder: Option<Folder>,
}

impl Source {
    /// The part's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(&self.stat.file)
    }

    /// Maps the part.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if it is no longer in its state, or whatever keeps the system from it.
    pub(crate) fn map(&self) -> Result<PartMap, StoreError> {
        let path = self.path();
        let now = scan::stat(&self.dir, self.stat.file.clone(), self.stat.listed_rows, None)?;
        if now != self.stat {
            return Err(StoreError::Changed { path });
        }
        PartMap::open(&path, self.stat.bytes)
    }

    /// The rows of the part, packed.
    ///
    /// # Errors
    /// As [`Source::map`]; and if it is no part of the run, or its rows cannot be read.
    pub(super) fn pack(&self) -> Result<Buffer, StoreError> {
        let part = Part::read(self.map()?, &self.run)?;
        let mut packer = Packer::new(part.rows(), &self.path())?;
        part.for_each_row(|row, meta, place| {
            packer.push(row, &meta, place);
            Ok(())
        })?;
        Ok(packer.finish(&self.stat))
    }

    /// Opens the table; none where there is none.
    pub(super) fn open(&self) -> Option<File> {
        self.folder.as_ref()?.open(&self.name, self.number)
    }

    /// Writes the table and opens it; none where it cannot be written.
    pub(super) fn write(&self, table: &[u8]) -> Option<File> {
        let folder = self.folder.as_ref()?;
        folder.write(&self.name, self.number, table).ok()
    }
}
