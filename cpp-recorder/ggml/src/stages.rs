//! Which node is which stage.

use crate::{Host, Node, Raw};
use bitnet_trace_schema::{StageGraph, StageScope};
use std::{collections::BTreeMap, sync::LazyLock};

/// How ggml lays out a stage's tensor, fastest axis first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[n, tokens]`
    Rows,
    /// `[head_dim, heads, tokens]`
    Heads,
    /// `[keys, tokens of a stream, heads, streams]`
    Keys,
}

/// A stage that has a node of its own. `k_cache` and `v_cache` have none: they are read from the sources of the product
/// `kq`, of `kqv` and of the fused FLASH_ATTN_EXT, whose own result is attn_ctx and has no name.
#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub in_layer: bool,
    pub layout: Layout,
    /// Its rank in the vocabulary.
    pub rank: usize,
    /// Whether it is a product with weights, which a bias and a scale may follow.
    pub product: bool,
}

/// The stages that are products with weights, in layers.
const PRODUCTS: [&str; 7] = [
    "q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_down",
];

static STAGES: LazyLock<Vec<Stage>> = LazyLock::new(|| {
    let of = |(rank, stage): (usize, &bitnet_trace_schema::Stage)| Stage {
        name: stage.name.clone(),
        in_layer: stage.scope == StageScope::Layer,
        layout: match stage.name.as_str() {
            "q_norm" | "k_norm" | "q_rope" | "k_rope" | "q_scaled" => Layout::Heads,
            "attn_scores" | "attn_probs" => Layout::Keys,
            _ => Layout::Rows,
        },
        rank,
        product: PRODUCTS.contains(&stage.name.as_str()),
    };
    StageGraph::builtin()
        .stages()
        .iter()
        .enumerate()
        .map(of)
        .collect()
});

/// Name to operation and stage, as `aliases.ggml` of the vocabulary says.
static ALIASES: LazyLock<BTreeMap<String, Vec<(String, &'static Stage)>>> = LazyLock::new(|| {
    let mut aliases: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (known, stage) in StageGraph::builtin().stages().iter().zip(STAGES.iter()) {
        for alias in known.aliases.get("ggml").into_iter().flatten() {
            let (name, op) = alias.split_once('/').unwrap_or((alias, ""));
            aliases
                .entry(name.to_owned())
                .or_default()
                .push((op.to_owned(), stage));
        }
    }
    aliases
});

/// The stage of a node and its layer: by the node's name, and where the host gave it none, by what it is made of.
pub fn of(host: &impl Host, node: &Node) -> (Option<&'static Stage>, Option<i32>) {
    let (base, layer) = split_name(node.name());
    let source = |at: usize| {
        let source: Raw = node.src[at];
        (!source.is_null()).then(|| host.node(source))
    };
    let made_of = |at: usize, name: &str, op: &str| {
        let source = source(at)?;
        let (base, layer) = split_name(source.name());
        (base == name && layer.is_some() && (op.is_empty() || source.op() == op)).then_some(layer)
    };
    // ggml calls what has no name by its number in the graph.
    let unnamed = base.is_empty() || base.starts_with("node_");
    match node.op() {
        "GET_ROWS" if unnamed && source(1).is_some_and(|s| s.name().contains("inp_tokens")) => {
            (find("embd", None, "GET_ROWS"), None)
        }
        // q before the product with the keys, in models that scale it there
        "SCALE" if unnamed => match made_of(0, "Qcur", "ROPE") {
            Some(layer) => (find("Qcur", layer, "SCALE"), layer),
            None => (None, layer),
        },
        // the output projection, and not what an adapter adds to it
        "MUL_MAT" if unnamed && !is_adapter(host, node) => match made_of(1, "kqv_out", "") {
            Some(layer) => (find("attn_out", layer, "MUL_MAT"), layer),
            None => (None, layer),
        },
        // the scale of the last product, not gate times up
        "MUL" if base == "ffn_out" && source(0).is_some_and(|s| s.op() == "MUL_MAT") => {
            (find(base, layer, "MUL_MAT"), layer)
        }
        op => (find(base, layer, op), layer),
    }
}

/// Whether `node` adds a bias to `product` or scales it: llama.cpp's names of such weights end so.
pub fn finishes(host: &impl Host, node: &Node, product: Raw) -> bool {
    let is_weight = |tensor: Raw| {
        !tensor.is_null() && {
            let node = host.node(tensor);
            // contained, for a copy on another device has a longer name
            node.ne[1..] == [1; 3] && [".bias", ".scale"].iter().any(|end| node.name().contains(end))
        }
    };
    ["ADD", "MUL"].contains(&node.op()) && node.src[0] == product && is_weight(node.src[1])
}

/// Whether a node is an adapter's product: llama.cpp names its weights after those that they change.
pub fn is_adapter(host: &impl Host, node: &Node) -> bool {
    node.op() == "MUL_MAT" && !node.src[0].is_null() && host.node(node.src[0]).name().contains(".lora_")
}

/// The stage of a node of this name.
pub fn find(base: &str, layer: Option<i32>, op: &str) -> Option<&'static Stage> {
    let named = ALIASES.get(base)?;
    let (_, stage) =
        (named.iter()).find(|(made_by, stage)| made_by == op && stage.in_layer == layer.is_some())?;
    Some(stage)
}

