use serde::Deserialize;
use std::collections::BTreeMap;

use crate::{LAYER_ALL, LAYER_MODEL};

/// The vocabulary of stages: a graph in causal order.
///
/// [`StageGraph::builtin`] is the vocabulary of `stages.toml`; [`StageGraph::extended`] adds a user's
/// stages and aliases to it.
#[derive(Debug, Clone, PartialEq)]
pub struct StageGraph {
    stages: Vec<Stage>,
}

/// One stage of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The word.
    pub name: String,
    /// Which layer numbers it has.
    pub scope: StageScope,
    /// What it is computed from.
    pub inputs: Vec<Input>,
    /// Names that engines give it, by family of engines: `NAME` or `NAME/OP`.
    pub aliases: BTreeMap<String, Vec<String>>,
}

/// Which layer numbers a stage's records have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageScope {
    /// Once a model: layer -1.
    Model,
    /// Once a layer.
    Layer,
    /// After all layers: layer -2.
    AllLayers,
}

/// Where a record stands in the causal order of its token: before, in or after the layers, then by layer and
/// stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    part: u8,
    layer: i32,
    rank: usize,
}

impl Place {
    /// The place after every stage of a layer.
    pub fn end_of_layer(layer: i32) -> Self {
        Self {
            part: 1,
            layer,
            rank: usize::MAX,
        }
    }
}

/// An input of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The stage that is read.
    pub stage: String,
    /// In which layer, and of which tokens.
    pub layer: InputLayer,
}

/// Where an input of a stage is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputLayer {
    /// The same layer and token.
    Same,
    /// The layer before (in layer 0: [`StageGraph::before_layers`]), the same token (`^` in the file).
    Previous,
    /// The same layer, this token and every earlier one (`*`).
    History,
    /// The last layer, the same token (`$`).
    Last,
}

