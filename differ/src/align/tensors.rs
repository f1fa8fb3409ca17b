//! The tensors of a run, over the positions that both runs have.

use crate::{
    mapping::{Convention, Source, gathered, permuted, sources},
    records::Records,
};
use bitnet_trace_store::{Meta, StoreError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A token of a run: request and position.
pub type Position = (i32, i64);

/// What a run calls a tensor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TensorName {
    /// The stage that it was recorded with.
    pub stage: String,
    /// The layer that it was recorded with.
    pub layer: i32,
    /// The engine's name of it.
    pub name: String,
    /// The engine's name of the operation.
    pub op: String,
    /// How many tensors of all these came before in a forward call.
    pub occurrence: u32,
}

impl std::fmt::Display for TensorName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() {
            &self.stage
        } else {
            &self.name
        };
        write!(f, "{name}")?;
        if !self.op.is_empty() {
            write!(f, "/{}", self.op)?;
        }
        if self.layer >= 0 {
            write!(f, " of layer {}", self.layer)?;
        }
        if self.occurrence > 0 {
            write!(f, " ({})", self.occurrence + 1)?;
        }
        Ok(())
    }
}

/// A tensor: one record for each position that it covers.
#[derive(Debug)]
pub struct Tensor {
    /// What its run calls it.
    pub name: TensorName,
    /// The stage and layer that it counts as without a mapping.
    pub key: (String, i32),
    /// Its first place in the order of execution.
    pub first: i64,
    /// Its row at each common position, where it has one there.
    pub rows: Vec<Option<usize>>,
    /// Elements at each common position, without padding; 0 where it is not recorded.
    pub counts: Vec<usize>,
    /// Heads, where its shape tells.
    pub heads: Option<usize>,
    /// All rows of each forward call, by position.
    calls: BTreeMap<i32, Vec<usize>>,
}

/// The tensors of a run.
pub struct Tensors<'a> {
    /// Its records.
    pub records: &'a dyn Records,
    /// One for each name, in order of execution.
    pub all: Vec<Tensor>,
}

/// The positions that a run has records of.
pub fn positions(records: &dyn Records) -> BTreeSet<Position> {
    let metas = (0..records.len()).map(|row| records.meta(row));
    metas.map(|m| (m.request, m.seq)).collect()
}

impl<'a> Tensors<'a> {
    /// The tensors of a run, at these positions.
    pub fn of(records: &'a dyn Records, positions: &[Position]) -> Self {
        let at: HashMap<Position, usize> = positions.iter().enumerate().map(|(i, p)| (*p, i)).collect();
        let raw = Recorded(records);
        let mut all: HashMap<Source<'_>, Tensor> = HashMap::new();
        for (row, source) in sources(&raw).into_iter().enumerate() {
            let (meta, key) = (records.recorded(row), records.meta(row));
            let tensor = all.entry(source).or_insert_with(|| Tensor {
                name: TensorName {
                    stage: meta.stage.to_string(),
                    layer: meta.layer,
                    name: meta.name.to_string(),
                    op: meta.op.to_string(),
                    occurrence: source.4,
                },
                key: (key.stage.to_string(), key.layer),
                first: i64::MAX,
                rows: vec![None; positions.len()],
                counts: vec![0; positions.len()],
                heads: None,
                calls: BTreeMap::new(),
            });
            tensor.first = tensor.first.min(meta.op_index);
            tensor.calls.entry(meta.pass).or_default().push(row);
            if let Some(&i) = at.get(&(meta.request, meta.seq)) {
                // A position that was computed again: the first time counts.
                let known = tensor.rows[i].map(|row| records.recorded(row).pass);
                if known.is_none_or(|pass| meta.pass < pass) {
                    tensor.rows[i] = Some(row);
                }
                tensor.heads = tensor.heads.or_else(|| heads(meta));
            }
        }
        let mut all: Vec<Tensor> = all.into_values().collect();
        for tensor in &mut all {
            for rows in tensor.calls.values_mut() {
                rows.sort_by_key(|&row| (records.recorded(row).request, records.recorded(row).seq));
            }
        }
        all.sort_by(|a, b| (a.first, &a.name).cmp(&(b.first, &b.name)));
        Self { records, all }
    }

