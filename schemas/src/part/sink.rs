//! Where the bytes of a part go.

use super::Row;
use parquet::errors::ParquetError;
use std::io::{self, Write};

/// Takes the bytes of a part in the order of the file. Any [`Write`] is one.
pub trait Sink {
    /// Why the bytes could not be taken.
    type Error: From<EncodeError>;

    /// A row joined the page that will be written next.
    ///
    /// # Errors
    /// Whatever shall stop the encoder.
    fn row(&mut self, row: &Row<'_>) -> Result<(), Self::Error> {
        let _ = row;
        Ok(())
    }

    /// Appends a page of `values`. It holds all rows since the page before.
    ///
    /// # Errors
    /// The part is then of no use any more, beyond the pages before.
    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), Self::Error>;

    /// Appends other bytes: scalar columns, indexes, footer.
    ///
    /// # Errors
    /// As those of [`Sink::page`].
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// A page of `values`: the bytes of `head`, then those of `values`.
#[derive(Debug, Clone, Copy)]
pub struct PageBytes<'a> {
    /// Where in the file it begins.
    pub offset: u64,
    /// Header and levels.
    pub head: &'a [u8],
    /// The floats of its rows, back to back.
    pub values: &'a [u8],
    /// How many rows it has.
    pub rows: usize,
}

/// Why a part could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The Parquet library refused scalar columns or the footer; not expected of rows that were pushed.
    #[error("{0}")]
    Parquet(#[from] ParquetError),
    /// The bytes could not be written.
    #[error("{0}")]
    Write(#[from] io::Error),
    /// A page to be adopted that begins inside the one before, or comes after rows were pushed.
    #[error("a page at byte {offset} cannot follow what stands before byte {end}")]
    PageOrder {
        /// Where the page begins.
        offset: u64,
        /// The end of what is known of the file.
        end: u64,
    },
}

impl<W: Write> Sink for W {
    type Error = EncodeError;

    fn page(&mut self, page: &PageBytes<'_>) -> Result<(), EncodeError> {
        self.write_all(page.head)?;
        Ok(self.write_all(page.values)?)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        Ok(self.write_all(bytes)?)
    }
}
