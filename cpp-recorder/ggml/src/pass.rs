//! Follows a forward call: what its tokens are, and which nodes are wanted.

use crate::{
    Host, Node, Raw,
    cells::Cells,
    node::COMPUTE,
    read,
    record::{Form, Held, Shot},
    sequences::Mask,
    stages::{self, Layout, Stage},
};
use bitnet_trace::{Recorder, ReplayError, Tap};
use std::cell::Cell;
use std::collections::HashMap;

/// Tensors of a cache that are told apart; a host that makes more contexts than that begins anew.
const ROOTS: usize = 1 << 14;

/// The tokens that the rows of a tensor belong to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rows {
    pub positions: Vec<i64>,
    pub requests: Vec<i32>,
}

/// The layers whose tokens are put into the same cells.
#[derive(Debug, Default)]
pub struct Group {
    pub cells: Cells,
    /// The cells of this call's tokens.
    pub now: Vec<i64>,
    /// Cells of a stream, where each sequence has its own; 0 where they share one.
    pub per_stream: i64,
    placed: bool,
}

/// A product with weights. It is recorded when the next node is asked for: nothing was computed since, so its memory is
/// what it was, and if that node is its bias or scale, the stage is what comes of it.
#[derive(Debug)]
struct Product {
    stage: &'static Stage,
    layer: Option<i32>,
    tensor: Raw,
    computed: bool,
}

/// What is known of one forward call.
#[derive(Debug)]
pub(crate) struct Call {
    /// The stage and layer that it began with.
    first: Option<(usize, Option<i32>)>,
    /// The layer of the last node that named one.
    pub layer: Option<i32>,
    ids: Vec<i64>,
    positions: Option<Vec<i64>>,
    /// The tokens of the call, when positions and sequences are known.
    pub all: Option<Rows>,
    /// Those whose rows the last layer kept.
    pub kept: Option<Rows>,
    /// What tensors were replaced for before the tokens were known.
    pub foretold: Option<Rows>,
    /// The input that said where tokens are put, and the layers that it was for.
    cells_source: Raw,
    cells_group: Option<usize>,
    /// The groups whose positions were moved since.
    shifted: Vec<usize>,
    pub held: Vec<Held>,
    pub held_bytes: usize,
    /// A product that the next node may add a bias to, or scale.
    product: Option<Product>,
    /// A layer's output is the last one's only when the next node is none of a layer: so it is kept.
    pub last_layer: Option<Held>,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            first: None,
            layer: None,
            ids: Vec::new(),
            positions: None,
            all: None,
            kept: None,
            foretold: None,
            cells_source: std::ptr::null(),
            cells_group: None,
            shifted: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
            product: None,
            last_layer: None,
        }
    }
}

/// Observes the graphs of one context.
#[derive(Debug)]
pub struct Observer<H> {
    pub(crate) host: H,
    pub(crate) recorder: Recorder,
    /// Whether memory is out: then no tensor is taken.
    pub(crate) starving: fn() -> bool,
    /// The request of each token, as the host says.
    given: Vec<i32>,
    pub(crate) call: Call,
    /// The position that a graph without positions goes on from.
    next: i64,
    pub(crate) groups: Vec<Group>,
    /// Of each tensor of a cache, its group.
    roots: HashMap<Raw, usize>,
    pub(crate) scratch: Vec<u8>,
    noted: bool,
    numbered: bool,
    pub(crate) left_told: Cell<bool>,
    /// Whether this ggml marks the nodes that are computed.
    marks: bool,
    /// Whether attention and the cache's type were told.
    told: [bool; 2],
}

// SAFETY: the addresses in it are compared, and only the host that is asked about one looks behind it
unsafe impl<H: Send> Send for Observer<H> {}

impl<H: Host> Observer<H> {
    /// An observer of one context, which `host` tells about. `starving` says whether memory is out.
    pub fn new(host: H, recorder: Recorder, starving: fn() -> bool) -> Self {
        Self {
            host,
            recorder,
            starving,
            given: Vec::new(),
            call: Call::default(),
            next: 0,
            groups: Vec::new(),
            roots: HashMap::new(),
            scratch: Vec::new(),
            noted: false,
            numbered: false,
            left_told: Cell::new(false),
            marks: false,
            told: [false; 2],
        }
    }

