//! One Parquet part, mapped. What its bytes mean is [`bitnet_trace_schema::part`]'s to say.

use crate::StoreError;
use bitnet_trace_schema::RecordMeta;
use bitnet_trace_schema::part::{self, PartError, Place};
use bytes::Bytes;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// A part's file, mapped. A clone shares the map.
#[derive(Debug, Clone)]
pub(crate) struct PartMap {
    pub(crate) path: PathBuf,
    /// All of the file. Slices of it keep the map alive.
    pub(crate) bytes: Bytes,
    map: Arc<Mmap>,
    /// Whether the system was asked for large pages.
    large: Arc<Once>,
}

/// Where the page cache holds a file in pages this large, they are mapped as such.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// The map, as what `Bytes` owns.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartMap {
    /// Maps a part whose size was `size` when it was listed.
    pub(crate) fn open(path: &Path, size: u64) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
        let found = file
            .metadata()
            .map_err(|e| StoreError::io("read", path, e))?
            .len();
        if found != size {
            return Err(StoreError::Changed { path: path.into() });
        }
        if found == 0 {
            return Err(StoreError::EmptyPart { path: path.into() });
        }
        // SAFETY: a map is undefined behaviour if another process changes the file's bytes under it,
        // which no check can rule out. Parts are sealed by a rename and never written again: that is the
        // format's contract, and a writer that breaks it can at worst garble numbers here (no length,
        // offset or text is read from the map after it was checked, except f32 values, for which every
        // bit pattern is valid) or, by truncating the file, end this process with SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| StoreError::io("map", path, e))?;
        let map = Arc::new(map);
        Ok(Self {
            path: path.into(),
            bytes: Bytes::from_owner(Owner(Arc::clone(&map))),
            map,
            large: Arc::new(Once::new()),
        })
    }

    /// The bytes of `count` f32 values from `offset` on; none where the part does not reach so far: neither the index nor
    /// the caller is believed.
    #[inline]
    pub(crate) fn place(&self, (offset, count): (u64, u64)) -> Option<Range<usize>> {
        let end = count.checked_mul(4)?.checked_add(offset)?;
        (end <= self.bytes.len() as u64).then_some(offset as usize..end as usize)
    }

    /// Maps the pages of these bytes at once, where the system can: much cheaper than a fault for every few pages. Who reads
    /// this much reads on: what is not in the page cache comes there in large pages.
    pub(crate) fn populate(&self, bytes: Range<usize>) {
        #[cfg(target_os = "linux")]
        if bytes.len() >= LARGE_PAGE {
            self.large.call_once(|| drop(self.map.advise(Advice::HugePage)));
        }
        // Where it fails, reading faults as ever, or fails as ever.
        let _ = self
            .map
            .advise_range(Advice::PopulateRead, bytes.start, bytes.len());
    }

    /// Gives back the pages of these bytes: they stay in the page cache, and no longer count as this process's memory.
    /// Of a long stretch large pages are given back whole: to take one apart costs more than it is worth, and who still
    /// reads the other half maps it again.
    pub(crate) fn release(&self, bytes: Range<usize>) {
        let map = self.map.as_ptr().addr();
        let bytes = match bytes.len() {
            0..LARGE_PAGE => bytes,
            _ => {
                let start = (map + bytes.start) / LARGE_PAGE * LARGE_PAGE;
                let end = (map + bytes.end).next_multiple_of(LARGE_PAGE);
                start.saturating_sub(map)..(end - map).min(self.map.len())
            }
        };
        // SAFETY: the map is of a file, shared and read only: a page that is given back is read from the file again
        // when it is touched, and has the same bytes
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
    }
}

/// A part with its footer read and checked.
#[derive(Debug)]
pub(crate) struct Part {
    map: PartMap,
    part: part::Part,
}

/// Rows that are read before the pages are given back that finding their values took.
const PASSED: u64 = 8192;

impl Part {
    /// Reads the footer and checks it: version, run (`expected_run`), rows, and the place of every chunk.
    pub(crate) fn read(map: PartMap, expected_run: &str) -> Result<Self, StoreError> {
        let part = part::Part::read(map.bytes.clone(), expected_run);
        let part = part.map_err(|e| StoreError::part(map.path.clone(), e))?;
        Ok(Self { map, part })
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.part.rows()
    }

    /// Calls `row` with every row in order: its number, its scalars, and where its elements are.
    pub(crate) fn for_each_row(
        &self,
        mut row: impl FnMut(u64, RecordMeta, Place) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        /// What ended the reading.
        enum End {
            Part(PartError),
            Caller(StoreError),
        }
        impl From<PartError> for End {
            fn from(error: PartError) -> Self {
                Self::Part(error)
            }
        }
        let read = self.part.for_each_row(|number, meta, place| {
            if number % PASSED == 0 {
                self.map.release(0..self.map.bytes.len());
            }
            row(number, meta, place).map_err(End::Caller)
        });
        read.map_err(|end| match end {
            End::Part(error) => StoreError::part(self.map.path.clone(), error),
            End::Caller(error) => error,
        })
    }

    /// The original bytes of row `row`.
    pub(crate) fn raw(&self, row: u64) -> Result<Option<Vec<u8>>, StoreError> {
        (self.part.raw(row)).map_err(|e| StoreError::part(self.map.path.clone(), e))
    }
}
