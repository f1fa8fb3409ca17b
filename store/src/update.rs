//! Brings an index up to date with the files.

use crate::StoreError;
use crate::index;
use crate::part::{Part, PartMap};
use crate::scan::{PartStat, RunFiles};
use crate::table::{Folder, Packer};
use bitnet_trace_schema::{RecordMeta, run_dir};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::{BTreeMap, BTreeSet};

/// What became of each run, by name.
pub(crate) type Outcomes = BTreeMap<String, Result<(), StoreError>>;

/// Reads what is new or changed in `runs` into the index, in one transaction, and none where nothing is; what is not of
/// these runs is forgotten.
///
/// A run with a part that cannot be read is taken out of the index, and its error is its outcome. Row tables of what is
/// read are written into `tables`, and those of what is forgotten are removed.
pub(crate) fn update(
    sql: &mut Connection,
    tables: Option<&Folder>,
    runs: &[RunFiles],
) -> rusqlite::Result<Outcomes> {
    let mut outcomes: Outcomes = runs.iter().map(|r| (r.name.clone(), Ok(()))).collect();
    if is_current(sql, runs)? {
        return Ok(outcomes);
    }
    index::end_reading(sql)?;
    // Another process may have done the work while this one waited for the lock: each run is looked at
    // again inside.
    let mut transaction = sql.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for name in indexed(&transaction)? {
        if !outcomes.contains_key(&name) {
            transaction.execute("DELETE FROM runs WHERE name = ?", [&name])?;
            tables.inspect(|tables| tables.forget_run(&name));
        }
    }
    for run in runs {
        if known(&transaction, run)?.is_some_and(|known| known.is(run)) {
            continue;
        }
        let savepoint = transaction.savepoint()?;
        match read_run(&savepoint, tables, run) {
            Ok(()) => savepoint.commit()?,
            Err(StoreError::Index { source, .. }) => return Err(source),
            Err(error) => {
                drop(savepoint); // rolls back
                transaction.execute("DELETE FROM runs WHERE name = ?", [&run.name])?;
                tables.inspect(|tables| tables.forget_run(&run.name));
                outcomes.insert(run.name.clone(), Err(error));
            }
        }
    }
    transaction.commit()?;
    Ok(outcomes)
}