    /// Where it records.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The request of each token of the next forward calls. Where they are as many as a call's tokens, they hold,
    /// and the graph is not asked.
    pub fn set_requests(&mut self, requests: &[i32]) {
        requests.clone_into(&mut self.given);
    }

    /// Whether the data of `tensor` is wanted: called for each node of the graph, before it is computed. Null says that
    /// the graph's computation ends before its last node.
    pub fn ask(&mut self, tensor: Raw) -> bool {
        if !self.recorder.is_on() {
            self.call.product = None;
            return false;
        }
        if tensor.is_null() {
            self.finish_product();
            return false;
        }
        let node = self.host.node(tensor);
        if let Some(product) = &mut self.call.product {
            if product.computed && stages::finishes(&self.host, &node, product.tensor) {
                (product.tensor, product.computed) = (tensor, false);
                return true;
            }
            product.computed &= !stages::is_adapter(&self.host, &node); // which adds to it later
            self.finish_product();
        }
        let (stage, layer) = stages::of(&self.host, &node);
        if let Some(stage) = stage
            && self.starts_call(stage, layer)
        {
            self.begin(stage, layer);
        }
        if self.call.first.is_none() {
            return false; // no graph of a model that is known
        }
        self.call.layer = layer.or(self.call.layer);
        self.learn(tensor, &node, stage, layer);
        self.marks |= node.flags & COMPUTE != 0;
        if self.marks && node.flags & COMPUTE == 0 {
            return false; // what it holds is of an earlier graph
        }
        let Some(stage) = stage else {
            if is_values_product(&node) {
                return self.wants("v_cache", layer);
            }
            return node.op() == "FLASH_ATTN_EXT"
                && ["k_cache", "v_cache", "attn_ctx"]
                    .iter()
                    .any(|s| self.wants(s, self.call.layer));
        };
        match stage.name.as_str() {
            "attn_scores" if self.wants("k_cache", layer) => true,
            "layer_out" if self.wants_all_layers() => true,
            name => self.wants(name, layer),
        }
    }

    /// Records a node that was asked for and is computed now.
    pub fn data(&mut self, tensor: Raw) {
        if tensor.is_null() || !self.recorder.is_on() {
            return;
        }
        if let Some(product) = self.call.product.as_mut().filter(|p| p.tensor == tensor) {
            product.computed = true;
            return;
        }
        let node = self.host.node(tensor);
        let (stage, layer) = stages::of(&self.host, &node);
        if let Some(stage) = stage.filter(|s| s.product) {
            self.call.product = Some(Product {
                stage,
                layer,
                tensor,
                computed: true,
            });
        } else if let Some(stage) = stage {
            if stage.name == "attn_scores" {
                self.shoot_cache("k_cache", node.src[0], 'k', 1);
            }
            self.shoot_stage(stage, layer, tensor, &node);
        } else if is_values_product(&node) {
            self.shoot_cache("v_cache", node.src[0], 'v', 0);
        } else if node.op() == "FLASH_ATTN_EXT" {
            self.shoot_cache("k_cache", node.src[1], 'k', 1);
            self.shoot_cache("v_cache", node.src[2], 'v', 1);
            if self.wants("attn_ctx", self.call.layer) {
                let shot = Shot::of(&node, "attn_ctx", self.call.layer, Form::Fused);
                self.shoot(shot, tensor);
            }
        }
    }

    /// Records a product that nothing is added to any more.
    fn finish_product(&mut self) {
        let Some(product) = self.call.product.take() else {
            return;
        };
        let node = self.host.node(product.tensor);
        if product.computed {
            self.shoot_stage(product.stage, product.layer, product.tensor, &node);
        } else {
            let form = Form::Stage(product.stage.layout);
            let shot = Shot::of(&node, &product.stage.name, product.layer, form);
            self.refuse(&shot, "a part of it only was seen");
        }
    }

