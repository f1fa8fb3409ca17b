//! Where everything stands in a row table.

use super::bytes_of;
use crate::scan::PartStat;
use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::Range;
use twox_hash::XxHash3_64;

/// Reads otherwise in another byte order.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"BNT_ROWS");
/// Of the layout and of what is written into it.
pub(super) const VERSION: u64 = 3;
/// What begins at a multiple of it can be read as a slice of anything here, and is a line of the processor's cache.
const ALIGN: usize = 64;
/// Where the checksum begins to count: behind the preamble.
pub(super) const SUMMED: usize = size_of::<[u64; 5]>();
/// Rows whose hashes, or moments, have a checksum together.
pub(super) const BLOCK: usize = 512;

/// What a table is of, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub part_bytes: u64,
    pub part_mtime_ns: i64,
    pub part_footer: [u8; 32],
    pub rows: u64,
    pub positions: u64,
    /// Bytes of names.
    pub names: u64,
    /// Rows that have elements which are not finite.
    pub odd: u64,
}

impl Head {
    /// The head of a table of the part in this state.
    pub(super) fn new(stat: &PartStat, rows: usize, positions: usize, names: usize, odd: usize) -> Self {
        Self {
            part_bytes: stat.bytes,
            part_mtime_ns: stat.mtime_ns,
            part_footer: bytes_of(&stat.footer).unwrap_or_default(),
            rows: rows as u64,
            positions: positions as u64,
            names: names as u64,
            odd: odd as u64,
        }
    }

    /// Whether the part is still in the state that it was in.
    pub(super) fn is_of(&self, stat: &PartStat) -> bool {
        self.part_bytes == stat.bytes
            && self.part_mtime_ns == stat.mtime_ns
            && Some(self.part_footer) == bytes_of(&stat.footer)
    }

    pub(super) fn words(&self) -> [u64; 10] {
        let mut words = [0; 10];
        words[0] = self.part_bytes;
        words[1] = self.part_mtime_ns.cast_unsigned();
        bytemuck::cast_slice_mut(&mut words[2..6]).copy_from_slice(&self.part_footer);
        words[6..].copy_from_slice(&[self.rows, self.positions, self.names, self.odd]);
        words
    }

    fn from_words(words: &[u64; 10]) -> Self {
        let mut part_footer = [0; 32];
        part_footer.copy_from_slice(bytemuck::cast_slice(&words[2..6]));
        Self {
            part_bytes: words[0],
            part_mtime_ns: words[1].cast_signed(),
            part_footer,
            rows: words[6],
            positions: words[7],
            names: words[8],
            odd: words[9],
        }
    }
}

/// A table whose beginning says what it is.
pub(super) struct Begun {
    pub head: Head,
    pub layout: Layout,
    pub checksum: u64,
}

/// The beginning of a table; none where it is too short, not as long as it says, of another version or byte order, or
/// something else.
pub(super) fn begin(table: &[u8]) -> Option<Begun> {
    let preamble: [u64; 5] = bytemuck::pod_read_unaligned(table.get(..SUMMED)?);
    let head = table.get(ALIGN..ALIGN + size_of::<[u64; 10]>())?;
    let [MAGIC, VERSION, length, summed, checksum] = preamble else {
        return None;
    };
    let head = Head::from_words(&bytemuck::pod_read_unaligned(head));
    let layout = Layout::of(&head)?;
    let is_whole =
        length == table.len() as u64 && layout.length == table.len() && layout.summed() as u64 == summed;
    is_whole.then_some(Begun {
        head,
        layout,
        checksum,
    })
}

/// A section of as many `T` as it has rows (or positions, or bytes).
#[derive(Debug)]
pub(super) struct Column<T> {
    at: usize,
    count: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Column<T> {
    /// How many there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl<T: Pod> Column<T> {
    /// Its place in the table.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.at..self.at + self.count * size_of::<T>()
    }

    /// What stands in `row`, of which there are enough: a table's reader saw to it.
    #[inline]
    pub(super) fn get(&self, table: &[u8], row: usize) -> T {
        debug_assert!(row < self.count);
        let at = self.at + row * size_of::<T>();
        bytemuck::pod_read_unaligned(&table[at..at + size_of::<T>()])
    }

    /// All of it; empty where the table does not lie as [`Buffer`] or a map does.
    #[inline]
    pub(super) fn all<'a>(&self, table: &'a [u8]) -> &'a [T] {
        bytemuck::try_cast_slice(&table[self.bytes()]).unwrap_or_default()
    }

    fn all_mut<'a>(&self, table: &'a mut [u8]) -> &'a mut [T] {
        bytemuck::try_cast_slice_mut(&mut table[self.bytes()]).unwrap_or_default()
    }

    /// Writes it.
    pub(super) fn fill(&self, table: &mut [u8], values: impl Iterator<Item = T>) {
        let all = self.all_mut(table).iter_mut().zip(values);
        all.for_each(|(to, value)| *to = value);
    }
}

