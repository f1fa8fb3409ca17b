//! How each step of a plan pairs, or why it does not.

use super::Placed;
use crate::{
    mapping::{ConventionName, Naming, Which},
    records::{Records, Side},
    shape::{Layout, layout, squeezed},
};
use bitnet_trace_schema::{InputLayer, Stage, StageGraph, selection::Selection};
use bitnet_trace_store::Meta;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Stages that flash attention computes in one kernel.
const IN_FLASH_ATTENTION: [&str; 3] = ["attn_scores", "attn_probs", "attn_ctx"];

/// How a step pairs, or why it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Both runs have a record.
    Paired {
        /// How the runs came to one name; of two ways, the one that says more.
        by: Naming,
        /// How their elements correspond.
        rule: Rule,
    },
    /// One run has a record only.
    Missing {
        /// The run that lacks it.
        from: Which,
        /// Why.
        why: Missing,
    },
}

/// How the elements of a pair correspond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The shapes are the same.
    Same,
    /// They differ in dimensions of extent 1.
    UnitDimensions,
    /// One side has its heads split, the other merged: `[9, 64]` and `[576]`.
    HeadSplit,
    /// Rows of attention probabilities, of which one side's go on.
    Rows,
    /// As a mapping declares it.
    Declared(ConventionName),
    /// By no rule: the pair cannot be compared.
    None,
}

impl Rule {
    /// The rule of a pair without a declared layout.
    fn of(left: Meta<'_>, right: Meta<'_>) -> Self {
        match layout(left, right) {
            Layout::Rows { .. } => Self::Rows,
            Layout::Different => Self::None,
            Layout::Same if left.shape == right.shape => Self::Same,
            Layout::Same if squeezed(left.shape) == squeezed(right.shape) => Self::UnitDimensions,
            Layout::Same => Self::HeadSplit,
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::UnitDimensions => "unit_dimensions",
            Self::HeadSplit => "head_split",
            Self::Rows => "rows",
            Self::Declared(name) => name.as_str(),
            Self::None => "none",
        }
    }

    /// The rule in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Same => "the same shape",
            Self::UnitDimensions => "dimensions of extent 1 aside",
            Self::HeadSplit => "heads split on one side, merged on the other",
            Self::Rows => "rows of other lengths: keys that one side leaves out",
            Self::Declared(ConventionName::RopeInterleaved) => {
                "declared: rotary pairs read as halves of a head"
            }
            Self::Declared(ConventionName::RopeHalves) => "declared: rotary halves of a head read as pairs",
            Self::Declared(ConventionName::Transposed) => "declared: heads and their elements transposed",
            Self::Declared(ConventionName::HeadMajor) => "declared: heads before tokens",
            Self::Declared(ConventionName::Permuted) => "declared: in another order of elements",
            Self::None => "shapes that correspond by no rule: not compared",
        }
    }
}

/// Why a record has no counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// The run's selection leaves it out.
    Selection,
    /// The run computes scores, probabilities and context in one kernel.
    FlashAttention,
    /// The run computes the end of the model for the rows that it puts out only.
    PrunedRows,
    /// The run never records the stage, and does record what reads it.
    Fused,
    /// The run never records the stage.
    NotRecorded,
    /// The run has nothing of the position.
    Position,
    /// The run has nothing of the layer.
    Layer,
    /// The other run has the key more often.
    ExtraVisit,
    /// The stage is no word of the vocabulary, nor an alias, nor in the mapping.
    UnknownName,
    /// The run has the stage, and not here.
    Gap,
}