    fn shoot_stage(&mut self, stage: &'static Stage, layer: Option<i32>, tensor: Raw, node: &Node) {
        if node.elements() == 0 {
            return; // a last layer of which no row is kept
        }
        let may_be_last = stage.name == "layer_out" && self.wants_all_layers();
        if may_be_last {
            let shot = Shot::of(node, "all_layers_out", Some(-2), Form::Stage(stage.layout));
            self.keep_last(shot, tensor);
        }
        if self.wants(&stage.name, layer) {
            let mut shot = Shot::of(node, &stage.name, layer, Form::Stage(stage.layout));
            if stage.name == "attn_scores" {
                shot.group = self.group_of(node.src[0]);
                shot.causal = true;
            } else if stage.layout == Layout::Keys {
                // the product that it is made of
                shot.group = self.group_of_scores(node);
            }
            self.shoot(shot, tensor);
        }
    }

    /// The group of the cache whose keys the scores behind these probabilities are for.
    fn group_of_scores(&self, probs: &Node) -> Option<usize> {
        let mut at = probs.src[0];
        for _ in 0..8 {
            if at.is_null() {
                return None;
            }
            let node = self.host.node(at);
            if node.op() == "MUL_MAT" {
                return self.group_of(node.src[0]);
            }
            at = node.src[0];
        }
        None
    }

    /// The tokens of rows that are replaced before the graph tells them: those that go on, or begin anew, with the ids of
    /// this call; what the graph tells later is compared. Where the ids are others, nothing is replaced.
    pub(crate) fn foretell(&mut self, tokens: i64) -> Option<Rows> {
        if self.call.foretold.is_none() {
            let tokens = usize::try_from(tokens).ok()?;
            let ids = if self.call.ids.len() == tokens {
                &self.call.ids[..]
            } else {
                &[]
            };
            let positions = match &self.call.positions {
                Some(positions) if positions.len() == tokens => positions.clone(),
                _ => (self.recorder.first_replayed(self.next, ids)?..)
                    .take(tokens)
                    .collect(),
            };
            let requests = if self.given.len() == tokens {
                self.given.clone()
            } else {
                vec![0; tokens]
            };
            self.call.foretold = Some(Rows { positions, requests });
        }
        self.call.foretold.clone()
    }

    pub(crate) fn group_of(&self, keys: Raw) -> Option<usize> {
        let cache = read::cache(&self.host, keys, 'k').or_else(|| read::cache(&self.host, keys, 'v'))?;
        // The values' cache is filled as that of the keys.
        self.roots.get(&cache.root).copied().or(self.call.cells_group)
    }

    fn wants_all_layers(&self) -> bool {
        self.wants("all_layers_out", Some(-2))
    }

    /// Whether the recorder's selection has any of this call's tokens; before they are known, it may be any.
    pub(crate) fn wants(&self, stage: &str, layer: Option<i32>) -> bool {
        let tap = Tap::new(stage, layer.unwrap_or(-1), -1);
        match self.call.kept.as_ref().or(self.call.all.as_ref()) {
            Some(rows) if rows.positions.is_empty() => false,
            Some(rows) => self
                .recorder
                .wants(&tap.positions(&rows.positions).requests(&rows.requests)),
            None if self.given.is_empty() => self.recorder.wants(&tap),
            None => self.recorder.wants(&tap.requests(&self.given)),
        }
    }

    /// The embedding starts a forward call; in graphs without one, the first stage coming again does.
    fn starts_call(&self, stage: &Stage, layer: Option<i32>) -> bool {
        (self.call.first).is_none_or(|first| stage.name == "embeddings" || first == (stage.rank, layer))
    }

