//! A mapping file from pairs of tensors.

use super::tensors::{Tensor, TensorName};
use crate::mapping::{Convention, ConventionName, Which, layer_of};
use bitnet_trace_schema::{LAYER_ALL, LAYER_MODEL, StageGraph, StageScope};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A `[[map]]` of a mapping file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
struct Map {
    side: Which,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_layer: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurrence: Option<u32>,
    stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<ConventionName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Vec<u32>>,
}

/// A pair of tensors, and how the right one is read.
pub struct Proposed<'a> {
    /// The left tensor.
    pub left: &'a Tensor,
    /// The right tensor.
    pub right: &'a Tensor,
    /// How the right one is read.
    pub convention: Option<&'a Convention>,
}

/// Under which stage and layer each pair is compared: what the left run calls it, where that is a word of the
/// vocabulary and of this tensor alone; else what the right run does; else a word made of the left name.
pub fn targets(
    pairs: &[Proposed<'_>],
    left: &[Tensor],
    right: &[Tensor],
    graph: &StageGraph,
) -> Vec<(String, i32)> {
    let (of_left, of_right) = (counted(left), counted(right));
    let word = |t: &Tensor, counts: &Counts<'_>| {
        let alone = counts[&(t.key.0.as_str(), t.key.1)] == 1;
        (alone && graph.get(&t.key.0).is_some()).then(|| t.key.clone())
    };
    let known: Vec<_> = pairs
        .iter()
        .map(|p| word(p.left, &of_left).or_else(|| word(p.right, &of_right)))
        .collect();
    let mut taken: HashSet<(String, i32)> = known.iter().flatten().cloned().collect();
    let keys = left.iter().chain(right).map(|t| t.key.clone());
    taken.extend(keys);
    let invented = |name: &TensorName, taken: &mut HashSet<(String, i32)>| {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "_-.".contains(c) {
                c
            } else {
                '_'
            }
        };
        let text = if name.name.is_empty() {
            &name.stage
        } else {
            &name.name
        };
        let mut base: String = text.chars().map(plain).collect();
        if !name.op.is_empty() {
            base.push('.');
            base.extend(name.op.chars().map(plain));
        }
        let numbered = (0..).map(|n| {
            if n == 0 {
                base.clone()
            } else {
                format!("{base}.{n}")
            }
        });
        let mut free = numbered
            .filter(|stage| !stage.is_empty())
            .map(|stage| (stage, name.layer.max(LAYER_ALL)));
        let key = free.find(|key| !taken.contains(key)).unwrap_or_default();
        taken.insert(key.clone());
        key
    };
    let chosen = known.into_iter().zip(pairs);
    chosen
        .map(|(known, p)| known.unwrap_or_else(|| invented(&p.left.name, &mut taken)))
        .collect()
}

type Counts<'a> = HashMap<(&'a str, i32), usize>;

fn counted(tensors: &[Tensor]) -> Counts<'_> {
    let mut counts = HashMap::new();
    for tensor in tensors {
        *counts.entry((tensor.key.0.as_str(), tensor.key.1)).or_default() += 1;
    }
    counts
}

