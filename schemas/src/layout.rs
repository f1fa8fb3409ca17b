/// Sizes of the inner divisions of a run's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Values of a page in bytes: rows are packed up to this, a larger row has a page of its own.
    /// 256 KiB.
    pub page_bytes: usize,
    /// Values of a row group in bytes. 64 MiB.
    pub row_group_bytes: u64,
    /// Rows of a row group, which bound the memory that their scalar columns take. 122,880.
    pub row_group_rows: u64,
    /// File size at which a new part begins, in bytes. 1 GiB.
    pub part_bytes: u64,
}

impl Layout {
    /// These sizes, as far as Parquet can hold them: a page's size is an i32, and so are the offsets of a
    /// column of a row group in memory.
    #[must_use]
    pub fn within_parquet(self) -> Self {
        Self {
            page_bytes: self.page_bytes.min(1 << 30),
            row_group_bytes: self.row_group_bytes.min(1 << 30),
            row_group_rows: self.row_group_rows.min(1 << 24), // of 64 hex digits each
            ..self
        }
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            page_bytes: 256 << 10,
            row_group_bytes: 64 << 20,
            row_group_rows: 122_880,
            part_bytes: 1 << 30,
        }
    }
}