    fn begin(&mut self, stage: &Stage, layer: Option<i32>) {
        self.settle(); // what a graph without positions left behind
        self.call = Call {
            first: Some((stage.rank, layer)),
            ..Call::default()
        };
        for group in &mut self.groups {
            group.now.clear();
        }
        if !self.noted {
            // A backend fuses what it is given at once, and the scheduler now gives it the nodes up to each that is
            // wanted. Each is computed by as many threads as ever.
            self.recorder.describe(|info| {
                info.observation.graph_split = true;
                info.observation.fusion_may_differ = Some(true);
                info.observation.threads_may_differ.get_or_insert(false);
            });
            self.noted = true;
        }
        self.recorder.begin_pass();
    }

    /// Takes from a node's inputs what they tell of the call's tokens.
    fn learn(&mut self, tensor: Raw, node: &Node, stage: Option<&Stage>, layer: Option<i32>) {
        let name = stage.map(|s| s.name.as_str());
        match node.op() {
            "GET_ROWS" if name == Some("embeddings") => {
                self.call.ids = read::integers(&self.host, node.src[1]).unwrap_or_default();
            }
            // Learnt positions are looked up as tokens are.
            "GET_ROWS" if self.call.positions.is_none() && self.is_input(node, "inp_pos") => {
                if let Some(positions) = read::integers(&self.host, node.src[1]) {
                    self.set_positions(positions);
                }
            }
            "GET_ROWS" if self.is_input(node, "out_ids") => self.learn_output_rows(node.src[1]),
            "ROPE" => self.learn_positions(node),
            "SET_ROWS" => self.learn_cells(tensor, node),
            "CPY" if !node.view_src.is_null() => self.learn_copied_cells(tensor, node),
            "SOFT_MAX" => self.learn_mask(node.src[1]),
            "FLASH_ATTN_EXT" => self.learn_mask(node.src[3]),
            _ => {}
        }
        let fused = node.op() == "FLASH_ATTN_EXT";
        if !self.told[0] && (fused || name == Some("attn_probs")) {
            self.told[0] = true;
            self.recorder.describe(|info| {
                info.settings.flash_attention.get_or_insert(fused);
            });
        }
        // Attention can't be placed without positions, and what shows none in its first layer has none.
        if name.is_some() && (layer.is_some_and(|l| l > 0) || layer.is_none() && name != Some("embeddings")) {
            self.settle();
        }
        match name {
            // The layer before was not the last, even if nothing of this one is kept or selected.
            Some("layer_out") => self.call.last_layer = None,
            Some(name) if layer.is_none() && name != "embeddings" => {
                if let Some(held) = self.call.last_layer.take() {
                    self.record_now(&held.shot, &held.bytes);
                }
            }
            _ => {}
        }
    }

    fn is_input(&self, node: &Node, name: &str) -> bool {
        !node.src[1].is_null() && self.host.node(node.src[1]).name().contains(name)
    }

    fn learn_output_rows(&mut self, rows: Raw) {
        self.settle();
        let (Some(all), None) = (&self.call.all, &self.call.kept) else {
            return;
        };
        let Some(rows) = read::integers(&self.host, rows) else {
            return;
        };
        let mut kept = Rows::default();
        for row in rows {
            let Some(row) = usize::try_from(row).ok().filter(|&r| r < all.positions.len()) else {
                kept = Rows::default();
                break;
            };
            kept.positions.push(all.positions[row]);
            kept.requests.push(all.requests[row]);
        }
        self.call.kept = Some(kept);
    }

    fn learn_positions(&mut self, node: &Node) {
        if let Some(cache) = read::cache(&self.host, node.src[0], 'k') {
            return self.shift(&cache, node.src[1]);
        }
        if self.call.positions.is_some() {
            return;
        }
        let Some(mut positions) = read::integers(&self.host, node.src[1]) else {
            return;
        };
        // Multi-dimensional RoPE has four positions a token; the first is its place in the text.
        let tokens = usize::try_from(node.ne[2]).unwrap_or(0);
        if Some(positions.len()) == tokens.checked_mul(4) {
            positions.truncate(tokens);
        }
        if positions.len() == tokens {
            self.set_positions(positions);
        }
    }

