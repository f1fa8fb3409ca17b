//! A run under the names and in the element orders of another.

use super::{Convention, Mapping, MappingError, Which, head_major};
use crate::records::{Elements, Head, Records};
use bitnet_trace_schema::{DType, LAYER_ALL, LAYER_MODEL, RecordMeta, StageGraph, StageScope, Stats, Text};
use bitnet_trace_store::{
    Columns, Filter, Located, Meta, PartValues, Position, Standing, StoreError, Stretches,
};
use serde::Serialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

/// How a record came by its stage and layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// They stand in the run.
    #[default]
    Recorded,
    /// By an alias of the vocabulary.
    Alias,
    /// By a mapping file.
    Mapping,
}

/// The records of a run under other names and in other orders.
///
/// A record whose stage is no word of the vocabulary is looked up in its aliases: by the stage, or by the tensor's
/// name where the stage is made of that or is the operation's; with the layer number that llama.cpp appends
/// (`Qcur-3`). Not where the run records the alias's stage under its own word too. The mapping file comes after that.
#[derive(Debug)]
pub struct Mapped<R> {
    inner: R,
    /// Rows that are kept, where not all are.
    kept: Option<Vec<usize>>,
    changed: HashMap<usize, Changed>,
    /// Rows of a head-major tensor of one forward call, by token.
    calls: Vec<Vec<usize>>,
    used: HashSet<usize>,
}

/// What is other than in the run.
#[derive(Debug)]
struct Changed {
    meta: RecordMeta,
    naming: Naming,
    convention: Option<Arc<Convention>>,
    /// Forward call and token of a head-major tensor.
    call: Option<(usize, usize)>,
}

/// The stage, layer and element order of a tensor.
#[derive(Clone)]
struct Target {
    stage: Text,
    layer: i32,
    naming: Naming,
    convention: Option<(usize, Arc<Convention>)>,
}

/// Which tensor of a run a record is of: its own stage, layer, name, operation, and which of these.
pub(crate) type Source<'a> = (&'a str, i32, &'a str, &'a str, u32);

impl<R: Records> Mapped<R> {
    /// The records of `inner`, a run of `engine` on side `which`.
    ///
    /// # Errors
    /// [`MappingError::Misfit`] where a record cannot lie as the mapping says.
    pub fn new(
        inner: R,
        which: Which,
        engine: &str,
        mapping: Option<&Mapping>,
        graph: &StageGraph,
    ) -> Result<Self, MappingError> {
        let aliases = Aliases::of(graph, &inner);
        let (changed, calls, used) = {
            let mut all = Changes {
                aliases,
                mapping,
                entries: entries(mapping, which, engine),
                graph,
                known: HashMap::new(),
                used: HashSet::new(),
            };
            let (changed, calls) = all.of(&inner)?;
            (changed, calls, all.used)
        };
        Ok(Self {
            inner,
            kept: None,
            changed,
            calls,
            used,
        })
    }

    /// Keeps the records that `filter` takes, by the names that they have here.
    pub fn retain(&mut self, filter: &Filter) {
        let rows = (0..self.len()).map(|row| self.row(row));
        let kept = rows.filter(|&row| filter.takes(self.meta_of(row)));
        self.kept = Some(kept.collect());
    }

    /// The run as it was recorded.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Entries of the mapping, from 0, that match some of its records.
    pub fn used(&self) -> &HashSet<usize> {
        &self.used
    }

    /// Rows of the inner run.
    fn rows<'a>(&self, rows: &'a [usize]) -> Cow<'a, [usize]> {
        match &self.kept {
            None => rows.into(),
            Some(kept) => rows.iter().map(|&row| kept[row]).collect(),
        }
    }

    fn row(&self, row: usize) -> usize {
        self.kept.as_ref().map_or(row, |kept| kept[row])
    }

    fn meta_of(&self, row: usize) -> Meta<'_> {
        self.change(row)
            .map_or_else(|| self.inner.meta(row), |c| (&c.meta).into())
    }

    fn change(&self, row: usize) -> Option<&Changed> {
        if self.changed.is_empty() {
            return None;
        }
        self.changed.get(&row)
    }
}

