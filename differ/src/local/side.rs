//! A run's records as the referee asks for them.

use crate::records::Side;
use bitnet_referee::{Recorded, Token};
use bitnet_trace_schema::DType;
use bitnet_trace_store::{Located, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// A side by stage, layer and token.
pub struct Indexed<'a> {
    pub(crate) side: &'a Side<'a>,
    /// The rows of each stage of a layer. Of a token that was computed more than once, the last.
    rows: HashMap<(String, i32), BTreeMap<Token, usize>>,
    ids: HashMap<i32, &'a [Option<i32>]>,
    /// The first record that could not be read.
    failed: Mutex<Option<StoreError>>,
}

impl<'a> Indexed<'a> {
    /// Looks through a side's metadata.
    pub fn new(side: &'a Side<'a>) -> Self {
        let mut rows: HashMap<(String, i32), BTreeMap<Token, usize>> = HashMap::new();
        for row in 0..side.records.len() {
            let meta = side.records.meta(row);
            let token = Token {
                request: meta.request,
                seq: meta.seq,
            };
            let at = rows.entry((meta.stage.to_string(), meta.layer)).or_default();
            let kept = at.entry(token).or_insert(row);
            if side.records.meta(*kept).op_index < meta.op_index {
                *kept = row;
            }
        }
        let sequences = side.manifest.sequences.iter();
        Self {
            side,
            rows,
            ids: sequences.map(|s| (s.request, s.ids.as_slice())).collect(),
            failed: Mutex::new(None),
        }
    }

    /// The tokens that have a record of a stage.
    pub fn tokens(&self, stage: &str, layer: i32) -> Vec<Token> {
        let rows = self.rows.get(&(stage.to_owned(), layer));
        rows.into_iter().flat_map(|rows| rows.keys().copied()).collect()
    }

    /// The row of a record.
    pub fn find(&self, stage: &str, layer: i32, token: Token) -> Option<usize> {
        self.rows.get(&(stage.to_owned(), layer))?.get(&token).copied()
    }

    /// Every stage of a layer that has records.
    pub fn stages(&self) -> impl Iterator<Item = (&str, i32, usize)> {
        self.rows
            .iter()
            .map(|((stage, layer), rows)| (stage.as_str(), *layer, rows.len()))
    }

    /// Gives back the memory of elements that were read, of the stages that `which` takes: what looks at them again reads
    /// them again.
    pub fn release(&self, which: impl Fn(&str, i32) -> bool) {
        let taken = self
            .rows
            .iter()
            .filter(|((stage, layer), _)| which(stage, *layer));
        let mut rows: Vec<usize> = taken.flat_map(|(_, rows)| rows.values().copied()).collect();
        // As they lie in the parts.
        rows.sort_unstable();
        let records = self.side.records;
        let mut located = Located::default();
        records.locate(&rows, &mut located);
        records.done(&located.stretches);
    }

    /// Every token that has a record.
    pub fn all_tokens(&self) -> Vec<Token> {
        let mut all: Vec<Token> = self.rows.values().flat_map(|rows| rows.keys().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Element type of the KV cache, as recorded, or as the engine told.
    pub fn cache(&self) -> DType {
        let recorded = self.rows.iter().find(|((stage, _), _)| stage == "k_cache");
        let recorded = recorded.and_then(|(_, rows)| rows.values().next());
        let told = || self.side.manifest.settings.kv_type.as_deref()?.parse().ok();
        recorded
            .map(|&row| self.side.records.meta(row).dtype)
            .or_else(told)
            .unwrap_or(DType::F32)
    }

    /// Fails where a record could not be read.
    pub fn check(&self) -> Result<(), StoreError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }
}

impl Recorded for Indexed<'_> {
    fn row(&self, stage: &str, layer: i32, token: Token) -> Option<Vec<f64>> {
        let row = self.find(stage, layer, token)?;
        match self.side.records.elements(row) {
            Ok(elements) => elements.to_f64(self.side.records.meta(row).dtype),
            Err(error) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                None
            }
        }
    }

    fn has(&self, stage: &str, layer: i32, token: Token) -> bool {
        self.find(stage, layer, token).is_some()
    }

    fn id(&self, token: Token) -> Option<u32> {
        let ids = self.ids.get(&token.request)?;
        let id = *ids.get(usize::try_from(token.seq).ok()?)?;
        u32::try_from(id?).ok()
    }
}