/// The text of the mapping file that makes the pairs have these stages and layers.
///
/// # Errors
/// What TOML cannot hold.
pub fn toml(
    pairs: &[Proposed<'_>],
    targets: &[(String, i32)],
    left: &[Tensor],
    right: &[Tensor],
    graph: &StageGraph,
) -> Result<String, toml::ser::Error> {
    #[derive(Serialize)]
    struct File {
        map: Vec<Map>,
    }
    let mut map = Vec::new();
    let of_left = pairs.iter().zip(targets).map(|(p, t)| (p.left, t, None));
    map.extend(side(Which::Left, of_left, left, graph));
    let of_right = pairs.iter().zip(targets).map(|(p, t)| (p.right, t, p.convention));
    map.extend(side(Which::Right, of_right, right, graph));
    if map.is_empty() {
        return Ok(String::new());
    }
    toml::to_string(&File { map })
}

/// The entries of one run.
fn side<'a>(
    which: Which,
    pairs: impl Iterator<Item = (&'a Tensor, &'a (String, i32), Option<&'a Convention>)>,
    all: &[Tensor],
    graph: &StageGraph,
) -> Vec<Map> {
    let counts = counted(all);
    let mut entries: Vec<(&Tensor, &(String, i32), Map)> = Vec::new();
    for (tensor, target, convention) in pairs {
        let same = tensor.key == *target && counts[&(tensor.key.0.as_str(), tensor.key.1)] == 1;
        if same && convention.is_none() {
            continue;
        }
        let mut map = if same {
            Map::new(which, target, None)
        } else {
            distinct(which, tensor, target, all)
        };
        if let Some(convention) = convention {
            map.layout = Some(convention.name());
            map.heads = convention.heads();
            if let Convention::Permuted { order } = convention {
                map.order = Some(order.to_vec());
            }
        }
        entries.push((tensor, target, map));
    }
    shortened(entries, all, graph)
}

/// The entry that only this tensor matches.
fn distinct(which: Which, tensor: &Tensor, target: &(String, i32), all: &[Tensor]) -> Map {
    let of = &tensor.name;
    let name = if of.name.is_empty() { &of.stage } else { &of.name };
    let mut map = Map::new(which, target, Some(name.clone()));
    let rivals = |map: &Map| all.iter().filter(|t| map.takes(&t.name)).count();
    if rivals(&map) > 1 && !of.op.is_empty() {
        map.op = Some(of.op.clone());
    }
    if rivals(&map) > 1 {
        map.in_layer = Some(of.layer);
    }
    if rivals(&map) > 1 {
        map.occurrence = Some(of.occurrence);
    }
    map
}

impl Map {
    fn new(side: Which, target: &(String, i32), name: Option<String>) -> Self {
        Self {
            side,
            name,
            op: None,
            in_layer: None,
            occurrence: None,
            stage: target.0.clone(),
            layer: Some(target.1),
            layout: None,
            heads: None,
            order: None,
        }
    }

    /// Whether the entry is for a tensor of this name, whatever its layer pattern.
    fn takes(&self, of: &TensorName) -> bool {
        let name = self.name.as_deref();
        name.is_none_or(|n| layer_of(n, &of.name).or_else(|| layer_of(n, &of.stage)).is_some())
            && self.op.as_ref().is_none_or(|op| *op == of.op)
            && self.in_layer.is_none_or(|l| l == of.layer)
            && self.occurrence.is_none_or(|n| n == of.occurrence)
    }

    /// The layer that the entry gives a tensor which it takes.
    fn layer_for(&self, of: &TensorName, graph: &StageGraph) -> i32 {
        let name = self.name.as_deref().unwrap_or_default();
        let found = layer_of(name, &of.name)
            .or_else(|| layer_of(name, &of.stage))
            .flatten();
        let by_scope = || match graph.get(&self.stage).map(|s| s.scope) {
            Some(StageScope::Model) => LAYER_MODEL,
            Some(StageScope::AllLayers) => LAYER_ALL,
            _ => of.layer,
        };
        found.or(self.layer).unwrap_or_else(by_scope)
    }
}

/// Entries of many layers as one, where it says of every tensor of the run what they say.
fn shortened(entries: Vec<(&Tensor, &(String, i32), Map)>, all: &[Tensor], graph: &StageGraph) -> Vec<Map> {
    let wanted: BTreeMap<&TensorName, (&(String, i32), &Map)> = entries
        .iter()
        .map(|(t, target, map)| (&t.name, (*target, map)))
        .collect();
    let says = |general: &Map| {
        let named = general.name.is_some();
        all.iter()
            .filter(|t| named && general.takes(&t.name) || !named && t.key.0 == general.stage)
            .all(|t| {
                wanted.get(&t.name).is_some_and(|(target, map)| {
                    let layer = if named {
                        general.layer_for(&t.name, graph)
                    } else {
                        t.key.1
                    };
                    target.0 == general.stage
                        && target.1 == layer
                        && (map.layout, map.heads, &map.order)
                            == (general.layout, general.heads, &general.order)
                        && map.name.is_some() == named
                })
            })
    };
    let mut done: HashSet<Map> = HashSet::new();
    let mut result = Vec::new();
    for (tensor, target, map) in &entries {
        let general = generals(map, tensor, target.1).into_iter().find(|g| says(g));
        let map = general.unwrap_or_else(|| map.clone());
        if done.insert(map.clone()) {
            result.push(map);
        }
    }
    result
}

/// More general forms of an entry: any layer in place of this one.
fn generals(map: &Map, tensor: &Tensor, layer: i32) -> Vec<Map> {
    let mut all = Vec::new();
    let Some(name) = &map.name else {
        return vec![Map {
            layer: None,
            ..map.clone()
        }];
    };
    // Where the number of the layer stands in the name.
    let digits = |c: char| c.is_ascii_digit();
    let starts: BTreeSet<usize> = name
        .char_indices()
        .filter(|&(i, c)| digits(c) && !name[..i].ends_with(digits))
        .map(|(i, _)| i)
        .collect();
    for start in starts {
        let length = name[start..]
            .find(|c: char| !digits(c))
            .unwrap_or(name.len() - start);
        let number: Option<i32> = name[start..start + length].parse().ok();
        if number == Some(layer) {
            all.push(Map {
                name: Some(format!("{}{{layer}}{}", &name[..start], &name[start + length..])),
                layer: None,
                in_layer: None,
                ..map.clone()
            });
        }
    }
    if tensor.name.layer == layer || layer < 0 {
        all.push(Map {
            layer: None,
            in_layer: None,
            ..map.clone()
        });
    }
    all
}