impl<R: Records> Records for Mapped<R> {
    fn len(&self) -> usize {
        self.kept.as_ref().map_or(self.inner.len(), Vec::len)
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        self.meta_of(self.row(row))
    }

    fn standing(&self, row: usize) -> Standing<'_> {
        let row = self.row(row);
        match self.change(row) {
            None => self.inner.standing(row),
            Some(_) => self.meta_of(row).into(),
        }
    }

    fn position(&self, row: usize) -> Position {
        match &self.kept {
            None => self.inner.position(row),
            Some(kept) => {
                // Rows are kept in order.
                let at = self.inner.position(kept[row]);
                let end = row + kept[row..].partition_point(|&row| row < at.end);
                Position { end, ..at }
            }
        }
    }

    fn columns(&self, rows: Range<usize>) -> Option<Columns<'_>> {
        let is_as_recorded = self.kept.is_none() && self.changed.is_empty();
        is_as_recorded.then(|| self.inner.columns(rows))?
    }

    fn values(&self, part: u32) -> Option<PartValues<'_>> {
        self.inner.values(part)
    }

    fn places(&self) -> BTreeSet<(i32, &Text)> {
        let changed = self.changed.values().map(|c| (c.meta.layer, &c.meta.stage));
        self.inner.places().into_iter().chain(changed).collect()
    }

    fn dtypes(&self) -> BTreeSet<DType> {
        match &self.kept {
            // A change leaves the dtype as it is.
            None => self.inner.dtypes(),
            Some(_) => (0..self.len()).map(|row| self.meta(row).dtype).collect(),
        }
    }

    fn head(&self, row: usize) -> Head {
        let row = self.row(row);
        match self.change(row) {
            None => self.inner.head(row),
            // Its shape may be another, and its hash gone.
            Some(_) => Head::default(),
        }
    }

    fn has_nan(&self, row: usize) -> bool {
        self.inner.has_nan(self.row(row))
    }

    fn is_by_position(&self) -> bool {
        // Neither is changed, and rows are kept in order.
        self.inner.is_by_position()
    }

    fn elements(&self, row: usize) -> Result<Elements, StoreError> {
        let row = self.row(row);
        let change = self.change(row);
        let Some((change, convention)) = change.and_then(|c| Some((c, c.convention.as_ref()?))) else {
            return self.inner.elements(row);
        };
        match change.call {
            Some((call, token)) => gathered(&self.inner, &self.calls[call], token, convention),
            None => Ok(permuted(self.inner.elements(row)?, change.meta.dtype, convention)),
        }
    }

    fn locate<'b>(&'b self, rows: &[usize], located: &mut Located<'b>) {
        let rows = self.rows(rows);
        self.inner.locate(&rows, located);
        if self.changed.is_empty() {
            return;
        }
        for (values, &row) in located.values.iter_mut().zip(&*rows) {
            if self.change(row).is_some_and(|c| c.convention.is_some()) {
                *values = None;
            }
        }
    }

    fn has_hash(&self, row: usize) -> Result<Option<bool>, StoreError> {
        self.inner.has_hash(self.row(row))
    }

    fn ahead(&self, stretches: &Stretches) {
        self.inner.ahead(stretches);
    }

    fn done(&self, stretches: &Stretches) {
        self.inner.done(stretches);
    }

    fn recorded(&self, row: usize) -> Meta<'_> {
        self.inner.meta(self.row(row))
    }

    fn naming(&self, row: usize) -> Naming {
        self.change(self.row(row)).map_or(Naming::Recorded, |c| c.naming)
    }

    fn convention(&self, row: usize) -> Option<&Convention> {
        self.change(self.row(row))?.convention.as_deref()
    }
}

/// The mapping's entries that are for this run.
fn entries(mapping: Option<&Mapping>, which: Which, engine: &str) -> Vec<usize> {
    let entries = mapping.map_or(&[][..], |m| &m.entries).iter().enumerate();
    entries
        .filter(|(_, e)| e.is_for(which, engine))
        .map(|(i, _)| i)
        .collect()
}