/// "Qcur-12" is ("Qcur", 12); a name without a number has no layer.
pub fn split_name(name: &str) -> (&str, Option<i32>) {
    let split = name.rsplit_once('-').filter(|(base, digits)| {
        !base.is_empty() && (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    });
    match split {
        Some((base, digits)) => (base, digits.parse().ok()),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn names_and_operators_lead_to_stages() {
        let of = |name, op| {
            let (base, layer) = split_name(name);
            (find(base, layer, op).map(|s| s.name.as_str()), layer)
        };
        assert_eq!(of("Qcur-12", "ROPE"), (Some("q_rope"), Some(12)));
        assert_eq!(of("Qcur-12", "RESHAPE"), (None, Some(12)));
        assert_eq!(of("result_output", "MUL_MAT"), (Some("logits"), None));
        assert_eq!(
            of("result_output-3", "MUL_MAT"),
            (None, Some(3)),
            "not in a layer"
        );
        assert_eq!(of("attn_norm", "MUL"), (None, None), "only in a layer");
        assert_eq!(of("ffn_out-0", "MUL"), (Some("ffn_act"), Some(0)));
        assert_eq!(of("Kcur_normed-3", "MUL"), (Some("k_norm"), Some(3)));
        assert_eq!(of("inp_scaled", "SCALE"), (Some("embd_scaled"), None));
        assert_eq!(split_name("a-1234567"), ("a-1234567", None));
        assert_eq!(split_name("-1"), ("-1", None));
        assert_eq!(split_name("x-"), ("x-", None));
    }

    /// Tensors in the test's own memory.
    struct Graph;

    // SAFETY: a tensor is a `Node` of a test, and there are no bytes
    unsafe impl Host for Graph {
        fn node(&self, tensor: Raw) -> Node {
            // SAFETY: see above
            unsafe { *tensor.cast::<Node>() }
        }

        fn bytes(&self, _: Raw) -> (*const u8, usize) {
            (std::ptr::null(), 0)
        }

        fn copy(&self, _: Raw, _: &mut [u8]) {}

        fn write(&self, _: Raw, _: &[u8]) {}
    }

    fn node(name: &'static CStr, op: &'static CStr, sources: &[&Node]) -> Node {
        let mut node = Node {
            name: name.as_ptr(),
            op: op.as_ptr(),
            ..Node::default()
        };
        for (to, &source) in node.src.iter_mut().zip(sources) {
            *to = std::ptr::from_ref(source).cast();
        }
        node
    }

    #[test]
    fn what_has_no_name_is_known_by_what_it_is_made_of() {
        let of = |node: Node| {
            let (stage, layer) = of(&Graph, &node);
            stage.map(|stage| (stage.name.as_str(), layer))
        };
        let weight = node(c"blk.3.attn_output.weight", c"NONE", &[]);
        let adapter = node(c"blk.3.attn_output.weight.lora_a", c"NONE", &[]);
        let (tokens, mixed) = (
            node(c"inp_tokens", c"NONE", &[]),
            node(c"inp_mixed_tokens", c"NONE", &[]),
        );
        let (rope, context) = (node(c"Qcur-3", c"ROPE", &[]), node(c"kqv_out-3", c"CONT", &[]));
        let (product, gate) = (
            node(c"node_9", c"MUL_MAT", &[]),
            node(c"ffn_relu-3", c"UNARY", &[]),
        );
        let unnamed = |op, sources: &[&Node]| of(node(c"node_7", op, sources));
        assert_eq!(
            unnamed(c"GET_ROWS", &[&weight, &tokens]),
            Some(("embeddings", None))
        );
        assert_eq!(unnamed(c"GET_ROWS", &[&weight, &mixed]), None);
        assert_eq!(unnamed(c"SCALE", &[&rope]), Some(("q_scaled", Some(3))));
        assert_eq!(unnamed(c"SCALE", &[&context]), None);
        assert_eq!(
            unnamed(c"MUL_MAT", &[&weight, &context]),
            Some(("attn_out", Some(3)))
        );
        assert_eq!(unnamed(c"MUL_MAT", &[&adapter, &context]), None);
        assert_eq!(
            of(node(c"kq-3", c"MUL_MAT", &[&weight, &context])),
            Some(("attn_scores", Some(3)))
        );
        let last = |source| of(node(c"ffn_out-3", c"MUL", &[source, &weight]));
        assert_eq!(last(&product), Some(("ffn_down", Some(3))));
        assert_eq!(last(&gate), Some(("ffn_act", Some(3))));
    }

    #[test]
    fn a_bias_and_a_scale_finish_a_product_and_nothing_else_does() {
        let product = node(c"Qcur-0", c"MUL_MAT", &[]);
        let raw: Raw = std::ptr::from_ref(&product).cast();
        let bias = node(c"blk.0.attn_q.bias", c"NONE", &[]);
        let stream = node(c"inp_embd", c"NONE", &[]);
        let finishes = |op, a: &Node, b: &Node| finishes(&Graph, &node(c"Qcur-0", op, &[a, b]), raw);
        assert!(finishes(c"ADD", &product, &bias) && finishes(c"MUL", &product, &bias));
        assert!(!finishes(c"ADD", &product, &stream), "a residual");
        assert!(!finishes(c"ADD", &stream, &bias), "of another product");
        assert!(!finishes(c"SUB", &product, &bias));
    }

    #[test]
    fn products_are_words_of_the_vocabulary() {
        let products: Vec<_> = STAGES.iter().filter(|s| s.product).collect();
        assert_eq!(products.len(), PRODUCTS.len());
        assert!(products.iter().all(|s| s.in_layer && s.layout == Layout::Rows));
    }

    #[test]
    fn every_stage_of_the_engines_vocabulary_can_be_found() {
        assert!(ALIASES.values().map(Vec::len).sum::<usize>() > 30);
        for name in [
            "embeddings",
            "attn_scores",
            "attn_sub_norm",
            "layer_out",
            "logits",
        ] {
            assert!(ALIASES.values().flatten().any(|(_, s)| s.name == name), "{name}");
        }
    }
}
