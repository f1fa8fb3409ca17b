/* Follows ggml's graph through a forward call and records its stages.
 *
 * A graph shows its nodes one at a time, in order of execution. What a record
 * needs besides its own bytes comes from other nodes' sources: token ids from
 * the embedding's GET_ROWS, positions from the first ROPE, cells of the KV
 * cache from SET_ROWS, rows that were kept from the last layer's GET_ROWS.
 * What comes before the first ROPE is held back until the positions are known.
 *
 * Part of bitnet_trace_ggml.h, which programs include.
 */
#ifndef BITNET_TRACE_GGML_PASS_HPP
#define BITNET_TRACE_GGML_PASS_HPP

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bitnet_trace_ggml_read.hpp"
#include "bitnet_trace_ggml_stages.hpp"

namespace bnt_ggml {

/* A tensor to record: row-major shape and byte strides over bytes that start at `data`. */
struct View {
    const void *data = nullptr;
    std::size_t size = 0;
    std::int32_t dtype = -1;
    std::int32_t n_dims = 0;
    std::int64_t shape[3] = {};
    std::int64_t strides[3] = {};
};

struct Item {
    const char *stage = nullptr;
    const char *name = nullptr; /* the node's own, which is gone after the callback: Held keeps it */
    const char *op = nullptr;
    std::int32_t layer = -1;
    std::int32_t token_axis = 0;
    View view;
};

/* The tokens that the rows of a tensor belong to. */
struct Rows {
    std::vector<std::int64_t> positions;
    std::vector<std::int32_t> requests;
    void clear() {
        positions.clear();
        requests.clear();
    }
};

class Pass {
public:
    /* The request of each token of the next forward call; without it they are all request 0. */
    const std::int32_t *requests = nullptr;
    std::size_t n_requests = 0;

    /* Whether the data of the node is wanted; called for each node before it is computed. */
    bool ask(bnt_recorder *recorder, const ggml_tensor *t) {
        const NodeName node = split_name(t->name);
        const Alias *alias = find_alias(node, ggml_op_name(t->op));
        if (alias && starts_pass(*alias, node)) begin(recorder, *alias, node);
        note_cells(t);
        // A graph that has shown no positions by now has none; what follows may not be asked for.
        if (alias && (node.layer > 0 || (node.layer < 0 && !is_stage(*alias, "embeddings")))) count_positions(recorder);
        if (alias && alias->scope == Scope::model) record_all_layers(recorder, *alias);
        // The layer before was not the last, even if nothing of this one is kept or selected.
        if (alias && is_stage(*alias, "layer_out")) last_layer_.item.stage = nullptr;
        // Whatever is selected, these tell which tokens the call has.
        if ((alias && is_stage(*alias, "embeddings")) || (t->op == GGML_OP_ROPE && !positions_known_) ||
            (is_output_rows(t) && !pruned_)) {
            return true;
        }
        if (alias) {
            return wants(recorder, alias->stage, node.layer) ||
                   (is_stage(*alias, "attn_scores") && wants(recorder, "k_cache", node.layer)) ||
                   (is_stage(*alias, "layer_out") && wants(recorder, "all_layers_out", -2));
        }
        if (is_values_product(node, t)) return wants(recorder, "v_cache", node.layer);
        if (t->op == GGML_OP_FLASH_ATTN_EXT) {
            const std::int32_t layer = t->src[1] ? cache_layer(t->src[1], 'k') : -1;
            return wants(recorder, "k_cache", layer) || wants(recorder, "v_cache", layer) || wants(recorder, "attn_ctx", layer);
        }
        return false;
    }

