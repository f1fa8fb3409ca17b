//! `index.sqlite`: opened, made, replaced, or kept in memory.
//!
//! The index is a cache. Whatever is wrong with its file (an older version, damage, a folder that cannot
//! be written, a full disk) is no reason to fail: the file is made anew, or an index in memory takes its
//! place.

use crate::StoreError;
use bitnet_trace_schema::{INDEX_DDL, run_dir};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Version of the index's tables and of what is written into them.
const VERSION: i64 = 2;
/// "bntd": tells our file from a database of someone else's that has the same name.
const APPLICATION_ID: i64 = 0x626e_7464;
/// Bytes of a page.
const PAGE: i64 = 16 << 10;
/// How long one process waits for another that is indexing.
const BUSY: Duration = Duration::from_secs(120);

/// Where an index is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file.
    File(PathBuf),
    /// In memory, shared by the connections of this process that open the same URI.
    Memory(String),
}

impl Place {
    /// The index's file in a database.
    pub(crate) fn in_database(dir: &Path) -> Self {
        Self::File(dir.join(run_dir::INDEX))
    }

    /// An index in memory that no one else has.
    pub(crate) fn in_memory() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::Memory(format!("file:/bitnet-trace-index-{n}?vfs=memdb"))
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory(_) => None,
        }
    }

    pub(crate) fn error(&self, source: rusqlite::Error) -> StoreError {
        let path = match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory(_) => "in memory".into(),
        };
        StoreError::Index { path, source }
    }
}

/// An open index.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) sql: Connection,
    pub(crate) place: Place,
}

/// Runs `work` on the index at `place`: on the file as it is; if that fails because it is damaged, on a
/// new file; and if no file will do, on an index in memory.
///
/// `work` brings the index up to date, from nothing if need be. Its own [`StoreError`]s are final.
pub(crate) fn with<T>(
    place: Place,
    mut work: impl FnMut(&mut Connection) -> Result<Result<T, StoreError>, rusqlite::Error>,
) -> Result<(Index, T), StoreError> {
    if let Place::File(path) = &place
        // A link would make us write wherever it points.
        && !path.is_symlink()
    {
        for _ in 0..2 {
            match open(&place).and_then(|mut sql| Ok((work(&mut sql)?, sql))) {
                Ok((result, sql)) => return result.map(|value| (Index { sql, place }, value)),
                Err(error) if is_damage(&error) => remove(path),
                Err(_) => break,
            }
        }
    }
    let place = match place {
        Place::File(_) => Place::in_memory(),
        memory => memory,
    };
    let mut sql = open(&place).map_err(|e| place.error(e))?;
    let value = work(&mut sql).map_err(|e| place.error(e))??;
    Ok((Index { sql, place }, value))
}

/// Whether SQLite found its file damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Deletes a damaged index, and its journal, which belongs to the damaged file only.
pub(crate) fn remove(path: &Path) {
    for ending in ["", "-journal", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(ending);
        // Where this fails, the next attempt to open the file does, and memory takes its place.
        let _ = std::fs::remove_file(file);
    }
}

/// Opens an index and sees to it that it has our tables.
fn open(place: &Place) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite itself opens a write-protected file for reading only.
    let mut sql = match place {
        Place::File(path) => Connection::open_with_flags(path, flags)?,
        Place::Memory(uri) => Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?,
    };
    sql.busy_timeout(BUSY)?;
    // Of a new file: packed rows are blobs of many pages, which are read one by one.
    sql.pragma_update(None, "page_size", PAGE)?;
    sql.pragma_update(None, "foreign_keys", true)?;
    // The file may come from anyone: nothing in its schema may call functions with side effects.
    sql.pragma_update(None, "trusted_schema", false)?;
    sql.pragma_update(None, "cell_size_check", true)?;
    sql.set_prepared_statement_cache_capacity(32);
    if !is_ours(&sql)? {
        create(&mut sql)?;
    }
    Ok(sql)
}

fn pragma(sql: &Connection, name: &str) -> rusqlite::Result<i64> {
    sql.pragma_query_value(None, name, |row| row.get(0))
}

/// Type, name and SQL of tables, indexes and the like.
type Objects = Vec<(String, String, String)>;

/// Everything that the schema holds.
fn objects(sql: &Connection) -> rusqlite::Result<Objects> {
    let mut statement =
        sql.prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    rows.collect()
}

/// Whether the tables are exactly those of this version.
fn is_ours(sql: &Connection) -> rusqlite::Result<bool> {
    if pragma(sql, "user_version")? != VERSION || pragma(sql, "application_id")? != APPLICATION_ID {
        return Ok(false);
    }
    static OURS: OnceLock<Objects> = OnceLock::new();
    if OURS.get().is_none() {
        let model = Connection::open_in_memory()?;
        model.execute_batch(INDEX_DDL)?;
        let _ = OURS.set(objects(&model)?); // or another thread has just set the same
    }
    Ok(OURS.get() == Some(&objects(sql)?))
}

/// Makes our tables in place of what another version left.
///
/// In a transaction and not by deleting the file, so that two processes that find the same old version
/// do not delete each other's new one.
fn create(sql: &mut Connection) -> rusqlite::Result<()> {
    sql.pragma_update(None, "foreign_keys", false)?;
    let transaction = sql.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !is_ours(&transaction)? {
        let old = objects(&transaction)?;
        if !old.is_empty() && pragma(&transaction, "application_id")? != APPLICATION_ID {
            // Someone else's database: left alone. Any error leads to an index in memory.
            return Err(rusqlite::Error::InvalidQuery);
        }
        for (kind, name, _) in old.iter().filter(|(kind, ..)| kind != "index") {
            let name = name.replace('"', "\"\"");
            transaction.execute_batch(&format!("DROP {kind} IF EXISTS \"{name}\""))?;
        }
        transaction.execute_batch(INDEX_DDL)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()?;
    sql.pragma_update(None, "foreign_keys", true)
}