/// Why a stage file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Not TOML, or not of this shape.
    #[error("the stage file is not valid: {0}")]
    Toml(#[from] toml::de::Error),
    /// An input that names no stage above it.
    #[error("stage {stage:?} has the input {input:?}, which is not a stage before it")]
    UnknownInput {
        /// The stage.
        stage: String,
        /// Its input.
        input: String,
    },
    /// A place in the order that is not a stage.
    #[error("stage {stage:?} is to stand after {after:?}, which is not a stage")]
    UnknownPlace {
        /// The stage.
        stage: String,
        /// The stage it names as its predecessor.
        after: String,
    },
    /// A name that is empty or holds a character with a meaning in selections.
    #[error("{0:?} is not a stage name: letters, digits, '_', '-' and '.' only")]
    Name(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    stage: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    scope: Option<StageScope>,
    /// Place of a user's stage: after this one (at the end, where missing).
    after: Option<String>,
    inputs: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, Vec<String>>,
}

impl StageGraph {
    /// The vocabulary of `stages.toml`.
    pub fn builtin() -> Self {
        // The file is part of the program; a test reads it.
        let empty = Self { stages: Vec::new() };
        empty.extended(include_str!("../stages.toml")).unwrap_or(empty)
    }

    /// This vocabulary with the stages and aliases of a user's TOML file.
    ///
    /// An entry whose `name` exists adds its aliases to it and, where given, replaces scope and inputs;
    /// a new one is placed by `after`.
    ///
    /// # Errors
    /// [`StageError`], one variant for each way the file can be unusable.
    pub fn extended(&self, toml_text: &str) -> Result<Self, StageError> {
        let file: File = toml::from_str(toml_text)?;
        let mut stages = self.stages.clone();
        for entry in file.stage {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if entry.name.is_empty() || !entry.name.chars().all(plain) {
                return Err(StageError::Name(entry.name));
            }
            let position = |name: &str| stages.iter().position(|s| s.name == name);
            let at = match (position(&entry.name), &entry.after) {
                (Some(at), _) => at,
                (None, Some(after)) => {
                    let at = position(after).ok_or_else(|| StageError::UnknownPlace {
                        stage: entry.name.clone(),
                        after: after.clone(),
                    })?;
                    stages.insert(at + 1, Stage::new(&entry.name));
                    at + 1
                }
                (None, None) => {
                    stages.push(Stage::new(&entry.name));
                    stages.len() - 1
                }
            };
            let stage = &mut stages[at];
            if let Some(scope) = entry.scope {
                stage.scope = scope;
            }
            if let Some(inputs) = entry.inputs {
                stage.inputs = inputs.iter().map(|i| Input::parse(i)).collect();
            }
            for (family, names) in entry.aliases {
                stage.aliases.entry(family).or_default().extend(names);
            }
        }
        let graph = Self { stages };
        graph.check()?;
        Ok(graph)
    }

    fn check(&self) -> Result<(), StageError> {
        for (at, stage) in self.stages.iter().enumerate() {
            for input in &stage.inputs {
                let known = match input.layer {
                    InputLayer::Previous => self.rank(&input.stage).is_some(),
                    _ => self.rank(&input.stage).is_some_and(|r| r < at),
                };
                if !known {
                    return Err(StageError::UnknownInput {
                        stage: stage.name.clone(),
                        input: input.stage.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Every stage, in causal order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// A stage by its name.
    pub fn get(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|s| s.name == name)
    }

    /// Place of a stage in the causal order.
    pub fn rank(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|s| s.name == name)
    }

    /// Whether the stage of this rank comes before all layers.
    pub fn is_before_layers(&self, rank: usize) -> bool {
        let first = self.stages.iter().position(|s| s.scope == StageScope::Layer);
        first.is_none_or(|first| rank < first)
    }

    /// What the first layer reads: the last stage before all layers.
    pub fn before_layers(&self) -> Option<&Stage> {
        self.stages
            .iter()
            .take_while(|s| s.scope != StageScope::Layer)
            .last()
    }

    /// Place of a record of `stage` and `layer` among those of its token; `None` for a stage that the
    /// vocabulary lacks.
    pub fn place(&self, stage: &str, layer: i32) -> Option<Place> {
        let rank = self.rank(stage)?;
        let (part, layer) = match layer {
            0.. => (1, layer),
            _ if self.is_before_layers(rank) => (0, 0),
            _ => (2, 0),
        };
        Some(Place { part, layer, rank })
    }

    /// The stage that engines of `family` call `name`, made by the operation `op`.
    ///
    /// ```
    /// let stages = bitnet_trace_schema::StageGraph::builtin();
    /// assert_eq!(stages.by_alias("ggml", "Qcur", "ROPE").map(|s| s.name.as_str()), Some("q_rope"));
    /// ```
    pub fn by_alias(&self, family: &str, name: &str, op: &str) -> Option<&Stage> {
        self.stages.iter().find(|s| {
            s.aliases.get(family).is_some_and(|names| {
                names.iter().any(|a| match a.split_once('/') {
                    Some((n, o)) => n == name && o == op,
                    None => a == name,
                })
            })
        })
    }

    /// The layer number that `stage` has for a record of layer `layer` in a model of `layers` layers,
    /// following `input`; and the stage read there. In layer 0, the layer before is
    /// [`before_layers`](Self::before_layers).
    pub fn resolve<'a>(&'a self, input: &'a Input, layer: i32, layers: i32) -> (&'a str, i32) {
        if input.layer == InputLayer::Previous && layer == 0 {
            let stage = self.before_layers().map_or(&input.stage, |stage| &stage.name);
            return (stage, LAYER_MODEL);
        }
        let layer = match (self.get(&input.stage).map(|s| s.scope), input.layer) {
            (Some(StageScope::Model), _) => LAYER_MODEL,
            (Some(StageScope::AllLayers), _) => LAYER_ALL,
            (_, InputLayer::Previous) => layer.saturating_sub(1),
            (_, InputLayer::Last) => layers.saturating_sub(1),
            _ => layer,
        };
        (&input.stage, layer)
    }
}

impl Stage {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            scope: StageScope::Layer,
            inputs: Vec::new(),
            aliases: BTreeMap::new(),
        }
    }
}

impl Input {
    fn parse(text: &str) -> Self {
        let (layer, stage) = match text.as_bytes().first() {
            Some(b'^') => (InputLayer::Previous, &text[1..]),
            Some(b'*') => (InputLayer::History, &text[1..]),
            Some(b'$') => (InputLayer::Last, &text[1..]),
            _ => (InputLayer::Same, text),
        };
        Self {
            stage: stage.to_owned(),
            layer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_vocabulary_is_in_causal_order() {
        let g = StageGraph::builtin();
        assert_eq!(g.stages().len(), 31);
        assert_eq!((g.rank("embeddings"), g.rank("logits")), (Some(0), Some(30)));
        for stage in g.stages() {
            for input in &stage.inputs {
                if input.layer != InputLayer::Previous {
                    assert!(
                        g.rank(&input.stage) < g.rank(&stage.name),
                        "{} reads {}",
                        stage.name,
                        input.stage
                    );
                }
            }
        }
    }

    #[test]
    fn inputs_resolve_to_layers() {
        let g = StageGraph::builtin();
        let first = |stage: &str| &g.get(stage).expect("a stage").inputs[0];
        assert_eq!(g.resolve(first("attn_norm"), 0, 30), ("embd_scaled", -1));
        assert_eq!(g.resolve(first("embd_scaled"), -1, 30), ("embeddings", -1));
        assert_eq!(g.resolve(first("attn_norm"), 4, 30), ("layer_out", 3));
        assert_eq!(g.resolve(first("q_rope"), 4, 30), ("q_norm", 4));
        assert_eq!(g.resolve(first("q_norm"), 4, 30), ("q_proj", 4));
        assert_eq!(g.resolve(first("all_layers_out"), -2, 30), ("layer_out", 29));
        assert_eq!(g.resolve(first("final_norm"), -1, 30), ("all_layers_out", -2));
        assert_eq!(g.resolve(first("logits"), -1, 30), ("final_norm", -1));
    }

    #[test]
    fn a_user_adds_stages_and_aliases() {
        let g = StageGraph::builtin()
            .extended("[[stage]]\nname='q_bias'\nafter='q_proj'\ninputs=['q_proj']\n[[stage]]\nname='q_proj'\naliases.mine=['wq']")
            .expect("valid");
        assert_eq!(g.rank("q_bias"), g.rank("q_proj").map(|r| r + 1));
        assert_eq!(
            g.by_alias("mine", "wq", "any").map(|s| s.name.as_str()),
            Some("q_proj")
        );
    }

    #[test]
    fn every_malformed_stage_file_has_its_own_error() {
        let error = |text: &str| StageGraph::builtin().extended(text).expect_err("refused");
        assert!(matches!(error("["), StageError::Toml(_)));
        assert!(matches!(
            error("[[stage]]\nname='x'\ncolour=1"),
            StageError::Toml(_)
        ));
        assert!(matches!(error("[[stage]]\nname='x y'"), StageError::Name(_)));
        assert!(matches!(
            error("[[stage]]\nname='x'\nafter='nope'"),
            StageError::UnknownPlace { .. }
        ));
        assert!(matches!(
            error("[[stage]]\nname='x'\ninputs=['logitz']"),
            StageError::UnknownInput { .. }
        ));
        assert!(matches!(
            error("[[stage]]\nname='x'\ninputs=['x']"),
            StageError::UnknownInput { .. }
        ));
    }
}
