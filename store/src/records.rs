use crate::scan::PartStat;
use crate::update;
use bitnet_trace_schema::{DType, RecordMeta, Stats, Text, selection::glob};
use rusqlite::types::{ToSql, Type};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// Which records of a run to take; what is `None` takes all.
///
/// ```
/// let filter = bitnet_trace_store::Filter {
///     seq: Some(3..=3),
///     stage: Some("attn_*".into()),
///     ..Default::default()
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Token positions.
    pub seq: Option<RangeInclusive<i64>>,
    /// Layers (-1 and -2 as in the `layer` column).
    pub layer: Option<RangeInclusive<i32>>,
    /// Stage: a word, or a pattern with `*` (any text) and `?` (any character).
    pub stage: Option<String>,
    /// Request.
    pub request: Option<i32>,
}

impl Filter {
    /// Whether it takes a record.
    pub fn takes(&self, meta: &RecordMeta) -> bool {
        self.seq.as_ref().is_none_or(|r| r.contains(&meta.seq))
            && self.layer.as_ref().is_none_or(|r| r.contains(&meta.layer))
            && self.stage.as_ref().is_none_or(|s| glob(s, &meta.stage))
            && self.request.is_none_or(|r| r == meta.request)
    }
}

/// A record as the index holds it: everything but its elements, and where those are.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The record's scalar columns.
    pub meta: RecordMeta,
    /// `records.id` in the index, as long as the index is not rebuilt.
    pub id: i64,
    /// Number of the part that holds it.
    pub part: u32,
    /// Row in the part, from 0.
    pub part_row: u64,
    /// Byte offset of the f32 values in the part; `None` where no values are kept.
    pub values_offset: Option<u64>,
    /// Number of f32 values; `None` where no values are kept.
    pub values_count: Option<u64>,
    /// Length of the original bytes; `None` where they are not kept.
    pub raw_bytes: Option<u64>,
}

impl Row {
    /// Whether the run keeps the record's elements (as values or as original bytes), and not
    /// statistics only.
    pub fn has_elements(&self) -> bool {
        self.values_offset.is_some() || self.raw_bytes.is_some()
    }
}

/// The filter as SQL: conditions, and the parameters they name in order after the run's id.
fn conditions(filter: &Filter) -> (String, Vec<Box<dyn ToSql>>) {
    let (mut text, mut parameters) = (String::new(), Vec::<Box<dyn ToSql>>::new());
    if let Some(seq) = &filter.seq {
        text.push_str(" AND seq BETWEEN ? AND ?");
        parameters.extend([Box::new(*seq.start()) as Box<dyn ToSql>, Box::new(*seq.end())]);
    }
    if let Some(layer) = &filter.layer {
        text.push_str(" AND layer BETWEEN ? AND ?");
        parameters.extend([Box::new(*layer.start()) as Box<dyn ToSql>, Box::new(*layer.end())]);
    }
    if let Some(stage) = &filter.stage {
        text.push_str(" AND stage GLOB ?");
        // SQLite's GLOB also has character classes; here a bracket is a bracket.
        parameters.push(Box::new(stage.replace('[', "[[]")));
    }
    if let Some(request) = filter.request {
        text.push_str(" AND request = ?");
        parameters.push(Box::new(request));
    }
    (text, parameters)
}

/// The records of the run `name` that `filter` takes; `None` if the index has not exactly `parts` of it any
/// more (more parts of a run that is being recorded are fine, and not read).
pub(crate) fn query<'a>(
    sql: &Connection,
    name: &str,
    parts: impl Iterator<Item = (u32, &'a PartStat)>,
    filter: &Filter,
) -> rusqlite::Result<Option<Vec<Row>>> {
    // One transaction, so that another process cannot replace the run between the two queries.
    let transaction = sql.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached("SELECT id FROM runs WHERE name = ?")?;
    let Some(run_id) = statement.query_row([name], |r| r.get::<_, i64>(0)).optional()? else {
        return Ok(None);
    };
    let known: BTreeMap<String, _> = update::parts(&transaction, run_id)?
        .into_iter()
        .map(|p| (p.file.clone(), p))
        .collect();
    let mut numbers = HashMap::new();
    for (number, stat) in parts {
        match known.get(&stat.file) {
            Some(part) if part.is(stat) => numbers.insert(part.id, number),
            _ => return Ok(None),
        };
    }
    let (mut text, mut parameters) = conditions(filter);
    parameters.insert(0, Box::new(run_id));
    let mut by_key = "";
    if filter.seq.is_none() && filter.layer.is_none() && filter.stage.is_none() {
        // Most of the run: its rows stand together in the table, in the order of execution. By the key's index each would
        // have to be looked up.
        let first_and_last: (i64, i64) = transaction.query_row(
            "SELECT coalesce(min(first), 0), coalesce(max(last), -1) FROM (
                 SELECT (SELECT min(id) FROM records WHERE part_id = parts.id) AS first,
                        (SELECT max(id) FROM records WHERE part_id = parts.id) AS last
                 FROM parts WHERE run_id = ?)",
            [run_id],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?;
        // A term with a sign is no term of an index.
        by_key = "+";
        text.push_str(" AND id BETWEEN ? AND ?");
        parameters.extend([
            Box::new(first_and_last.0) as Box<dyn ToSql>,
            Box::new(first_and_last.1),
        ]);
    }
    let mut statement = transaction.prepare_cached(&format!(
        "SELECT id, part_id, part_row, values_offset, values_count, raw_bytes, seq, layer, stage, name, op,
             op_index, request, pass, occurrence, shape, dtype, num_elements, blake3, rms, mean, min, max,
             abs_max, nan_count, inf_count
         FROM records WHERE {by_key}run_id = ?{text}"
    ))?;
    let mut found = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut rows = Vec::new();
    let mut reader = Reader::new();
    let mut last = None;
    while let Some(row) = found.next()? {
        let id: i64 = row.get(1)?;
        // Rows of a part stand together.
        let part = match last {
            Some((of, part)) if of == id => Some(part),
            _ => numbers.get(&id).copied(),
        };
        if let Some(part) = part {
            last = Some((id, part));
            rows.push(reader.read(row, part)?);
        }
    }
    Ok(Some(in_order(rows)))
}