struct Changes<'a> {
    aliases: Aliases<'a>,
    mapping: Option<&'a Mapping>,
    entries: Vec<usize>,
    graph: &'a StageGraph,
    known: HashMap<(String, i32, String, String, u32), Option<Target>>,
    used: HashSet<usize>,
}

impl Changes<'_> {
    #[allow(clippy::type_complexity)]
    fn of(
        &mut self,
        records: &dyn Records,
    ) -> Result<(HashMap<usize, Changed>, Vec<Vec<usize>>), MappingError> {
        if self.entries.is_empty() && self.aliases.vocabulary_only(records) {
            return Ok((HashMap::new(), Vec::new()));
        }
        let mut changed = HashMap::new();
        let mut calls: BTreeMap<(i32, Source<'_>), Vec<usize>> = BTreeMap::new();
        for (row, source) in sources(records).into_iter().enumerate() {
            let meta = records.meta(row);
            let Some(target) = self.target(meta, source) else {
                continue;
            };
            let mut new = meta.to_record();
            new.stage = target.stage;
            new.layer = target.layer;
            if let Some((entry, convention)) = &target.convention {
                let elements = usize::try_from(meta.num_elements).unwrap_or(0);
                if !convention.fits(elements) {
                    return Err(self.misfit(*entry, (&new).into(), convention));
                }
                new.shape = convention.shape(&new.shape, elements);
                if matches!(**convention, Convention::HeadMajor { .. }) {
                    calls.entry((meta.pass, source)).or_default().push(row);
                } else {
                    // The hash is of the elements as they were recorded.
                    new.blake3.clear();
                }
            }
            changed.insert(
                row,
                Changed {
                    meta: new,
                    naming: target.naming,
                    convention: target.convention.map(|(_, c)| c),
                    call: None,
                },
            );
        }
        let calls = self.head_major(records, calls.into_values(), &mut changed)?;
        Ok((changed, calls))
    }

    /// The forward calls of head-major tensors; their records learn which token of one they are.
    fn head_major(
        &self,
        records: &dyn Records,
        calls: impl Iterator<Item = Vec<usize>>,
        changed: &mut HashMap<usize, Changed>,
    ) -> Result<Vec<Vec<usize>>, MappingError> {
        let mut all = Vec::new();
        for mut rows in calls {
            rows.sort_by_key(|&row| (records.meta(row).request, records.meta(row).seq));
            let elements = |row: usize| records.meta(row).num_elements;
            let odd = rows.iter().find(|&&row| elements(row) != elements(rows[0]));
            if let Some(change) = odd.and_then(|row| changed.get(row))
                && let Some(convention) = &change.convention
            {
                let entry = self.entries.iter().copied().find(|&e| {
                    let entry = self.mapping.map(|m| &m.entries[e]);
                    entry.is_some_and(|e| e.convention.as_ref() == Some(convention))
                });
                return Err(self.misfit(entry.unwrap_or(0), (&change.meta).into(), convention));
            }
            for (token, row) in rows.iter().enumerate() {
                if let Some(change) = changed.get_mut(row) {
                    // Hash and statistics are of other elements; of one token they are of its own.
                    if rows.len() > 1 {
                        change.meta.blake3.clear();
                        change.meta.stats = Stats::of_nothing();
                    }
                    change.call = Some((all.len(), token));
                }
            }
            all.push(rows);
        }
        Ok(all)
    }

    fn misfit(&self, entry: usize, meta: Meta<'_>, convention: &Convention) -> MappingError {
        MappingError::Misfit {
            file: self.mapping.map(|m| m.source.clone()).unwrap_or_default(),
            entry: entry + 1,
            stage: meta.stage.to_string(),
            layer: meta.layer,
            elements: meta.num_elements,
            layout: convention.name(),
            heads: convention.heads(),
        }
    }

    /// What a record is called and how it is read, where that is other than in the run.
    fn target(&mut self, meta: Meta<'_>, source: Source<'_>) -> Option<Target> {
        let (stage, layer, name, op, occurrence) = source;
        let key = (
            stage.to_owned(),
            layer,
            name.to_owned(),
            op.to_owned(),
            occurrence,
        );
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found = self.find(meta, occurrence);
        self.known.insert(key, found.clone());
        found
    }

    fn find(&mut self, meta: Meta<'_>, occurrence: u32) -> Option<Target> {
        let mut target = self.aliases.target(meta);
        let so_far = |t: &Option<Target>| {
            t.as_ref()
                .map_or((meta.stage.clone(), meta.layer), |t| (t.stage.clone(), t.layer))
        };
        let all = self.mapping.map_or(&[][..], |m| &m.entries);
        for named in [true, false] {
            let entries = self.entries.iter().rev().map(|&e| (e, &all[e]));
            let mut entries = entries.filter(|(_, e)| e.name.is_some() == named);
            let (stage, layer) = so_far(&target);
            let found = entries.find_map(|(i, e)| {
                let found = e.target(meta, occurrence, (&stage, layer), self.graph)?;
                Some((i, e, found.0.to_owned(), found.1))
            });
            let Some((i, entry, stage, layer)) = found else {
                continue;
            };
            self.used.insert(i);
            let before = target.take();
            let convention = entry.convention.clone().map(|c| (i, c));
            target = Some(Target {
                stage: stage.into(),
                layer,
                naming: match before {
                    // A layout alone names nothing.
                    _ if named => Naming::Mapping,
                    Some(before) => before.naming,
                    None => Naming::Recorded,
                },
                convention,
            });
        }
        target
    }
}