impl Missing {
    /// Whether that is how an engine is made or was asked to record, and no sign of anything.
    pub fn by_design(self) -> bool {
        matches!(
            self,
            Self::Selection | Self::FlashAttention | Self::PrunedRows | Self::Fused | Self::NotRecorded
        )
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::FlashAttention => "flash_attention",
            Self::PrunedRows => "pruned_rows",
            Self::Fused => "fused",
            Self::NotRecorded => "not_recorded",
            Self::Position => "position",
            Self::Layer => "layer",
            Self::ExtraVisit => "extra_visit",
            Self::UnknownName => "unknown_name",
            Self::Gap => "gap",
        }
    }

    /// The reason in words, of the run that lacks the record.
    pub fn words(self, run: &str) -> String {
        match self {
            Self::Selection => format!("the selection of {run} leaves them out"),
            Self::FlashAttention => format!("{run} used flash attention, one kernel for all of it"),
            Self::PrunedRows => format!("{run} computes the end of the model for its output rows only"),
            Self::Fused => format!("{run} computes them inside of another operation, or not at all"),
            Self::NotRecorded => format!("{run} never records the stage"),
            Self::Position => format!("{run} has nothing of these positions"),
            Self::Layer => format!("{run} has nothing of these layers"),
            Self::ExtraVisit => format!("{run} has these keys less often"),
            Self::UnknownName => {
                format!("no name that {run} has: teach it with --mapping or --stages, or try `align`")
            }
            Self::Gap => format!("{run} has the stage, and not here"),
        }
    }
}

