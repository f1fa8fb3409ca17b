//! Records of several runs, side by side.

use crate::{
    Error,
    judge::{by_elements, by_metadata},
    notes::incomplete,
    num,
    plan::{Key, align},
    records::{Elements, Records, Side},
    report::{Note, RecordView, RunView},
    tolerance::Gates,
};
use bitnet_trace_schema::StageGraph;
use serde::Serialize;
use std::ops::ControlFlow;

/// Records side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryReport {
    /// The database.
    pub database: String,
    /// The runs, in the order of the columns.
    pub runs: Vec<RunView>,
    /// The records, in causal order.
    pub records: Vec<QueryRow>,
    /// What a reader should know: runs that are incomplete, or that could not be read.
    pub notes: Vec<Note>,
}

/// Records of one key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryRow {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// How many records of the key came before in the same run.
    pub visit: u32,
    /// One entry a run; null where it has no such record.
    pub cells: Vec<Option<Cell>>,
}

/// One run's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The run.
    pub run: String,
    /// The record.
    #[serde(flatten)]
    pub record: RecordView,
    /// Relative L2 against the first run's record (NaN where one side is not finite and the other is);
    /// none for the first itself, and where values or corresponding shapes are missing.
    #[serde(serialize_with = "num::json_option")]
    pub rel_l2: Option<f64>,
    /// The first elements, if they were asked for and recorded.
    #[serde(serialize_with = "elements", skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<f64>>,
}

fn elements<S: serde::Serializer>(values: &Option<Vec<f64>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().flatten().map(|&x| num::Num(x)))
}

/// Puts the records of runs side by side, with the first `values` elements of each.
///
/// # Errors
/// [`Error::NoRecords`] where no run has a record; [`Error::Store`] where one cannot be read.
pub fn query(
    database: &str,
    sides: &[Side<'_>],
    graph: &StageGraph,
    values: usize,
) -> Result<QueryReport, Error> {
    let runs: Vec<&dyn Records> = sides.iter().map(|s| s.records).collect();
    let mut records = Vec::new();
    for aligned in align(&runs, graph) {
        let mut cells = Vec::with_capacity(sides.len());
        let first = match aligned.rows.first() {
            Some(&Some(row)) => Some((row, runs[0].elements(row)?)),
            _ => None,
        };
        for (i, (&row, side)) in aligned.rows.iter().zip(sides).enumerate() {
            let Some(row) = row else {
                cells.push(None);
                continue;
            };
            let meta = side.records.meta(row);
            let mine = side.records.elements(row)?;
            let rel_l2 = match &first {
                Some((other, elements)) if i > 0 => distance((runs[0].meta(*other), elements), (meta, &mine)),
                _ => None,
            };
            let shown = (values > 0).then(|| mine.to_f64(meta.dtype)).flatten();
            cells.push(Some(Cell {
                run: side.name.into(),
                record: RecordView::of(meta),
                rel_l2,
                values: shown.map(|v| v.into_iter().take(values).collect()),
            }));
        }
        records.push(QueryRow {
            key: aligned.key,
            visit: aligned.visit,
            cells,
        });
    }
    Ok(QueryReport {
        database: database.into(),
        runs: sides.iter().map(RunView::of).collect(),
        records,
        notes: sides.iter().filter_map(|s| incomplete(s, s.name)).collect(),
    })
}

type Record<'a> = (bitnet_trace_store::Meta<'a>, &'a Elements);

fn distance(left: Record<'_>, right: Record<'_>) -> Option<f64> {
    let outcome = match by_metadata(left.0, right.0) {
        ControlFlow::Break(outcome) => outcome,
        ControlFlow::Continue(_) => by_elements(left, right, &Gates::rel_l2(0.0), true).ok()?,
    };
    outcome.rel_l2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, manifest};

    #[test]
    fn each_key_has_a_cell_for_each_run() {
        let (mut a, mut b) = (Memory::default(), Memory::default());
        a.push(3, 0, "q_proj", &[3.0, 4.0]);
        b.push(3, 0, "q_proj", &[3.0, 4.5]);
        b.push(3, 0, "k_proj", &[1.0]);
        let (ma, mb) = (manifest("a", "x", 1, &[1]), manifest("b", "y", 1, &[1]));
        let sides = [a.side(&ma), b.side(&mb)];
        let report = query("db", &sides, &StageGraph::builtin(), 1).expect("readable");
        assert_eq!(report.records.len(), 2);
        let cell = |row: usize, run: usize| report.records[row].cells[run].as_ref();
        assert_eq!(cell(0, 1).expect("a record").rel_l2, Some(0.1));
        assert_eq!(cell(0, 0).expect("a record").values, Some(vec![3.0]));
        assert_eq!(cell(1, 0), None);
    }
}