    /* Records a node that was asked for and is computed now. */
    void data(bnt_recorder *recorder, const ggml_tensor *t) {
        const NodeName node = split_name(t->name);
        const Alias *alias = find_alias(node, ggml_op_name(t->op));
        if (t->op == GGML_OP_ROPE && !positions_known_) learn_positions(recorder, t);
        // Attention and kept rows can't be placed without positions: a graph that has shown none by now has none.
        if (t->op == GGML_OP_FLASH_ATTN_EXT || is_values_product(node, t) || is_output_rows(t) ||
            (alias && alias->layout == Layout::keys)) {
            count_positions(recorder);
        }
        if (is_output_rows(t)) {
            learn_output_rows(t);
        } else if (t->op == GGML_OP_FLASH_ATTN_EXT) {
            record_cache(recorder, "k_cache", t->src[1], 'k', 1);
            record_cache(recorder, "v_cache", t->src[2], 'v', 1);
            record_fused_context(recorder, t);
        } else if (is_values_product(node, t)) {
            record_cache(recorder, "v_cache", t->src[0], 'v', 0);
        } else if (alias) {
            if (is_stage(*alias, "embeddings")) learn_tokens(t);
            if (is_stage(*alias, "attn_scores")) record_cache(recorder, "k_cache", t->src[0], 'k', 1);
            record_node(recorder, *alias, node, t);
        }
    }

private:
    /* More than this is not held back for positions that may never come. */
    static constexpr std::size_t held_limit = std::size_t{64} << 20;

    /* A tensor that is recorded later: its name and its bytes are gone by then. */
    struct Held {
        Item item;
        std::string name;
        std::vector<std::uint8_t> bytes;

        void keep(const Item &from) {
            item = from;
            name = from.name;
            const auto *data = static_cast<const std::uint8_t *>(from.view.data);
            bytes.assign(data, data + from.view.size);
        }

        Item kept() const {
            Item out = item;
            out.name = name.c_str();
            out.view.data = bytes.data();
            return out;
        }
    };

    static bool is_output_rows(const ggml_tensor *t) {
        return t->op == GGML_OP_GET_ROWS && t->src[1] && std::strstr(t->src[1]->name, "out_ids");
    }

    static bool is_values_product(const NodeName &node, const ggml_tensor *t) {
        return t->op == GGML_OP_MUL_MAT && node.base == "kqv" && node.layer >= 0;
    }

    /* Whether the recorder's selection has any of this call's tokens; before
     * the positions are known, it may be any position. */
    bool wants(bnt_recorder *recorder, const char *stage, std::int32_t layer) const {
        bnt_tap tap = bnt_tap_make(stage, layer, -1);
        if (requests && (ids_.empty() || ids_.size() == n_requests)) {
            tap.requests = requests;
            tap.n_tokens = n_requests;
        }
        if (positions_known_) {
            const Rows &rows = pruned_ ? kept_ : all_;
            if (rows.positions.empty()) return false;
            tap.positions = rows.positions.data();
            tap.requests = rows.requests.data();
            tap.n_tokens = rows.positions.size();
        }
        return bnt_wants(recorder, &tap) != 0;
    }

    /* The embedding starts a forward call; in graphs without one, the first stage coming again does. */
    bool starts_pass(const Alias &alias, const NodeName &node) const {
        return !first_ || is_stage(alias, "embeddings") || (first_ == &alias && first_layer_ == node.layer);
    }

    void begin(bnt_recorder *recorder, const Alias &alias, const NodeName &node) {
        count_positions(recorder);  // what a graph without positions left behind
        first_ = &alias;
        first_layer_ = node.layer;
        positions_known_ = pruned_ = false;
        all_.clear();
        kept_.clear();
        ids_.clear();
        cells_.clear();
        cells_source_ = nullptr;
        last_layer_.item.stage = nullptr;
        if (!noted_) note_observation(recorder);
        noted_ = true;
        bnt_begin_pass(recorder);
    }

    /* A backend fuses what it is given at once, and the scheduler now gives it the nodes up to each that is wanted.
     * Each is computed by as many threads as ever. */
    static void note_observation(bnt_recorder *recorder) {
        bnt_set(recorder, "graph_split", "true");
        bnt_set(recorder, "fusion_may_differ", "true");
        bnt_set(recorder, "threads_may_differ", "false");
    }

    void learn_tokens(const ggml_tensor *t) { read_integers(t->src[1], ids_); }

    void learn_positions(bnt_recorder *recorder, const ggml_tensor *t) {
        std::vector<std::int64_t> positions;
        if (!read_integers(t->src[1], positions)) return;
        // Multi-dimensional RoPE has four positions a token; the first is its place in the text.
        const std::int64_t tokens = t->ne[2];
        if (static_cast<std::int64_t>(positions.size()) == 4 * tokens) positions.resize(static_cast<std::size_t>(tokens));
        if (static_cast<std::int64_t>(positions.size()) != tokens) return;
        set_positions(recorder, std::move(positions));
    }