    fn set_positions(&mut self, positions: Vec<i64>) {
        let given = (self.given.len() == positions.len()).then(|| self.given.clone());
        self.call.positions = Some(positions);
        if let Some(requests) = given {
            self.set_rows(requests);
        }
    }

    /// A graph of its own that moves the cache's keys to other positions.
    fn shift(&mut self, cache: &read::Cache, by: Raw) {
        let Some(&group) = self.roots.get(&cache.root) else {
            return;
        };
        let Some(by) = read::integers(&self.host, by) else {
            return;
        };
        let cells = cache.cells.checked_mul(cache.streams);
        if (cache.cells > 1 && Some(by.len() as i64) != cells) || self.call.shifted.contains(&group) {
            return;
        }
        self.call.shifted.push(group);
        self.groups[group].cells.shift(&by);
    }

    /// Where this call's tokens are put in the cache. The input is read before it is used, for its memory may be used
    /// again after that.
    fn learn_cells(&mut self, tensor: Raw, node: &Node) {
        let Some(cache) = read::cache(&self.host, tensor, 'k') else {
            return;
        };
        self.enter(&cache, node.src[1], |host| read::integers(host, node.src[1]));
    }

    /// Before SET_ROWS (2025) a call's tokens were copied to following cells.
    fn learn_copied_cells(&mut self, tensor: Raw, node: &Node) {
        let Some(cache) = read::cache(&self.host, tensor, 'k') else {
            return;
        };
        let Some(tokens) = self.call.positions.as_ref().map(Vec::len) else {
            return;
        };
        let row = self.host.bytes(tensor).1.checked_div(tokens).unwrap_or(0);
        let Some(first) = node.view_offs.checked_div(row) else {
            return;
        };
        // All layers' tokens go to the same cells: the cache of the first stands for the input.
        let source = match self.call.cells_source {
            none if none.is_null() => cache.root,
            source => source,
        };
        self.enter(&cache, source, |_| {
            Some((0..tokens).map(|i| (first + i) as i64).collect())
        });
    }

    fn enter(&mut self, cache: &read::Cache, source: Raw, cells: impl FnOnce(&H) -> Option<Vec<i64>>) {
        if source != self.call.cells_source || self.call.cells_group.is_none() {
            if self.roots.len() >= ROOTS {
                self.roots.clear();
                self.groups.clear();
            }
            let new = self.groups.len();
            let index = *self.roots.entry(cache.root).or_insert(new);
            if index == new {
                self.groups.push(Group::default());
            }
            let now = cells(&self.host).unwrap_or_default();
            let group = &mut self.groups[index];
            (group.now, group.placed) = (now, false);
            group.per_stream = if cache.streams > 1 { cache.cells } else { 0 };
            self.call.cells_source = source;
            self.call.cells_group = Some(index);
        }
        let dtype = read::dtype(self.host.node(cache.root).dtype()).filter(|_| !self.told[1]);
        if let Some(dtype) = dtype {
            self.told[1] = true;
            self.recorder.describe(|info| {
                info.settings
                    .kv_type
                    .get_or_insert_with(|| dtype.name().to_owned());
            });
        }
        let Some(index) = self.call.cells_group else {
            return;
        };
        self.roots.insert(cache.root, index);
        self.requests_of_cells(index);
        self.place_cells(index);
    }

    /// Each sequence has a stream of its own, or there is one sequence, whose cells are its positions.
    fn requests_of_cells(&mut self, index: usize) {
        let (None, Some(positions)) = (&self.call.all, &self.call.positions) else {
            return;
        };
        let group = &self.groups[index];
        if group.now.len() != positions.len() {
            return;
        }
        let requests = if group.per_stream > 0 {
            let stream = |&cell: &i64| i32::try_from(cell / group.per_stream).unwrap_or(0);
            group.now.iter().map(stream).collect()
        } else if group.now == *positions {
            vec![0; positions.len()]
        } else {
            return;
        };
        self.set_rows(requests);
    }