fn is_current(sql: &Connection, runs: &[RunFiles]) -> rusqlite::Result<bool> {
    let names: BTreeSet<&str> = runs.iter().map(|r| r.name.as_str()).collect();
    if !indexed(sql)?.iter().all(|name| names.contains(name.as_str())) {
        return Ok(false);
    }
    for run in runs {
        if !known(sql, run)?.is_some_and(|known| known.is(run)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn indexed(sql: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = sql.prepare_cached("SELECT name FROM runs")?;
    statement.query_map([], |r| r.get(0))?.collect()
}

/// A run as the index has it.
struct Known {
    id: i64,
    manifest: String,
    parts: Vec<KnownPart>,
}

/// A part as the index has it.
struct KnownPart {
    id: i64,
    file: String,
    bytes: i64,
    mtime_ns: i64,
    footer: String,
    rows: i64,
}

impl Known {
    fn is(&self, run: &RunFiles) -> bool {
        self.manifest == run.manifest_text
            && self.parts.len() == run.parts.len()
            && run
                .parts
                .values()
                .all(|stat| self.parts.iter().any(|p| p.is(stat)))
    }
}

impl KnownPart {
    /// Whether the file is still the one that was indexed.
    fn is(&self, stat: &PartStat) -> bool {
        self.file == stat.file
            && u64::try_from(self.bytes) == Ok(stat.bytes)
            && self.mtime_ns == stat.mtime_ns
            && self.footer == stat.footer
    }
}

fn known(sql: &Connection, run: &RunFiles) -> rusqlite::Result<Option<Known>> {
    let mut statement = sql.prepare_cached("SELECT id, manifest FROM runs WHERE name = ?")?;
    let found = statement
        .query_row([&run.name], |r| Ok((r.get::<_, i64>(0)?, r.get(1)?)))
        .optional()?;
    let Some((id, manifest)) = found else {
        return Ok(None);
    };
    let parts = parts(sql, id)?;
    Ok(Some(Known { id, manifest, parts }))
}

/// The parts of the run of this id.
fn parts(sql: &Connection, run_id: i64) -> rusqlite::Result<Vec<KnownPart>> {
    let mut statement =
        sql.prepare_cached("SELECT id, file, bytes, mtime_ns, footer, rows FROM parts WHERE run_id = ?")?;
    let rows = statement.query_map([run_id], |r| {
        Ok(KnownPart {
            id: r.get(0)?,
            file: r.get(1)?,
            bytes: r.get(2)?,
            mtime_ns: r.get(3)?,
            footer: r.get(4)?,
            rows: r.get(5)?,
        })
    })?;
    rows.collect()
}

fn read_run(sql: &Connection, tables: Option<&Folder>, run: &RunFiles) -> Result<(), StoreError> {
    let known = known(sql, run).map_err(index::error)?;
    let run_id = write_run(sql, run, known.as_ref().map(|k| k.id)).map_err(index::error)?;
    let mut old: Vec<KnownPart> = known.map(|k| k.parts).unwrap_or_default();
    // What is left in `old` in the end is gone or changed.
    let mut new = Vec::new();
    for (&number, stat) in &run.parts {
        match old.iter().position(|p| p.is(stat)) {
            Some(at) => check_rows(run, stat, old.swap_remove(at).rows.unsigned_abs())?,
            None => new.push((number, stat)),
        }
    }
    for part in old {
        sql.execute("DELETE FROM parts WHERE id = ?", [part.id])
            .map_err(index::error)?;
        // What an index says is a name is not believed.
        if let (Some(tables), Some(number)) = (tables, run_dir::part_index(&part.file)) {
            tables.forget_part(&run.name, number);
        }
    }
    new.into_iter()
        .try_for_each(|(number, stat)| read_part(sql, tables, run, run_id, number, stat))
}

/// Whether a part has as many rows as the manifest lists.
pub(crate) fn check_rows(run: &RunFiles, stat: &PartStat, found: u64) -> Result<(), StoreError> {
    match stat.listed_rows {
        Some(listed) if listed != found => Err(StoreError::PartRows {
            path: run.path.join(&stat.file),
            listed,
            found,
        }),
        _ => Ok(()),
    }
}

fn write_run(sql: &Connection, run: &RunFiles, id: Option<i64>) -> rusqlite::Result<i64> {
    let manifest = &run.manifest;
    let created = signed(manifest.created_unix_ms);
    sql.query_row(
        "INSERT INTO runs (id, name, state, engine, created_unix_ms, manifest) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET state = excluded.state, engine = excluded.engine,
             created_unix_ms = excluded.created_unix_ms, manifest = excluded.manifest
         RETURNING id",
        params![
            id,
            run.name,
            manifest.state.name(),
            manifest.engine.name,
            created,
            run.manifest_text
        ],
        |r| r.get(0),
    )
}

fn read_part(
    sql: &Connection,
    tables: Option<&Folder>,
    run: &RunFiles,
    run_id: i64,
    number: u32,
    stat: &PartStat,
) -> Result<(), StoreError> {
    let path = run.path.join(&stat.file);
    let part = Part::read(PartMap::open(&path, stat.bytes)?, &run.manifest.run)?;
    check_rows(run, stat, part.rows())?;
    let values = params![
        run_id,
        stat.file,
        signed(stat.bytes),
        stat.mtime_ns,
        stat.footer,
        signed(part.rows())
    ];
    let part_id: i64 = sql
        .query_row(
            "INSERT INTO parts (run_id, file, bytes, mtime_ns, footer, rows) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            values,
            |r| r.get(0),
        )
        .map_err(index::error)?;
    let mut statement = sql
        .prepare_cached(
            "INSERT INTO records (run_id, part_id, part_row, values_offset, values_count, raw_bytes,
                 seq, layer, stage, name, op, op_index, request, pass, occurrence, shape, dtype, num_elements,
                 blake3, rms, mean, min, max, abs_max, nan_count, inf_count)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .map_err(index::error)?;
    let mut packer = Packer::new(part.rows(), &path)?;
    part.for_each_row(|row, meta, place| {
        if tables.is_some() {
            packer.push(row, &meta, place);
        }
        let RecordMeta { stats, .. } = &meta;
        statement
            .execute(params![
                run_id,
                part_id,
                signed(row),
                place.values.map(|(offset, _)| signed(offset)),
                place.values.map(|(_, count)| signed(count)),
                place.raw_bytes.map(signed),
                meta.seq,
                meta.layer,
                meta.stage.as_str(),
                meta.name.as_str(),
                meta.op.as_str(),
                meta.op_index,
                meta.request,
                meta.pass,
                meta.occurrence,
                shape_text(&meta.shape),
                meta.dtype.name(),
                meta.num_elements,
                meta.blake3,
                stats.rms,
                stats.mean,
                stats.min,
                stats.max,
                stats.abs_max,
                signed(stats.nan_count),
                signed(stats.inf_count),
            ])
            .map_err(index::error)?;
        Ok(())
    })?;
    if let Some(tables) = tables {
        // Where it cannot be written, whoever reads the run packs its rows in memory.
        let _ = tables.write(&run.name, number, packer.finish(stat).as_ref());
    }
    Ok(())
}

/// SQLite's integers are signed. Sizes, rows and counts were checked against the file and fit.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A shape as a JSON array.
fn shape_text(shape: &[i64]) -> String {
    let dims: Vec<String> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", dims.join(","))
}