    /* For graphs that show no positions: they go on from the last call's. */
    void count_positions(bnt_recorder *recorder) {
        if (positions_known_ || (held_.empty() && ids_.empty())) return;
        std::size_t tokens = ids_.size();
        if (!held_.empty()) {
            const Item &item = held_.front().item;
            tokens = static_cast<std::size_t>(item.view.shape[item.token_axis]);
        }
        std::vector<std::int64_t> positions(tokens);
        for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = next_ + static_cast<std::int64_t>(i);
        bnt_set(recorder, "positions_counted", "true");
        set_positions(recorder, std::move(positions));
    }

    void set_positions(bnt_recorder *recorder, std::vector<std::int64_t> positions) {
        all_.positions = std::move(positions);
        all_.requests.assign(all_.positions.size(), 0);
        if (requests && n_requests == all_.positions.size()) all_.requests.assign(requests, requests + n_requests);
        positions_known_ = true;
        next_ = all_.positions.empty() ? next_ : *std::max_element(all_.positions.begin(), all_.positions.end()) + 1;
        send_tokens(recorder);
        std::vector<Held> held;
        held.swap(held_);
        held_bytes_ = 0;
        for (const Held &one : held) {
            if (wants(recorder, one.item.stage, one.item.layer)) record(recorder, one.kept());
        }
    }

    /* Ids go in runs of following positions of one request. */
    void send_tokens(bnt_recorder *recorder) {
        if (ids_.size() != all_.positions.size()) return;
        const std::vector<std::int32_t> ids(ids_.begin(), ids_.end());
        for (std::size_t first = 0; first < ids.size();) {
            std::size_t end = first + 1;
            while (end < ids.size() && all_.positions[end] == all_.positions[end - 1] + 1 &&
                   all_.requests[end] == all_.requests[first]) {
                ++end;
            }
            bnt_tokens(recorder, all_.requests[first], all_.positions[first], ids.data() + first, end - first);
            first = end;
        }
    }

    void learn_output_rows(const ggml_tensor *t) {
        std::vector<std::int64_t> rows;
        if (pruned_ || !positions_known_ || !read_integers(t->src[1], rows)) return;
        kept_.clear();
        for (const std::int64_t row : rows) {
            if (row < 0 || static_cast<std::size_t>(row) >= all_.positions.size()) return kept_.clear();
            kept_.positions.push_back(all_.positions[static_cast<std::size_t>(row)]);
            kept_.requests.push_back(all_.requests[static_cast<std::size_t>(row)]);
        }
        pruned_ = true;
    }

    /* Where this call's tokens are put in the cache. The input is read before
     * it is used, for its memory may be used again after that. */
    void note_cells(const ggml_tensor *t) {
        // By name: the operator is younger than some of the headers that this compiles with.
        if (std::strcmp(ggml_op_name(t->op), "SET_ROWS") == 0 && cache_layer(t, 'k') >= 0) {
            if (t->src[1] != cells_source_) read_integers(t->src[1], cells_);
            cells_source_ = t->src[1];
        } else if (t->op == GGML_OP_CPY && t->view_src && cache_layer(t, 'k') >= 0 && !all_.positions.empty()) {
            // Before SET_ROWS (2025) a call's tokens were copied to following cells.
            const auto tokens = all_.positions.size();
            const std::size_t row = ggml_nbytes(t) / tokens;
            const auto first = static_cast<std::int64_t>(row ? t->view_offs / row : 0);
            cells_.resize(tokens);
            for (std::size_t i = 0; i < tokens; ++i) cells_[i] = first + static_cast<std::int64_t>(i);
        }
    }

    /* With one sequence that was never shifted, a token's cell is its position. */
    bool cells_are_positions() const { return cells_.empty() || cells_ == all_.positions; }

    const Rows *rows_for(std::int64_t count) const {
        const auto n = static_cast<std::size_t>(count);
        if (pruned_ && n == kept_.positions.size()) return &kept_;
        return n == all_.positions.size() ? &all_ : nullptr;
    }