    fn learn_mask(&mut self, mask: Raw) {
        let (None, Some(positions)) = (&self.call.all, &self.call.positions) else {
            return;
        };
        let Some(mask) = Mask::new(&self.host, mask, positions.len(), &mut self.scratch) else {
            return;
        };
        let requests = match self.call.cells_group.map(|g| &mut self.groups[g]) {
            None => mask.requests(positions),
            Some(group) if group.now.len() == positions.len() => {
                mask.requests_in(&mut group.cells, &group.now, positions)
            }
            Some(_) => return,
        };
        if !self.numbered && requests.iter().any(|&r| r > 0) {
            self.numbered = true;
            self.note(
                "requests",
                "numbered in order of appearance: the attention mask tells sequences apart",
            );
        }
        self.set_rows(requests);
    }

    pub(crate) fn note(&self, key: &str, value: &str) {
        self.recorder.describe(|info| {
            info.settings.extra.insert(key.to_owned(), value.to_owned());
        });
    }

    /// For graphs that show no positions: they go on from the last call's. What shows no sequences has one.
    fn settle(&mut self) {
        if self.call.all.is_some() {
            return;
        }
        if self.call.positions.is_none() {
            let held = (self.call.held.first()).and_then(|held| usize::try_from(held.shot.tokens()).ok());
            let tokens = held.unwrap_or(self.call.ids.len());
            if tokens == 0 {
                return;
            }
            self.recorder
                .describe(|info| info.observation.positions_counted = true);
            self.set_positions((self.next..).take(tokens).collect());
        }
        let (None, Some(positions)) = (&self.call.all, &self.call.positions) else {
            return;
        };
        let requests = vec![0; positions.len()];
        if self.call.cells_group.is_some() {
            self.note(
                "requests",
                "taken for one: the graph does not tell sequences apart",
            );
        }
        self.set_rows(requests);
    }

    /// Positions and sequences are known: what was held back is recorded.
    fn set_rows(&mut self, requests: Vec<i32>) {
        let Some(positions) = self.call.positions.clone() else {
            return;
        };
        self.next = positions
            .iter()
            .max()
            .map_or(self.next, |last| last.saturating_add(1));
        let rows = Rows { positions, requests };
        if let Some(foretold) = self.call.foretold.take().filter(|foretold| *foretold != rows) {
            let cause = format!(
                "positions {:?} of requests {:?}, not {:?} of {:?}",
                rows.positions, rows.requests, foretold.positions, foretold.requests
            );
            self.recorder.stop_replay(ReplayError::Foretold { cause });
        }
        self.call.all = Some(rows);
        self.send_tokens();
        if let Some(index) = self.call.cells_group {
            self.place_cells(index);
        }
        self.call.held_bytes = 0;
        for held in std::mem::take(&mut self.call.held) {
            if self.wants(&held.shot.stage, held.shot.layer) {
                self.record_now(&held.shot, &held.bytes);
            }
        }
    }

    /// Ids go in runs of following positions of one request.
    fn send_tokens(&self) {
        let Some(rows) = &self.call.all else { return };
        let ids = &self.call.ids;
        if ids.len() != rows.positions.len() {
            return;
        }
        let mut first = 0;
        for end in 1..=ids.len() {
            let follows = end < ids.len()
                && rows.positions[end] == rows.positions[end - 1].wrapping_add(1)
                && rows.requests[end] == rows.requests[first];
            if !follows {
                (self.recorder).tokens(rows.requests[first], rows.positions[first], &ids[first..end]);
                first = end;
            }
        }
    }

    fn place_cells(&mut self, index: usize) {
        let (Some(rows), group) = (&self.call.all, &mut self.groups[index]) else {
            return;
        };
        if group.placed || group.now.len() != rows.positions.len() {
            return;
        }
        for ((&request, &position), &cell) in rows.requests.iter().zip(&rows.positions).zip(&group.now) {
            group.cells.place(request, position, cell);
        }
        group.placed = true;
    }
}

fn is_values_product(node: &Node) -> bool {
    let (base, layer) = stages::split_name(node.name());
    node.op() == "MUL_MAT" && base == "kqv" && layer.is_some()
}
