//! `index.sqlite`: opened, made, replaced, or kept in memory.
//!
//! The index is a cache. Whatever is wrong with its file (an older version, damage, a folder that cannot
//! be written, a full disk) is no reason to fail: the file is made anew, or an index in memory takes its
//! place.

use crate::StoreError;
use crate::table::Folder;
use bitnet_trace_schema::{INDEX_DDL, run_dir};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the index's tables and of what is written into them.
const VERSION: i64 = 3;
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
    /// In memory, of one connection.
    Memory,
}

impl Place {
    /// The index's file in a database.
    pub(crate) fn in_database(dir: &Path) -> Self {
        Self::File(dir.join(run_dir::INDEX))
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory => None,
        }
    }

    /// Where row tables are kept: beside the index's file.
    pub(crate) fn tables(&self) -> Option<Folder> {
        Some(Folder::of(self.file()?.parent()?))
    }
}

/// SQLite's error, where no file is at fault.
pub(crate) fn error(source: rusqlite::Error) -> StoreError {
    let path = "in memory".into();
    StoreError::Index { path, source }
}

/// An open index.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) sql: Connection,
    pub(crate) place: Place,
}

/// Runs `work`, which brings an index up to date, from nothing if need be, on the one at `place`: in its file, and if no
/// file will do, on an index in memory.
///
/// `work` is told where row tables are kept.
pub(crate) fn with<T>(
    place: Place,
    mut work: impl FnMut(&mut Connection, Option<&Folder>) -> rusqlite::Result<T>,
) -> Result<(Index, T), StoreError> {
    let tables = place.tables();
    if let Some((sql, value)) = in_file(&place, |sql| work(sql, tables.as_ref())) {
        return Ok((Index { sql, place }, value));
    }
    let place = Place::Memory;
    let mut in_memory = || {
        let mut sql = open(&place)?;
        let value = work(&mut sql, None)?;
        end_reading(&sql)?;
        Ok((sql, value))
    };
    let (sql, value) = in_memory().map_err(error)?;
    Ok((Index { sql, place }, value))
}

/// Runs `work` on the file as it is, or if that fails because it is damaged, on a new one; none where no file will do.
fn in_file<T>(
    place: &Place,
    mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>,
) -> Option<(Connection, T)> {
    let path = place.file()?;
    // A link would make us write wherever it points.
    if path.is_symlink() {
        return None;
    }
    let mut attempt = || {
        let mut sql = open(place)?;
        let value = work(&mut sql)?;
        end_reading(&sql)?;
        Ok((sql, value))
    };
    for _ in 0..2 {
        match attempt() {
            Ok(done) => return Some(done),
            Err(error) if is_damage(&error) => remove(path),
            Err(_) => return None,
        }
    }
    None
}

/// Whether SQLite found its file damaged.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Deletes a damaged index, and its journal, which belongs to the damaged file only.
fn remove(path: &Path) {
    for ending in ["", "-journal", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(ending);
        // Where this fails, the next attempt to open the file does, and memory takes its place.
        let _ = std::fs::remove_file(file);
    }
}

/// Opens an index, sees to it that it has our tables, and begins to read: what is read before [`end_reading`] is of one
/// moment, and the file is locked and looked at once for all of it.
fn open(place: &Place) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite itself opens a write-protected file for reading only.
    let mut sql = match place {
        Place::File(path) => Connection::open_with_flags(path, flags)?,
        Place::Memory => Connection::open_in_memory_with_flags(flags)?,
    };
    sql.busy_timeout(BUSY)?;
    // The file may come from anyone: nothing in its schema may call functions with side effects.
    sql.execute_batch(
        "PRAGMA foreign_keys = 1; PRAGMA trusted_schema = 0; PRAGMA cell_size_check = 1; BEGIN",
    )?;
    sql.set_prepared_statement_cache_capacity(32);
    if !is_ours(&sql)? {
        create(&mut sql)?;
        sql.execute_batch("BEGIN")?;
    }
    Ok(sql)
}

/// Ends the reading that [`open`] began: who is going to write must not hold on to what was.
pub(crate) fn end_reading(sql: &Connection) -> rusqlite::Result<()> {
    match sql.is_autocommit() {
        true => Ok(()),
        false => sql.execute_batch("COMMIT"),
    }
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

/// What our schema holds, as SQLite tells it.
fn ours() -> Objects {
    let mut ours = Objects::new();
    let mut statement = String::new();
    for line in INDEX_DDL.lines() {
        let code = line.split("--").next().unwrap_or_default().trim();
        if statement.is_empty() && code.is_empty() {
            continue;
        }
        statement.push_str(line);
        if code.ends_with(';') {
            let sql = statement.trim_end().trim_end_matches(';');
            let mut words = sql.split_whitespace().skip(1).map(str::to_owned);
            if let (Some(kind), Some(name)) = (words.next(), words.next()) {
                ours.push((kind.to_lowercase(), name, sql.to_owned()));
            }
            statement.clear();
        } else {
            statement.push('\n');
        }
    }
    ours.sort();
    ours
}

/// Whether the tables are exactly those of this version.
fn is_ours(sql: &Connection) -> rusqlite::Result<bool> {
    Ok(pragma(sql, "user_version")? == VERSION
        && pragma(sql, "application_id")? == APPLICATION_ID
        && objects(sql)? == ours())
}

/// Makes our tables in place of what another version left.
///
/// In a transaction and not by deleting the file, so that two processes that find the same old version
/// do not delete each other's new one.
fn create(sql: &mut Connection) -> rusqlite::Result<()> {
    end_reading(sql)?;
    // Of a new file: most of it are rows of some hundred bytes.
    sql.pragma_update(None, "page_size", PAGE)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_schema_is_known_as_sqlite_tells_it() {
        let model = Connection::open_in_memory().expect("memory");
        model.execute_batch(INDEX_DDL).expect("our tables");
        assert_eq!(objects(&model).expect("a schema"), ours());
        assert_eq!(ours().len(), 6);
    }
}
