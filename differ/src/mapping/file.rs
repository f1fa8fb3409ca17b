//! The mapping file.

use super::{Convention, ConventionName};
use crate::report::Note;
use bitnet_trace_schema::{LAYER_ALL, LAYER_MODEL, StageGraph, StageScope};
use bitnet_trace_store::Meta;
use serde::Deserialize;
use std::{collections::HashSet, sync::Arc};

/// Where the layer number stands in a name.
const LAYER: &str = "{layer}";

/// Entries that a note lists.
const LISTED: usize = 6;

/// Which run of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The left one, the reference.
    Left,
    /// The right one.
    Right,
}

/// What a mapping file teaches: stages and layers by the names that a run gives its tensors, and how those lie.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mapping {
    /// The file's name, for messages.
    pub source: String,
    /// The entries; of those that match a record, the last one counts.
    pub entries: Vec<Entry>,
}

/// One `[[map]]` of a mapping file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Of which run, where not of either.
    pub side: Option<Which>,
    /// Of runs of which engine, where not of any.
    pub engine: Option<String>,
    /// The run's own name of the tensor, or the stage it was recorded with; `{layer}` stands for a number.
    /// None: records that have the stage already.
    pub name: Option<String>,
    /// The run's own name of the operation.
    pub op: Option<String>,
    /// Only tensors that the run itself puts into this layer.
    pub in_layer: Option<i32>,
    /// Only the n-th tensor, from 0, of this name in a forward call.
    pub occurrence: Option<u32>,
    /// What it is.
    pub stage: String,
    /// Of which layer; where missing: the number in the name, else by the vocabulary, else the run's own.
    pub layer: Option<i32>,
    /// How it lies.
    pub convention: Option<Arc<Convention>>,
}

/// Why a mapping file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// Not TOML, or not of this shape.
    #[error("{file} is not a mapping file: {source}")]
    Toml {
        /// The file.
        file: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// An entry that is for two things at once.
    #[error("{file}, entry {entry}: give `side` or `engine`, not both")]
    SideAndEngine {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
    },
    /// A name that is empty, or has `{layer}` twice.
    #[error(
        "{file}, entry {entry}: {name:?} is not a name: it must not be empty, and have {LAYER} once at most"
    )]
    Name {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
        /// The name.
        name: String,
    },
    /// A stage that is not a word.
    #[error("{file}, entry {entry}: {stage:?} is not a stage name: letters, digits, '_', '-' and '.' only")]
    Stage {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
        /// The stage.
        stage: String,
    },
    /// A layer that no record has, or that stands in the name already.
    #[error(
        "{file}, entry {entry}: layer {layer} is none (0 or more, {LAYER_MODEL} without one, {LAYER_ALL} for all_layers_out), or its name has {LAYER} already"
    )]
    Layer {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
        /// The layer.
        layer: i32,
    },
    /// An entry that changes nothing.
    #[error("{file}, entry {entry} says nothing: give a `name` to map, or a `layout` to read the stage in")]
    Nothing {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
    },
    /// A layout without what it needs, or with what it has no use for.
    #[error("{file}, entry {entry}: {message}")]
    Layout {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
        /// What is wrong.
        message: &'static str,
    },
    /// A layout in which a record cannot lie.
    #[error("{file}, entry {entry}: {stage} of layer {layer} has {elements} elements, which cannot lie as {}{}", layout.as_str(), heads.map_or(String::new(), |h| format!(" of {h} heads")))]
    Misfit {
        /// The file.
        file: String,
        /// Its entry, from 1.
        entry: usize,
        /// The stage.
        stage: String,
        /// The layer.
        layer: i32,
        /// Elements of the record.
        elements: i64,
        /// The layout.
        layout: ConventionName,
        /// Its number of heads.
        heads: Option<usize>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    map: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    side: Option<Which>,
    engine: Option<String>,
    name: Option<String>,
    op: Option<String>,
    in_layer: Option<i32>,
    occurrence: Option<u32>,
    stage: String,
    layer: Option<i32>,
    layout: Option<ConventionName>,
    heads: Option<usize>,
    order: Option<Vec<u32>>,
}

