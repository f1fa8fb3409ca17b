//! Reads the rows of a part from their table.

use super::Source;
use super::check::Pass;
use super::layout::{BLOCK, Begun, Blocks, Buffer, Layout, begin};
use super::names::{Form, Label, Names, Place};
use super::write::{HASHED, NAN, ODD};
use crate::StoreError;
use crate::meta::{Meta, Rest, Standing};
use crate::rows::At;
use bitnet_trace_schema::Stats;
use bytemuck::Pod;
use bytes::Bytes;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Tables of so many bytes may stay mapped: to give pages back and map them again costs more than it is worth.
pub(crate) const SMALL: usize = 16 << 20;

/// The rows of one part, in the order of [`Rows`](crate::Rows), where they are mapped or kept.
#[derive(Debug)]
pub(crate) struct Table {
    source: Arc<Source>,
    pub(super) bytes: Bytes,
    pub(super) layout: Layout,
    names: Names,
    /// Which blocks of hashes, and of moments, were found to be whole.
    whole: [Box<[AtomicBool]>; 2],
    /// The table as it was packed again, where a block was not: none where the part can no longer be read.
    again: OnceLock<Option<Box<Table>>>,
    /// What `bytes` are of, where they are a file's.
    pub(super) map: Option<Arc<Mmap>>,
}

/// Rows of one part that stand at one position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) request: i32,
    pub(crate) seq: i64,
    /// The row behind the last one.
    pub(crate) end: usize,
}