/// Of each row, which tensor it is of.
pub(crate) fn sources(records: &dyn Records) -> Vec<Source<'_>> {
    let mut rows: Vec<usize> = (0..records.len()).collect();
    rows.sort_by_key(|&row| {
        let m = records.meta(row);
        (m.pass, m.op_index, m.occurrence)
    });
    let mut seen: HashMap<(i32, i32, i64, Source<'_>), u32> = HashMap::new();
    let mut all: Vec<Source<'_>> = vec![("", 0, "", "", 0); rows.len()];
    for row in rows {
        let m = records.meta(row);
        let source = (m.stage.as_str(), m.layer, m.name.as_str(), m.op.as_str(), 0);
        let count = seen.entry((m.pass, m.request, m.seq, source)).or_default();
        all[row] = Source::from((source.0, source.1, source.2, source.3, *count));
        *count += 1;
    }
    all
}

/// The vocabulary's aliases, as far as a run may need them.
struct Aliases<'a> {
    graph: &'a StageGraph,
    /// By name: operations and stages.
    by_name: HashMap<&'a str, Vec<(Option<&'a str>, &'a str)>>,
    /// Words of the vocabulary that the run records.
    recorded: HashSet<&'a str>,
}

impl<'a> Aliases<'a> {
    fn of(graph: &'a StageGraph, records: &dyn Records) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for stage in graph.stages() {
            for alias in stage.aliases.values().flatten() {
                let (name, op) = match alias.split_once('/') {
                    Some((name, op)) => (name, Some(op)),
                    None => (alias.as_str(), None),
                };
                by_name.entry(name).or_default().push((op, stage.name.as_str()));
            }
        }
        let names: HashSet<&str> = records.places().into_iter().map(|(_, s)| s.as_str()).collect();
        let words = graph.stages().iter().map(|s| s.name.as_str());
        Self {
            graph,
            by_name,
            recorded: words.filter(|w| names.contains(w)).collect(),
        }
    }

    /// Whether every record's stage is a word of the vocabulary.
    fn vocabulary_only(&self, records: &dyn Records) -> bool {
        let mut places = records.places().into_iter();
        places.all(|(_, stage)| self.recorded.contains(stage.as_str()))
    }

    fn target(&self, meta: Meta<'_>) -> Option<Target> {
        if self.recorded.contains(meta.stage.as_str()) {
            return None;
        }
        // A stage that is a word of its own, whatever the tensor is called, was meant as one.
        let generic = meta.stage.contains(meta.name.as_str()) || meta.stage == meta.op;
        let name = generic.then_some(&meta.name);
        let found = name.into_iter().chain([&meta.stage]).find_map(|name| {
            let (bare, number) = split_layer(name);
            let stage = self.stage(name, meta.op).or_else(|| self.stage(bare, meta.op))?;
            Some((stage, number))
        });
        let (stage, number) = found.filter(|(stage, _)| !self.recorded.contains(stage))?;
        let layer = match self.graph.get(stage)?.scope {
            StageScope::Model => LAYER_MODEL,
            StageScope::AllLayers => LAYER_ALL,
            StageScope::Layer => number.or(Some(meta.layer).filter(|&l| l >= 0))?,
        };
        Some(Target {
            stage: stage.into(),
            layer,
            naming: Naming::Alias,
            convention: None,
        })
    }

    /// The one stage of this alias; where the operation is not known, the name alone must tell.
    fn stage(&self, name: &str, op: &str) -> Option<&'a str> {
        let all = self.by_name.get(name)?;
        let exact = all.iter().find(|(o, _)| !op.is_empty() && *o == Some(op));
        if let Some((_, stage)) = exact {
            return Some(stage);
        }
        let mut stages = all.iter().filter(|(o, _)| op.is_empty() || o.is_none());
        let (_, first) = stages.next()?;
        stages.all(|(_, s)| s == first).then_some(*first)
    }
}