    void refuse(bnt_recorder *recorder, const Item &item, const char *reason) {
        bnt_drop(recorder, item.stage, item.layer, reason);
    }

    bool read_view(bnt_recorder *recorder, Item &item, const ggml_tensor *t) {
        item.view.dtype = dtype_code(t->type);
        const Bytes bytes = item.view.dtype < 0 ? Bytes{} : read_bytes(t, scratch_);
        item.view.data = bytes.data;
        item.view.size = bytes.size;
        if (!bytes.data) refuse(recorder, item, item.view.dtype < 0 ? "element type" : "no data");
        return bytes.data != nullptr;
    }

    void record_node(bnt_recorder *recorder, const Alias &alias, const NodeName &node, const ggml_tensor *t) {
        if (ggml_nelements(t) == 0) return;  // a last layer of which no row is kept
        const bool selected = wants(recorder, alias.stage, node.layer);
        const bool may_be_last = is_stage(alias, "layer_out") && wants(recorder, "all_layers_out", -2);
        if (!selected && !may_be_last) return;
        Item item{alias.stage, t->name, ggml_op_name(t->op), node.layer, alias.layout == Layout::keys ? 1 : 0, {}};
        View &view = item.view;
        if (!read_view(recorder, item, t)) return;
        view.n_dims = alias.layout == Layout::rows ? 2 : 3;
        for (int i = view.n_dims; i < GGML_MAX_DIMS; ++i) {
            if (t->ne[i] != 1) return refuse(recorder, item, "unexpected shape");
        }
        for (int i = 0; i < view.n_dims; ++i) {
            view.shape[i] = t->ne[view.n_dims - 1 - i];
            view.strides[i] = static_cast<std::int64_t>(t->nb[view.n_dims - 1 - i]);
        }
        if (!positions_known_) return hold(recorder, item);
        if (selected) record(recorder, item);
        if (may_be_last) keep_last_layer(item);
    }

    /* The fused operator leaves [head_dim, heads, tokens], contiguous: one row of heads a token. */
    void record_fused_context(bnt_recorder *recorder, const ggml_tensor *t) {
        const std::int32_t layer = t->src[1] ? cache_layer(t->src[1], 'k') : -1;
        if (layer < 0 || ggml_nelements(t) == 0 || !wants(recorder, "attn_ctx", layer)) return;
        Item item{"attn_ctx", t->name, ggml_op_name(t->op), layer, 0, {}};
        if (!ggml_is_contiguous(t) || t->ne[3] != 1) return refuse(recorder, item, "unexpected shape");
        if (!read_view(recorder, item, t)) return;
        View &view = item.view;
        view.n_dims = 2;
        view.shape[0] = t->ne[2];
        view.shape[1] = t->ne[0] * t->ne[1];
        view.strides[0] = static_cast<std::int64_t>(t->nb[2]);
        view.strides[1] = static_cast<std::int64_t>(t->nb[0]);
        if (!positions_known_) return hold(recorder, item);
        record(recorder, item);
    }

    void hold(bnt_recorder *recorder, const Item &item) {
        held_.emplace_back().keep(item);
        held_bytes_ += item.view.size;
        const bool late = item.layer > 0 || item.view.n_dims == 3 || held_bytes_ > held_limit ||
                          (item.layer < 0 && std::string_view(item.stage) != "embeddings");
        if (late) count_positions(recorder);
    }

    void record(bnt_recorder *recorder, Item item) {
        View &view = item.view;
        const Rows *rows = rows_for(view.shape[item.token_axis]);
        if (!rows) return refuse(recorder, item, "rows match neither the tokens nor the kept rows");
        const bool scores = std::string_view(item.stage) == "attn_scores";
        if (scores || std::string_view(item.stage) == "attn_probs") {
            const std::int64_t seen = *std::max_element(rows->positions.begin(), rows->positions.end()) + 1;
            if (!cells_are_positions() || seen > view.shape[2]) return refuse(recorder, item, "keys are not in the order of positions");
            view.shape[2] = seen;  // the cache is padded; what the batch saw ends here
        }
        send(recorder, item, *rows, 0, rows->positions.size(), scores ? 2 : -1);
    }