/// A column that is seldom read, and not checked before: every [`BLOCK`] rows of it have a checksum of their own.
#[derive(Debug)]
pub(super) struct Blocks<T> {
    pub values: Column<T>,
    pub sums: Column<u64>,
}

impl<T: Pod> Blocks<T> {
    /// Writes it and its checksums.
    pub(super) fn fill(&self, table: &mut [u8], values: impl Iterator<Item = T>) {
        self.values.fill(table, values);
        let sums: Vec<u64> = self.blocks(table).map(sum).collect();
        self.sums.fill(table, sums.into_iter());
    }

    /// The rows that have a checksum in common.
    fn blocks<'a>(&self, table: &'a [u8]) -> impl Iterator<Item = &'a [T]> {
        self.values.all(table).chunks(BLOCK)
    }

    /// Whether the rows of this block are what was written.
    pub(super) fn is_whole(&self, table: &[u8], block: usize) -> bool {
        let rows = self.blocks(table).nth(block);
        rows.is_some_and(|rows| sum(rows) == self.sums.get(table, block))
    }
}

fn sum<T: Pod>(rows: &[T]) -> u64 {
    XxHash3_64::oneshot(bytemuck::cast_slice(rows))
}

/// The sections of a table.
#[derive(Debug)]
pub(super) struct Layout {
    pub preamble: Column<[u64; 5]>,
    pub head: Column<[u64; 10]>,
    pub names: Column<u8>,
    // one for each position
    pub request: Column<i32>,
    pub seq: Column<i64>,
    pub first: Column<u32>,
    // one for each row
    pub place: Column<u32>,
    pub form: Column<u32>,
    pub label: Column<u32>,
    pub part_row: Column<u32>,
    pub pass: Column<i32>,
    pub occurrence: Column<i32>,
    pub op_index: Column<i64>,
    pub values_offset: Column<u64>,
    pub flags: Column<u32>,
    /// The beginning of the hash, which tells most hashes apart.
    pub hash_start: Column<u64>,
    /// Rows that have elements which are not finite, and how many of these are NaN and infinite.
    pub odd: Column<u32>,
    pub odd_counts: Column<[u64; 2]>,
    // what the checksum in the preamble does not count, behind all that it does
    pub hash: Blocks<[u8; 32]>,
    pub moments: Blocks<[f64; 5]>,
    /// Bytes of the table.
    pub length: usize,
}

impl Layout {
    /// The sections of a table of this head; none where no memory holds it, or more rows than a number of them tells apart.
    pub(super) fn of(head: &Head) -> Option<Self> {
        let rows = u32::try_from(head.rows).ok()? as usize;
        let positions = usize::try_from(head.positions).ok().filter(|&n| n <= rows)?;
        let odd = usize::try_from(head.odd).ok().filter(|&n| n <= rows)?;
        let blocks = rows.div_ceil(BLOCK);
        let mut end = Some(0);
        let (preamble, begun) = (after(&mut end, 1), after(&mut end, 1));
        let [hash_sums, moments_sums] = [(); 2].map(|()| after(&mut end, blocks));
        let mut layout = Self {
            preamble,
            head: begun,
            names: after(&mut end, usize::try_from(head.names).ok()?),
            request: after(&mut end, positions),
            seq: after(&mut end, positions),
            first: after(&mut end, positions),
            place: after(&mut end, rows),
            form: after(&mut end, rows),
            label: after(&mut end, rows),
            part_row: after(&mut end, rows),
            pass: after(&mut end, rows),
            occurrence: after(&mut end, rows),
            op_index: after(&mut end, rows),
            values_offset: after(&mut end, rows),
            flags: after(&mut end, rows),
            hash_start: after(&mut end, rows),
            odd: after(&mut end, odd),
            odd_counts: after(&mut end, odd),
            hash: Blocks {
                sums: hash_sums,
                values: after(&mut end, rows),
            },
            moments: Blocks {
                sums: moments_sums,
                values: after(&mut end, rows),
            },
            length: 0,
        };
        layout.length = end?;
        Some(layout)
    }

    /// Where the checksum in the preamble ends to count.
    pub(super) fn summed(&self) -> usize {
        self.hash.values.at
    }
}

/// A section that begins at `end`, which is moved behind it; none where that is beyond all memory.
fn after<T>(end: &mut Option<usize>, count: usize) -> Column<T> {
    let at = end.unwrap_or(0);
    let bytes = count.checked_mul(size_of::<T>());
    *end = end
        .and_then(|at| at.checked_add(bytes?))
        .and_then(|end| end.checked_next_multiple_of(ALIGN));
    Column {
        at,
        count,
        of: PhantomData,
    }
}

/// Bytes of a table in memory, where columns can be read as slices.
#[derive(Debug, Clone)]
pub(crate) struct Buffer(Vec<[u64; 8]>);

impl Buffer {
    /// Zeros: as many as `length`, a multiple of [`ALIGN`].
    pub(super) fn zeros(length: usize) -> Self {
        Self(vec![[0; 8]; length / ALIGN])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