/// A map, as what `Bytes` owns.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Table {
    /// The table of a part that is in this state; none where there is none, or another.
    pub(crate) fn find(source: &Arc<Source>) -> Option<Self> {
        Self::map(&source.open()?, source)
    }

    /// Packs a part, and writes its table where it belongs, if that can be done.
    ///
    /// # Errors
    /// [`StoreError`] if the part cannot be read.
    pub(crate) fn make(source: &Arc<Source>) -> Result<Self, StoreError> {
        let packed = source.pack()?;
        let file = source.write(packed.as_ref());
        if let Some(table) = file.and_then(|file| Self::map(&file, source)) {
            return Ok(table);
        }
        // What was packed can be read: otherwise, its rows are at fault.
        Self::keep(packed, source).ok_or_else(|| StoreError::Decode {
            path: source.path(),
            problem: "no table can be made of its rows".into(),
        })
    }

    fn map(file: &File, source: &Arc<Source>) -> Option<Self> {
        // SAFETY: a map is undefined behaviour if another process changes the file's bytes under it, which no check
        // can rule out. Tables are written under a name of their own, renamed and never written again; whoever breaks
        // that can at worst garble numbers here (what is a number of something is looked up with a check, and every
        // bit pattern of the others is valid; texts are copied) or, by truncating the file, end this process with SIGBUS.
        let map = Arc::new(unsafe { Mmap::map(file) }.ok()?);
        #[cfg(target_os = "linux")]
        // Where the page cache holds it in large pages, it is mapped in such; but of tables whose pages are given back,
        // they would have more of each column in memory than is read.
        let _ = map.advise(match map.len() {
            ..=SMALL if source.is_alone => Advice::HugePage,
            _ => Advice::NoHugePage,
        });
        let bytes = Bytes::from_owner(Owner(Arc::clone(&map)));
        Self::open(bytes, Some(map), source)
    }

    pub(crate) fn keep(packed: Buffer, source: &Arc<Source>) -> Option<Self> {
        Self::open(Bytes::from_owner(packed), None, source)
    }

    pub(super) fn open(bytes: Bytes, map: Option<Arc<Mmap>>, source: &Arc<Source>) -> Option<Self> {
        let Begun {
            head,
            layout,
            checksum,
        } = begin(&bytes)?;
        // Maps and buffers lie so that columns are slices.
        if !head.is_of(&source.stat) || !bytes.as_ptr().addr().is_multiple_of(align_of::<u64>()) {
            return None;
        }
        let table = Self {
            source: Arc::clone(source),
            names: Names::default(),
            whole: [&layout.hash.sums, &layout.moments.sums]
                .map(|sums| (0..sums.len()).map(|_| AtomicBool::default()).collect()),
            again: OnceLock::new(),
            bytes,
            layout,
            map,
        };
        let (sum, names) = Pass::of(&table).check()?;
        (sum == checksum).then_some(Self { names, ..table })
    }

    /// Number of the part.
    #[inline]
    pub(crate) fn part(&self) -> u32 {
        self.source.number
    }

    /// Bytes of it.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Gives back the pages: they stay in the page cache, and no longer count as this process's memory.
    pub(crate) fn release(&self) {
        self.give_back(0, self.bytes.len());
    }

    pub(super) fn give_back(&self, at: usize, length: usize) {
        if let Some(map) = &self.map {
            // SAFETY: the map is of a file, shared and read only: a page that is given back is read from the file again
            // when it is touched, and has the same bytes
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, at, length) };
        }
    }

    /// Number of rows.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.layout.flags.len()
    }

    /// Number of positions.
    pub(crate) fn positions(&self) -> usize {
        self.layout.first.len()
    }

    /// The position `at` among those of the part.
    #[inline]
    pub(crate) fn position(&self, at: usize) -> Position {
        let (table, layout) = (&*self.bytes, &self.layout);
        let next = at + 1;
        Position {
            request: layout.request.get(table, at),
            seq: layout.seq.get(table, at),
            end: if next < layout.first.len() {
                layout.first.get(table, next) as usize
            } else {
                self.len()
            },
        }
    }

    /// The number of the position of `row` among those of the part.
    #[inline]
    pub(crate) fn position_of(&self, row: usize) -> usize {
        let firsts = self.layout.first.all(&self.bytes);
        firsts
            .partition_point(|&first| first as usize <= row)
            .saturating_sub(1)
    }

    /// Op_index, pass and occurrence: the order of rows at one position.
    pub(crate) fn order(&self, row: usize) -> (i64, i32, i32) {
        let (table, layout) = (&*self.bytes, &self.layout);
        (
            layout.op_index.get(table, row),
            layout.pass.get(table, row),
            layout.occurrence.get(table, row),
        )
    }

    /// Layers and stages, sorted, each once.
    pub(crate) fn places(&self) -> &[Place] {
        &self.names.places
    }

    /// Shapes, dtypes and numbers of elements, each once.
    pub(crate) fn forms(&self) -> &[Form] {
        &self.names.forms
    }

    /// Numbers of [`Table::forms`].
    #[inline]
    pub(crate) fn form_column(&self) -> &[u32] {
        self.layout.form.all(&self.bytes)
    }

    /// Byte offsets of the rows' values in the part; anything where there are none.
    #[inline]
    pub(crate) fn values_offset_column(&self) -> &[u64] {
        self.layout.values_offset.all(&self.bytes)
    }

    /// As [`Table::hash_start`].
    #[inline]
    pub(crate) fn hash_start_column(&self) -> &[u64] {
        self.layout.hash_start.all(&self.bytes)
    }

    /// Numbers of [`Table::places`].
    #[inline]
    pub(crate) fn place_column(&self) -> &[u32] {
        self.layout.place.all(&self.bytes)
    }

    #[inline]
    fn place(&self, row: usize) -> &Place {
        &self.names.places[self.layout.place.get(&self.bytes, row) as usize]
    }

    #[inline]
    fn label(&self, row: usize) -> &Label {
        &self.names.labels[self.layout.label.get(&self.bytes, row) as usize]
    }

    #[inline]
    fn form(&self, row: usize) -> &Form {
        &self.names.forms[self.form_number(row) as usize]
    }

    /// The number of what shape, dtype and numbers of elements are.
    #[inline]
    pub(crate) fn form_number(&self, row: usize) -> u32 {
        self.layout.form.get(&self.bytes, row)
    }

    #[inline]
    pub(crate) fn num_elements(&self, row: usize) -> i64 {
        self.form(row).num_elements
    }

    #[inline]
    fn flags(&self, row: usize) -> u32 {
        self.layout.flags.get(&self.bytes, row)
    }

    #[inline]
    pub(crate) fn has_nan(&self, row: usize) -> bool {
        self.flags(row) & NAN != 0
    }

    /// The hash; none where there is none, or where it was spoiled and the part can no longer be read.
    #[inline]
    pub(crate) fn hash(&self, row: usize) -> Option<&[u8; 32]> {
        if self.flags(row) & HASHED == 0 {
            return None;
        }
        self.checked(row, 0, |layout| &layout.hash)
    }

    /// What stands in `row` of a column that is checked when it is read.
    fn checked<T: Pod>(&self, row: usize, of: usize, column: fn(&Layout) -> &Blocks<T>) -> Option<&T> {
        let whole = self.whole[of].get(row / BLOCK)?;
        let blocks = column(&self.layout);
        if !whole.load(Ordering::Relaxed) {
            if !blocks.is_whole(&self.bytes, row / BLOCK) {
                return self.again()?.checked(row, of, column);
            }
            whole.store(true, Ordering::Relaxed);
        }
        blocks.values.all(&self.bytes).get(row)
    }

    /// The same table, packed again because this one is spoiled.
    fn again(&self) -> Option<&Self> {
        let again = || {
            // What was packed in memory is whole.
            self.map.as_ref()?;
            let packed = self.source.pack().ok()?;
            // Whoever opens it next is spared this.
            let _ = self.source.write(packed.as_ref());
            let table = Self::keep(packed, &self.source)?;
            (table.len() == self.len()).then(|| Box::new(table))
        };
        self.again.get_or_init(again).as_deref()
    }

    /// The first 8 bytes of the hash, little-endian; zero where there is none.
    #[inline]
    pub(crate) fn hash_start(&self, row: usize) -> u64 {
        self.layout.hash_start.get(&self.bytes, row)
    }

    /// Statistics; no moments where these were spoiled and the part can no longer be read.
    pub(crate) fn stats(&self, row: usize) -> Stats {
        let flags = self.flags(row);
        let moments = self.checked(row, 1, |layout| &layout.moments);
        let odd = self.layout.odd.all(&self.bytes);
        let found = (flags & ODD != 0).then(|| odd.partition_point(|&odd| (odd as usize) < row));
        let counts = found.filter(|&at| odd.get(at).is_some_and(|&odd| odd as usize == row));
        let [nan_count, inf_count] = counts.map_or([0, 0], |at| self.layout.odd_counts.get(&self.bytes, at));
        let moment = |i: usize| moments.filter(|_| flags & 1 << i != 0).map(|all| all[i]);
        Stats {
            rms: moment(0),
            mean: moment(1),
            min: moment(2),
            max: moment(3),
            abs_max: moment(4),
            nan_count,
            inf_count,
        }
    }

    #[inline]
    pub(crate) fn meta(&self, row: usize) -> Meta<'_> {
        let Standing {
            request,
            seq,
            layer,
            stage,
            op_index,
            pass,
            occurrence,
        } = self.standing(row);
        let (label, form) = (self.label(row), self.form(row));
        Meta {
            seq,
            layer,
            stage,
            name: &label.name,
            op: &label.op,
            op_index,
            request,
            pass,
            occurrence,
            shape: &form.shape,
            dtype: form.dtype,
            num_elements: form.num_elements,
            rest: Rest::Table { table: self, row },
        }
    }

    #[inline]
    pub(crate) fn standing(&self, row: usize) -> Standing<'_> {
        let position = self.position(self.position_of(row));
        let (layer, stage) = self.place(row);
        let (op_index, pass, occurrence) = self.order(row);
        Standing {
            request: position.request,
            seq: position.seq,
            layer: *layer,
            stage,
            op_index,
            pass,
            occurrence,
        }
    }

    #[inline]
    pub(crate) fn at(&self, row: usize) -> At {
        let form = self.form(row);
        let values_offset = self.layout.values_offset.get(&self.bytes, row);
        At {
            part: self.part(),
            part_row: self.layout.part_row.get(&self.bytes, row).into(),
            dtype: form.dtype,
            values: form.values_count.map(|count| (values_offset, count)),
            raw_bytes: form.raw_bytes,
        }
    }
}