/// A name without the layer number at its end, and that: `Qcur-3`.
pub(crate) fn split_layer(name: &str) -> (&str, Option<i32>) {
    let split = name.rsplit_once('-');
    let found = split.filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match found.and_then(|(bare, n)| Some((bare, n.parse().ok()?))) {
        Some((bare, n)) => (bare, Some(n)),
        None => (name, None),
    }
}

/// The elements of a slice in another order; a packed dtype is dequantised for it.
pub(crate) fn permuted(elements: Elements, dtype: DType, convention: &Convention) -> Elements {
    if let Some(values) = elements.to_f32(dtype) {
        return Elements::Values(convention.apply(&values));
    }
    match elements.raw() {
        Some(raw) if !dtype.is_packed() => {
            let whole: Vec<&[u8]> = raw.chunks(dtype.size()).collect();
            Elements::Raw(convention.apply(&whole).concat())
        }
        _ => elements,
    }
}

/// The elements of one token of a head-major tensor, whose slices are `rows`.
pub(crate) fn gathered(
    records: &dyn Records,
    rows: &[usize],
    token: usize,
    convention: &Convention,
) -> Result<Elements, StoreError> {
    let meta = records.meta(rows[token]);
    let elements = usize::try_from(meta.num_elements).unwrap_or(0);
    let heads = convention.heads().unwrap_or(1);
    let places = || head_major(heads, rows.len(), elements, token);
    let mut slices: Vec<Option<Elements>> = vec![None; rows.len()];
    for (slice, _) in places() {
        if let Some(empty @ None) = slices.get_mut(slice) {
            *empty = Some(records.elements(rows[slice])?);
        }
    }
    let absent = |e: &Elements| e.values().is_none() && e.raw().is_none();
    if let Some(absent) = slices.iter().flatten().find(|e| absent(e)) {
        return Ok(absent.clone());
    }
    let values: Vec<_> = slices
        .iter()
        .map(|s| s.as_ref().and_then(|s| s.to_f32(meta.dtype)))
        .collect();
    let read = |(slice, at): (usize, usize)| values.get(slice)?.as_ref()?.get(at).copied();
    if values.iter().any(Option::is_some) {
        return Ok(Elements::Values(places().filter_map(read).collect()));
    }
    let size = meta.dtype.size();
    let bytes = |(slice, at): (usize, usize)| {
        let raw = slices.get(slice)?.as_ref()?.raw()?;
        raw.get(at.checked_mul(size)?..at.checked_add(1)?.checked_mul(size)?)
    };
    Ok(Elements::Raw(
        places().filter_map(bytes).flatten().copied().collect(),
    ))
}