    /// Counts a tensor's elements without padding: columns at the end of a record's rows that are zero in all
    /// rows are padding (scores and probabilities of keys that a token does not see).
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn counts(&self, tensor: usize) -> Result<Vec<usize>, StoreError> {
        let rows = self.all[tensor].rows.iter();
        rows.map(|row| row.map_or(Ok(0), |row| Ok(self.stripped(row, None)?.len())))
            .collect()
    }

    /// A tensor's values at a common position, without padding, in the order that a convention reads; what is not
    /// finite counts as 0. Empty where it is not recorded.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn values(
        &self,
        tensor: usize,
        position: usize,
        convention: Option<&Convention>,
    ) -> Result<Vec<f32>, StoreError> {
        let row = self.all[tensor].rows.get(position).copied().flatten();
        let Some(row) = row else {
            return Ok(Vec::new());
        };
        if let Some(convention @ Convention::HeadMajor { .. }) = convention {
            let rows = &self.all[tensor].calls[&self.records.recorded(row).pass];
            if let Some(token) = rows.iter().position(|&r| r == row) {
                let elements = gathered(self.records, rows, token, convention)?;
                let meta = self.records.recorded(row);
                return Ok(finite(
                    elements.to_f32(meta.dtype).unwrap_or_default().into_owned(),
                ));
            }
        }
        self.stripped(row, convention)
    }

    /// Whether the tensor's slices of some forward call are many, of one size.
    pub fn is_batched(&self, tensor: usize) -> bool {
        let elements = |row: &usize| self.records.recorded(*row).num_elements;
        let calls = self.all[tensor].calls.values();
        let same = |rows: &&Vec<usize>| rows.iter().all(|row| elements(row) == elements(&rows[0]));
        calls.clone().all(|rows| same(&rows)) && calls.clone().any(|rows| rows.len() > 1)
    }

    fn stripped(&self, row: usize, convention: Option<&Convention>) -> Result<Vec<f32>, StoreError> {
        let meta = self.records.recorded(row);
        let mut elements = self.records.elements(row)?;
        if let Some(convention) = convention {
            elements = permuted(elements, meta.dtype, convention);
        }
        let values = finite(elements.to_f32(meta.dtype).unwrap_or_default().into_owned());
        let columns = meta.shape.last().map_or(0, |&n| usize::try_from(n).unwrap_or(0));
        let is_matrix = meta.shape.len() > 1 && columns > 0 && values.len().is_multiple_of(columns);
        if !is_matrix || convention.is_some() {
            return Ok(values);
        }
        let rows = || values.chunks_exact(columns);
        let used = |row: &[f32]| row.iter().rposition(|&x| x != 0.0).map_or(0, |last| last + 1);
        let keep = rows().map(used).max().unwrap_or(0);
        if keep == columns {
            return Ok(values);
        }
        Ok(crate::shape::crop(&values, columns, keep))
    }
}

/// The records of a run under the names that it recorded itself.
struct Recorded<'a>(&'a dyn Records);

impl Records for Recorded<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        self.0.recorded(row)
    }

    fn elements(&self, row: usize) -> Result<crate::records::Elements, StoreError> {
        self.0.elements(row)
    }
}

fn finite(mut values: Vec<f32>) -> Vec<f32> {
    for x in &mut values {
        if !x.is_finite() {
            *x = 0.0;
        }
    }
    values
}

/// Heads of a slice of two axes.
fn heads(meta: Meta<'_>) -> Option<usize> {
    match crate::shape::squeezed(meta.shape)[..] {
        [heads, _] => usize::try_from(heads).ok(),
        _ => None,
    }
}