/// What a run records, for the question why it lacks something.
struct Facts<'a> {
    positions: HashSet<(i32, i64)>,
    layers: BTreeSet<i32>,
    stages: HashSet<&'a str>,
    /// The last position of each request, layer and stage.
    last: HashMap<(i32, i32, &'a str), i64>,
    keys: HashSet<(i32, i64, i32, &'a str)>,
    selection: Option<Selection>,
    flash_attention: bool,
}

impl<'a> Facts<'a> {
    fn of(side: &Side<'a>) -> Self {
        let mut facts = Self {
            positions: HashSet::new(),
            layers: BTreeSet::new(),
            stages: HashSet::new(),
            last: HashMap::new(),
            keys: HashSet::new(),
            // A selection is of the names that the run itself knows.
            selection: side.manifest.selection.as_ref().and_then(|s| s.parse().ok()),
            flash_attention: side.manifest.settings.flash_attention == Some(true),
        };
        for row in 0..side.records.len() {
            let m = side.records.meta(row);
            let stage = m.stage.as_str();
            facts.positions.insert((m.request, m.seq));
            facts.layers.insert(m.layer);
            facts.stages.insert(stage);
            facts.keys.insert((m.request, m.seq, m.layer, stage));
            let last = facts.last.entry((m.request, m.layer, stage)).or_insert(m.seq);
            *last = m.seq.max(*last);
        }
        facts
    }
}

/// Says of the steps of a plan how they pair.
pub struct Explained<'a> {
    left: &'a dyn Records,
    right: &'a dyn Records,
    graph: &'a StageGraph,
    facts: [Facts<'a>; 2],
}

impl<'a> Explained<'a> {
    /// Looks at both runs of a plan.
    pub fn new(left: &Side<'a>, right: &Side<'a>, graph: &'a StageGraph) -> Self {
        Self {
            left: left.records,
            right: right.records,
            graph,
            facts: [Facts::of(left), Facts::of(right)],
        }
    }

    /// How a step pairs, or why it does not.
    pub fn how(&self, step: Placed<'_>) -> How {
        match (step.left(), step.right()) {
            (Some(l), Some(r)) => {
                let declared = self.left.convention(l).or(self.right.convention(r));
                How::Paired {
                    by: self.left.naming(l).max(self.right.naming(r)),
                    rule: declared.map_or_else(
                        || Rule::of(self.left.meta(l), self.right.meta(r)),
                        |c| Rule::Declared(c.name()),
                    ),
                }
            }
            (None, _) => How::Missing {
                from: Which::Left,
                why: self.why(step, &self.facts[0]),
            },
            _ => How::Missing {
                from: Which::Right,
                why: self.why(step, &self.facts[1]),
            },
        }
    }

    fn why(&self, key: Placed<'_>, facts: &Facts<'_>) -> Missing {
        let (stage, layer) = (key.stage.as_str(), key.layer);
        let selected = |s: &Selection| s.tokens(stage, layer).wants(key.seq, key.request);
        if facts.selection.as_ref().is_some_and(|s| !selected(s)) {
            return Missing::Selection;
        }
        if facts.keys.contains(&(key.request, key.seq, layer, stage)) {
            return Missing::ExtraVisit;
        }
        let recorded = facts.stages.contains(stage);
        if !recorded && self.graph.get(stage).is_none() {
            return Missing::UnknownName;
        }
        if !recorded && facts.flash_attention && IN_FLASH_ATTENTION.contains(&stage) {
            return Missing::FlashAttention;
        }
        if !recorded {
            return match self.is_read(stage, facts) {
                true => Missing::Fused,
                false => Missing::NotRecorded,
            };
        }
        if !facts.positions.contains(&(key.request, key.seq)) {
            return Missing::Position;
        }
        if !facts.layers.contains(&layer) {
            return Missing::Layer;
        }
        let end = match layer {
            0.. => facts.layers.last() == Some(&layer),
            _ => self
                .graph
                .rank(stage)
                .is_some_and(|r| !self.graph.is_before_layers(r)),
        };
        let later = facts.last.get(&(key.request, layer, stage));
        if end && later.is_some_and(|&seq| seq > key.seq) {
            return Missing::PrunedRows;
        }
        Missing::Gap
    }

    /// Whether the run recorded what is computed from a stage. Steps that only some models have, such as a norm, are
    /// looked through where neither run has them.
    fn is_read(&self, stage: &str, facts: &Facts<'_>) -> bool {
        let reads = |s: &&Stage| s.inputs.iter().any(|i| i.stage == stage);
        self.graph.stages().iter().filter(reads).any(|reader| {
            let name = reader.name.as_str();
            let is_step = matches!(&reader.inputs[..], [only] if only.layer == InputLayer::Same);
            facts.stages.contains(name)
                || (is_step
                    && !self.facts.iter().any(|f| f.stages.contains(name))
                    && self.is_read(name, facts))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mapping::{Mapped, Mapping},
        plan::{PlanLine, plan},
        testing::{Memory, manifest},
    };
    use bitnet_trace_schema::Manifest;
    use bitnet_trace_schema::RecordMeta;

    fn lines(left: (&dyn Records, &Manifest), right: (&dyn Records, &Manifest)) -> Vec<PlanLine> {
        let graph = StageGraph::builtin();
        let empty = Memory::default();
        let side = |records, manifest| Side {
            records,
            ..empty.side(manifest)
        };
        let (left, right) = (side(left.0, left.1), side(right.0, right.1));
        plan(left.records, right.records, &graph).lines(&left, &right, &graph)
    }

    fn kinds(lines: &[PlanLine]) -> Vec<(String, Which, &'static str, u64)> {
        let all = lines.iter();
        all.flat_map(|l| {
            l.missing
                .iter()
                .map(|m| (l.stage.clone(), m.run, m.kind, m.records))
        })
        .collect()
    }

    /// Two layers of a few stages, at positions 0 to 2.
    fn run() -> Memory {
        let mut m = Memory::default();
        for seq in 0..3 {
            for layer in 0..2 {
                for stage in ["q_rope", "attn_scores", "attn_ctx", "attn_out", "layer_out"] {
                    m.push(seq, layer, stage, &[1.0, 2.0]);
                }
            }
            m.push(seq, -1, "logits", &[1.0]);
        }
        m
    }

    fn without(take: impl Fn(&RecordMeta) -> bool) -> Memory {
        let mut m = run();
        m.rows.retain(|(meta, _)| !take(meta));
        m
    }

    fn against(right: &Memory, change: impl Fn(&mut Manifest)) -> Vec<PlanLine> {
        let (a, mut b) = (
            manifest("a", "x", 3, &[1, 2, 3]),
            manifest("b", "y", 3, &[1, 2, 3]),
        );
        change(&mut b);
        lines((&run(), &a), (right, &b))
    }

    #[test]
    fn what_is_missing_by_design_is_told_from_what_is_not() {
        use Which::Right;
        let scores = without(|m| m.stage == "attn_scores");
        let of = |m: &Memory, change: &dyn Fn(&mut Manifest)| kinds(&against(m, change));
        let one = |stage: &str, kind, n| vec![(stage.to_owned(), Right, kind, n)];
        let flash = |b: &mut Manifest| b.settings.flash_attention = Some(true);
        assert_eq!(of(&scores, &flash), one("attn_scores", "flash_attention", 6));
        let ctx = without(|m| m.stage == "attn_ctx");
        assert_eq!(of(&ctx, &|_| ()), one("attn_ctx", "fused", 6));
        let out = without(|m| m.stage == "layer_out");
        assert_eq!(of(&out, &|_| ()), one("layer_out", "not_recorded", 6));
        let rope = without(|m| m.stage == "q_rope");
        assert_eq!(of(&rope, &|_| ()), one("q_rope", "fused", 6));
        let pruned = without(|m| m.layer == 1 && m.stage == "attn_out" && m.seq < 2);
        assert_eq!(of(&pruned, &|_| ()), one("attn_out", "pruned_rows", 2));
        let selected = without(|m| m.stage == "layer_out");
        let select = |b: &mut Manifest| b.selection = Some("stage!=layer_out".into());
        assert_eq!(of(&selected, &select), one("layer_out", "selection", 6));
        let gap = without(|m| m.layer == 0 && m.stage == "attn_out" && m.seq == 1);
        assert_eq!(of(&gap, &|_| ()), one("attn_out", "gap", 1));
        let short = without(|m| m.seq == 2);
        assert!(of(&short, &|_| ()).iter().all(|k| k.2 == "position"));
        let shallow = without(|m| m.layer == 1);
        assert!(of(&shallow, &|_| ()).iter().all(|k| k.2 == "layer"));
    }

    #[test]
    fn an_extra_visit_and_an_unknown_name_are_unmatched() {
        let mut right = run();
        right.push_at(1, 0, 0, "attn_out", &[1.0, 2.0]);
        right.push(0, 0, "mine", &[1.0]);
        let lines = against(&right, |_| ());
        assert_eq!(
            kinds(&lines),
            [
                ("attn_out".to_owned(), Which::Left, "extra_visit", 1),
                ("mine".to_owned(), Which::Left, "unknown_name", 1)
            ]
        );
        assert!(lines.iter().flat_map(|l| &l.missing).all(|m| !m.by_design));
    }

    #[test]
    fn names_pair_by_alias_and_by_mapping_and_layouts_are_told() {
        let graph = StageGraph::builtin();
        let (mut left, mut raw) = (Memory::default(), Memory::default());
        left.push(0, 3, "q_rope", &[1.0, 2.0, 3.0, 4.0]);
        left.shape(&[1, 2, 2]);
        left.push(0, 3, "k_rope", &[1.0, 2.0, 3.0, 4.0]);
        left.push(0, 3, "v_proj", &[1.0, 2.0]);
        left.shape(&[1, 2]);
        raw.push(0, -1, "ROPE", &[1.0, 2.0, 3.0, 4.0]);
        (raw.last().0.name, raw.last().0.op) = ("Qcur-3".into(), "ROPE".into());
        raw.push(0, -1, "blk.3.k", &[1.0, 3.0, 2.0, 4.0]);
        raw.push(0, -1, "Vcur-3", &[1.0, 2.0]);
        raw.last().0.op = "MUL_MAT".into();
        let text = "[[map]]\nname='blk.{layer}.k'\nstage='k_rope'\nlayout='rope_interleaved'\nheads=1";
        let mapping = Mapping::from_toml(text, "m.toml").expect("a mapping");
        let right = Mapped::new(raw, Which::Right, "x", Some(&mapping), &graph).expect("it fits");
        let (a, b) = (manifest("a", "x", 1, &[1]), manifest("b", "y", 1, &[1]));
        let lines = lines((&left, &a), (&right, &b));
        let shown: Vec<_> = lines
            .iter()
            .map(|l| {
                let name = l.names.first().map_or("", |n| n.name.as_str());
                (
                    l.stage.as_str(),
                    l.by_alias,
                    l.by_mapping,
                    name,
                    l.layouts[0].rule,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("v_proj", 1, 0, "Vcur-{layer}", "unit_dimensions"),
                ("q_rope", 1, 0, "Qcur-{layer}", "head_split"),
                ("k_rope", 0, 1, "blk.3.k", "rope_interleaved"),
            ]
        );
    }
}