impl Mapping {
    /// Reads a mapping file; `source` is its name in messages.
    ///
    /// # Errors
    /// [`MappingError`], one variant for each way the file can be unusable.
    pub fn from_toml(text: &str, source: &str) -> Result<Self, MappingError> {
        let file = || source.to_owned();
        let raw: File = toml::from_str(text).map_err(|e| MappingError::Toml {
            file: file(),
            source: Box::new(e),
        })?;
        let entries = raw.map.into_iter().enumerate();
        let entries = entries.map(|(i, raw)| raw.checked(source, i + 1));
        Ok(Self {
            source: file(),
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// What a reader of a comparison should know of it, given the entries that match records of some run: that it was
    /// used, and which entries match nothing.
    pub fn notes(&self, used: &HashSet<usize>) -> Vec<Note> {
        let note = |message| Note {
            kind: "mapping",
            message,
        };
        let (used_of, all) = (used.len(), self.entries.len());
        let told = format!(
            "names and layouts come from {}; entries used: {used_of} of {all}",
            self.source
        );
        let told = (!used.is_empty()).then(|| note(told));
        told.into_iter().chain(self.unused(used).map(note)).collect()
    }

    fn unused(&self, used: &HashSet<usize>) -> Option<String> {
        let entries = self.entries.iter().enumerate();
        let unused = entries.filter(|(i, _)| !used.contains(i));
        let shown: Vec<String> = unused
            .map(|(i, e)| match &e.name {
                Some(name) => format!("{} ({name})", i + 1),
                None => format!("{} ({})", i + 1, e.stage),
            })
            .collect();
        let more = shown.len().saturating_sub(LISTED);
        let text = shown[..shown.len() - more].join(", ");
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let text = format!("entries of {} that match no record: {text}{more}", self.source);
        (!shown.is_empty()).then_some(text)
    }
}

impl Raw {
    fn checked(self, source: &str, entry: usize) -> Result<Entry, MappingError> {
        let file = source.to_owned();
        if self.side.is_some() && self.engine.is_some() {
            return Err(MappingError::SideAndEngine { file, entry });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.stage.is_empty() || !self.stage.chars().all(plain) {
            let stage = self.stage;
            return Err(MappingError::Stage { file, entry, stage });
        }
        let layers_in_name = self.name.as_ref().map_or(0, |n| n.matches(LAYER).count());
        if let Some(name) = self.name.clone().filter(|n| n.is_empty() || layers_in_name > 1) {
            return Err(MappingError::Name { file, entry, name });
        }
        if let Some(layer) = self.layer.filter(|&l| l < LAYER_ALL || layers_in_name > 0) {
            return Err(MappingError::Layer { file, entry, layer });
        }
        let convention = convention(self.layout, self.heads, self.order).map_err(|message| {
            let file = source.to_owned();
            MappingError::Layout { file, entry, message }
        })?;
        if self.name.is_none() && convention.is_none() {
            return Err(MappingError::Nothing { file, entry });
        }
        Ok(Entry {
            side: self.side,
            engine: self.engine,
            name: self.name,
            op: self.op,
            in_layer: self.in_layer,
            occurrence: self.occurrence,
            stage: self.stage,
            layer: self.layer,
            convention: convention.map(Arc::new),
        })
    }
}

fn convention(
    layout: Option<ConventionName>,
    heads: Option<usize>,
    order: Option<Vec<u32>>,
) -> Result<Option<Convention>, &'static str> {
    let Some(layout) = layout else {
        return match (heads, order) {
            (None, None) => Ok(None),
            _ => Err("`heads` and `order` belong to a `layout`"),
        };
    };
    if layout == ConventionName::Permuted {
        let order = order.ok_or("the layout permuted needs `order`, a place for each element")?;
        if heads.is_some() {
            return Err("the layout permuted has no `heads`");
        }
        let mut seen = vec![false; order.len()];
        for &at in &order {
            match seen.get_mut(at as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err("`order` must have each number from 0 to its length once"),
            }
        }
        return Ok(Some(Convention::Permuted { order: order.into() }));
    }
    if order.is_some() {
        return Err("`order` belongs to the layout permuted");
    }
    let heads = heads
        .filter(|&h| h > 0)
        .ok_or("the layout needs `heads`, the number of heads of the tensor")?;
    Ok(Some(match layout {
        ConventionName::RopeInterleaved => Convention::RopeInterleaved { heads },
        ConventionName::RopeHalves => Convention::RopeHalves { heads },
        ConventionName::Transposed => Convention::Transposed { heads },
        _ => Convention::HeadMajor { heads },
    }))
}

impl Entry {
    /// Whether the entry is for this run.
    pub fn is_for(&self, which: Which, engine: &str) -> bool {
        self.side.is_none_or(|s| s == which) && self.engine.as_ref().is_none_or(|e| e == engine)
    }

    /// The stage and layer that the entry gives a record, which its run recorded as `meta`, as the
    /// `occurrence`-th of its name, and which is called `stage` and `layer` by the vocabulary so far.
    pub fn target(
        &self,
        meta: Meta<'_>,
        occurrence: u32,
        (stage, layer): (&str, i32),
        graph: &StageGraph,
    ) -> Option<(&str, i32)> {
        let takes = self.op.as_ref().is_none_or(|op| op == meta.op.as_str())
            && self.in_layer.is_none_or(|l| l == meta.layer)
            && self.occurrence.is_none_or(|n| n == occurrence);
        if !takes {
            return None;
        }
        let Some(pattern) = &self.name else {
            let at = self.layer.unwrap_or(layer);
            return (self.stage == stage && at == layer).then_some((&self.stage, layer));
        };
        let found = [&meta.name, &meta.stage]
            .into_iter()
            .find_map(|name| layer_of(pattern, name))?;
        let of_scope = match graph.get(&self.stage).map(|s| s.scope) {
            Some(StageScope::Model) => LAYER_MODEL,
            Some(StageScope::AllLayers) => LAYER_ALL,
            _ => meta.layer,
        };
        Some((&self.stage, found.or(self.layer).unwrap_or(of_scope)))
    }
}

/// Whether a name is of this pattern, and the layer number in it.
#[allow(clippy::option_option)]
pub(crate) fn layer_of(pattern: &str, name: &str) -> Option<Option<i32>> {
    let Some((before, after)) = pattern.split_once(LAYER) else {
        return (pattern == name).then_some(None);
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| digits).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mapping, MappingError> {
        Mapping::from_toml(text, "m.toml")
    }

    #[test]
    fn every_malformed_mapping_file_has_its_own_error() {
        let error = |entry: &str| read(&format!("[[map]]\n{entry}")).expect_err("refused");
        assert!(matches!(error("["), MappingError::Toml { .. }));
        assert!(matches!(error("name='a'"), MappingError::Toml { .. }));
        assert!(matches!(
            error("name='a'\nstage='b'\ncolour=1"),
            MappingError::Toml { .. }
        ));
        assert!(matches!(
            error("name='a'\nstage='b'\nlayout='odd'"),
            MappingError::Toml { .. }
        ));
        assert!(matches!(
            error("name='a'\nstage='b'\nside='left'\nengine='x'"),
            MappingError::SideAndEngine { entry: 1, .. }
        ));
        assert!(matches!(error("name=''\nstage='b'"), MappingError::Name { .. }));
        assert!(matches!(
            error("name='{layer}.{layer}'\nstage='b'"),
            MappingError::Name { .. }
        ));
        assert!(matches!(
            error("name='a'\nstage='b c'"),
            MappingError::Stage { .. }
        ));
        assert!(matches!(
            error("name='a'\nstage='b'\nlayer=-3"),
            MappingError::Layer { .. }
        ));
        assert!(matches!(
            error("name='a{layer}'\nstage='b'\nlayer=3"),
            MappingError::Layer { .. }
        ));
        assert!(matches!(error("stage='b'"), MappingError::Nothing { .. }));
        for layout in [
            "layout='rope_halves'",
            "layout='head_major'\nheads=0",
            "heads=3",
            "layout='permuted'",
            "layout='permuted'\norder=[0, 0]",
            "layout='permuted'\norder=[0, 2]",
            "layout='permuted'\norder=[0]\nheads=1",
            "layout='transposed'\nheads=2\norder=[0]",
        ] {
            let entry = format!("stage='b'\n{layout}");
            assert!(matches!(error(&entry), MappingError::Layout { .. }), "{layout}");
        }
    }

    #[test]
    fn a_name_holds_its_layer_where_the_pattern_has_one() {
        assert_eq!(layer_of("blk.{layer}.q", "blk.12.q"), Some(Some(12)));
        assert_eq!(layer_of("q-{layer}", "q-0"), Some(Some(0)));
        assert_eq!(layer_of("embd", "embd"), Some(None));
        for (pattern, name) in [
            ("q-{layer}", "q-"),
            ("q-{layer}", "q-+1"),
            ("q-{layer}", "q-x1"),
            ("q-{layer}", "q-99999999999"),
            ("a{layer}a", "a"),
            ("embd", "embd2"),
        ] {
            assert_eq!(layer_of(pattern, name), None, "{pattern} {name}");
        }
    }
}
