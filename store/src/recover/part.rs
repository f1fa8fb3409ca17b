//! Seals an open part by its plan.

use super::files::Files;
use super::plan::{self, Plan};
use super::{Progress, step};
use crate::StoreError;
use crate::part::{Part, PartMap};
use bitnet_trace_schema::journal::{Entry, Page};
use bitnet_trace_schema::levels::RowLen;
use bitnet_trace_schema::part::{EncodeError, PartEncoder, Row};
use bitnet_trace_schema::{Layout, PartEntry, RecordMeta, run_dir};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Cuts the part behind its last good page and writes what is missing. `None` where there is nothing to
/// save.
pub(super) fn seal(
    files: &Files<'_>,
    plan: &Plan,
    run: &str,
    progress: &mut Progress<'_>,
) -> Result<Option<PartEntry>, EncodeError> {
    if plan.rows() == 0 {
        return Ok(None);
    }
    let mut file = files.write_open(plan.number)?;
    file.set_len(plan.end)?;
    step("cut").map_err(io::Error::other)?;
    if plan.end > 0 {
        magic(&mut file)?;
    }
    // An allocation or the Parquet library may panic on what a hostile journal can hold.
    let written = catch_unwind(AssertUnwindSafe(|| write(files, plan, run, &file)));
    let written = written.unwrap_or_else(|_| Err(io::Error::other("its journal makes no sense").into()));
    if written.is_err() {
        let _ = file.set_len(plan.end); // on a full disk, what was written is given back
    }
    let bytes = written?;
    step("written").map_err(io::Error::other)?;
    file.sync_all()?;
    files.rename_open(plan.number)?;
    progress.add(bytes - plan.end);
    Ok(Some(PartEntry {
        file: plan.name(),
        rows: plan.rows(),
        bytes,
    }))
}

/// Writes the file's first bytes where a power loss took them.
fn magic(file: &mut File) -> io::Result<()> {
    let mut found = [0; 4];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut found)?;
    if &found != b"PAR1" {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(b"PAR1")?;
    }
    Ok(())
}

/// Writes rows without a page, scalar columns and footer; returns the size of the file.
fn write(files: &Files<'_>, plan: &Plan, run: &str, file: &File) -> Result<u64, EncodeError> {
    let journal = plan::open(files, plan.number, run).map_err(io::Error::from)?;
    let mut journal = journal.ok_or_else(changed)?;
    let mut part = PartEncoder::new(run, journal.created_by(), Layout::default())?;
    let mut sink = BufWriter::with_capacity(1 << 18, file);
    sink.seek(SeekFrom::Start(plan.end))?;
    let (mut pages, mut rows) = (0, 0);
    while let Some(entry) = journal.next()? {
        match entry {
            Entry::Page(page) if pages < plan.pages => {
                adopt(&mut part, page)?;
                pages += 1;
            }
            Entry::Page(_) => break, // it is not good
            Entry::Rows(mut waiting) if pages == plan.pages => {
                let mut meta = RecordMeta::empty();
                while let Some(row) = waiting.next_into(&mut meta) {
                    let row = Row {
                        meta: &meta,
                        values: row.values,
                        raw: row.raw,
                    };
                    part.push(&row, &mut sink)?;
                    rows += 1;
                }
            }
            Entry::Rows(_) | Entry::Tokens(_) => {}
        }
    }
    if (pages, rows) != (plan.pages, plan.waiting) {
        return Err(changed().into());
    }
    let bytes = part.finish(&mut sink)?;
    sink.flush()?;
    Ok(bytes)
}

/// Adds a page that is in the file.
fn adopt(part: &mut PartEncoder, page: Page<'_>) -> Result<(), EncodeError> {
    let mut rows: Vec<(RecordMeta, RowLen, Option<&[u8]>)> = Vec::with_capacity(page.rows.left());
    let mut meta = RecordMeta::empty();
    let mut left = page.rows;
    while let Some(row) = left.next_into(&mut meta) {
        rows.push((meta.clone(), row.floats, row.raw));
    }
    let rows = rows.iter().map(|(meta, floats, raw)| (meta, *floats, *raw));
    part.adopt_page(page.at.offset, page.at.bytes.into(), rows)
}

/// What `run.json` says of a sealed part that it does not list.
pub(super) fn entry(files: &Files<'_>, number: u32, run: &str) -> Result<PartEntry, StoreError> {
    let path = files.sealed(number);
    let metadata = path
        .symlink_metadata()
        .map_err(|e| StoreError::io("read", &path, e))?;
    if !metadata.is_file() {
        return Err(StoreError::NotParquet { path });
    }
    let part = Part::read(PartMap::open(&path, metadata.len())?, run)?;
    Ok(PartEntry {
        file: run_dir::part_name(number),
        rows: part.rows(),
        bytes: metadata.len(),
    })
}

fn changed() -> io::Error {
    io::Error::other("its journal changed while it was read")
}