/// Rows by request, seq, op_index, pass and occurrence. A row is large: they are moved once, and where they stand in
/// order not at all.
fn in_order(rows: Vec<Row>) -> Vec<Row> {
    let key = |r: &Row| {
        let m = &r.meta;
        (
            m.request,
            m.seq,
            m.op_index,
            m.pass,
            m.occurrence,
            r.part,
            r.part_row,
        )
    };
    if rows.is_sorted_by_key(key) {
        return rows;
    }
    let mut order: Vec<_> = rows.iter().map(key).zip(0..).collect();
    order.sort_unstable();
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let at = |(_, at): (_, usize)| rows[at].take();
    order.into_iter().filter_map(at).collect()
}

/// A count or offset: SQLite's integers are signed.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn optional(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    let Some(value) = row.get::<_, Option<i64>>(column)? else {
        return Ok(None);
    };
    let count = u64::try_from(value);
    count
        .map(Some)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Texts that were read, and what was made of them. Each has one place: what is read next into it takes it over, so that
/// no index, whatever it holds, makes it grow.
struct Seen<T>(Vec<Option<(Box<[u8]>, T)>>);

impl<T: Clone> Seen<T> {
    /// Texts it holds at most: several times as many as the tensors of a model have names.
    const PLACES: usize = 1 << 13;

    fn new() -> Self {
        Self(std::iter::repeat_with(|| None).take(Self::PLACES).collect())
    }

    /// What was made of the text in a column, or is made of it now.
    fn get(
        &mut self,
        row: &rusqlite::Row<'_>,
        column: usize,
        make: impl FnOnce(&str) -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
    ) -> rusqlite::Result<T> {
        let text = row.get_ref(column)?;
        let unreadable = |error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error);
        let bytes = text.as_bytes().map_err(|e| unreadable(e.into()))?;
        let place = &mut self.0[place(bytes) & (Self::PLACES - 1)];
        match place {
            Some((known, made)) if **known == *bytes => Ok(made.clone()),
            _ => {
                let text = text.as_str().map_err(|e| unreadable(e.into()))?;
                let made = make(text).map_err(unreadable)?;
                *place = Some((bytes.into(), made.clone()));
                Ok(made)
            }
        }
    }
}

/// A number of a text: a multiplicative hash (Knuth, The Art of Computer Programming, volume 3, 6.4), a word at a time.
fn place(bytes: &[u8]) -> usize {
    let mix = |hash: u64, word: u64| {
        let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 32)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    mix(hash, u64::from_le_bytes(last)) as usize
}

/// Reads rows of the index. Of the texts that many rows have there is one copy.
struct Reader {
    texts: Seen<Text>,
    shapes: Seen<Vec<i64>>,
    dtypes: Seen<DType>,
}

impl Reader {
    fn new() -> Self {
        Self {
            texts: Seen::new(),
            shapes: Seen::new(),
            dtypes: Seen::new(),
        }
    }

    fn read(&mut self, row: &rusqlite::Row<'_>, part: u32) -> rusqlite::Result<Row> {
        let mut text = |column| self.texts.get(row, column, |text| Ok(text.into()));
        Ok(Row {
            id: row.get(0)?,
            part,
            part_row: unsigned(row, 2)?,
            values_offset: optional(row, 3)?,
            values_count: optional(row, 4)?,
            raw_bytes: optional(row, 5)?,
            meta: RecordMeta {
                seq: row.get(6)?,
                layer: row.get(7)?,
                stage: text(8)?,
                name: text(9)?,
                op: text(10)?,
                op_index: row.get(11)?,
                request: row.get(12)?,
                pass: row.get(13)?,
                occurrence: row.get(14)?,
                shape: self.shapes.get(row, 15, |text| Ok(serde_json::from_str(text)?))?,
                dtype: self.dtypes.get(row, 16, |text| Ok(text.parse()?))?,
                num_elements: row.get(17)?,
                blake3: row.get(18)?,
                stats: Stats {
                    rms: row.get(19)?,
                    mean: row.get(20)?,
                    min: row.get(21)?,
                    max: row.get(22)?,
                    abs_max: row.get(23)?,
                    nan_count: unsigned(row, 24)?,
                    inf_count: unsigned(row, 25)?,
                },
            },
        })
    }
}