    /* The item's tokens are `count` of the rows from `first` on. */
    void send(bnt_recorder *recorder, const Item &item, const Rows &rows, std::size_t first, std::size_t count,
              std::int32_t causal_axis) {
        bnt_tap tap = bnt_tap_make(item.stage, item.layer, rows.positions[first]);
        tap.name = item.name;
        tap.op = item.op;
        tap.positions = rows.positions.data() + first;
        tap.requests = rows.requests.data() + first;
        tap.n_tokens = count;
        tap.token_axis = item.token_axis;
        tap.causal_axis = causal_axis;
        bnt_tensor tensor = bnt_tensor_make(item.view.dtype, item.view.data, item.view.size, item.view.n_dims, item.view.shape);
        tensor.byte_strides = item.view.strides;
        bnt_record(recorder, &tap, &tensor);
    }

    /* The rows of this call's tokens as attention reads them: `t` is [head_dim, keys, heads]
     * (keys_axis 1) or, transposed, [keys, head_dim, heads] (keys_axis 0). */
    void record_cache(bnt_recorder *recorder, const char *stage, const ggml_tensor *t, char kind, int keys_axis) {
        const std::int32_t layer = t ? cache_layer(t, kind) : -1;
        if (layer < 0 || !wants(recorder, stage, layer)) return;  // below 0: attention without a cache
        Item item{stage, t->name, ggml_op_name(t->op), layer, 0, {}};
        const std::vector<std::int64_t> &cells = cells_.empty() ? all_.positions : cells_;
        View &view = item.view;
        if (cells.empty() || cells.size() != all_.positions.size() || t->ne[3] != 1) {
            return refuse(recorder, item, "cells of the cache are not known");
        }
        const auto [least, most] = std::minmax_element(cells.begin(), cells.end());
        if (*least < 0 || *most >= t->ne[keys_axis]) return refuse(recorder, item, "cells of the cache are not in view");
        if (!read_view(recorder, item, t)) return;
        const Bytes bytes{view.data, view.size};
        const auto key_stride = static_cast<std::int64_t>(t->nb[keys_axis]);
        const int dim_axis = 1 - keys_axis;
        view.n_dims = 3;
        view.shape[1] = t->ne[2];
        view.shape[2] = t->ne[dim_axis];
        view.strides[0] = key_stride;
        view.strides[1] = static_cast<std::int64_t>(t->nb[2]);
        view.strides[2] = static_cast<std::int64_t>(t->nb[dim_axis]);
        // Following cells are one tensor with a token axis; scattered ones are sent one by one.
        for (std::size_t first = 0; first < cells.size();) {
            std::size_t end = first + 1;
            while (end < cells.size() && cells[end] == cells[end - 1] + 1) ++end;
            const auto offset = static_cast<std::size_t>(cells[first] * key_stride);
            view.data = static_cast<const std::uint8_t *>(bytes.data) + offset;
            view.size = bytes.size - offset;
            view.shape[0] = static_cast<std::int64_t>(end - first);
            send(recorder, item, all_, first, end - first, -1);
            first = end;
        }
    }

    /* A layer's output is the last one's only when the next node is none of a layer: so it is kept. */
    void keep_last_layer(const Item &item) {
        last_layer_.keep(item);
    }

    void record_all_layers(bnt_recorder *recorder, const Alias &alias) {
        if (!last_layer_.item.stage || is_stage(alias, "embeddings")) return;
        Item item = last_layer_.kept();
        last_layer_.item.stage = nullptr;
        item.stage = "all_layers_out";
        item.layer = -2;
        record(recorder, item);
    }

    const Alias *first_ = nullptr;
    std::int32_t first_layer_ = -1;
    bool positions_known_ = false;
    bool pruned_ = false;
    std::int64_t next_ = 0;
    Rows all_;   // the tokens of the call
    Rows kept_;  // those whose rows the last layer kept
    std::vector<std::int64_t> ids_;
    std::vector<std::int64_t> cells_;
    const ggml_tensor *cells_source_ = nullptr;
    std::vector<Held> held_;
    std::size_t held_bytes_ = 0;
    Held last_layer_;
    std::vector<std::uint8_t> scratch_;
    bool noted_ = false;
};

}  // namespace bnt_ggml

#endif
