/* Which ggml node is which stage: the names of llama.cpp and bitnet.cpp.
 *
 * The same names stand in schemas/stages.toml as `aliases.ggml`; a test keeps
 * the two equal. Part of bitnet_trace_ggml.h, which programs include.
 */
#ifndef BITNET_TRACE_GGML_STAGES_HPP
#define BITNET_TRACE_GGML_STAGES_HPP

#include <cstdint>
#include <cstring>
#include <string_view>

namespace bnt_ggml {

/* How ggml lays out the tensor, fastest axis first. */
enum class Layout : std::uint8_t {
    rows,  /* [n, tokens] */
    heads, /* [head_dim, heads, tokens] */
    keys,  /* [keys, tokens, heads] */
};

enum class Scope : std::uint8_t { model, layer };

struct Alias {
    const char *stage;
    std::string_view name; /* without the "-<layer>" ending */
    const char *op;   /* as ggml_op_name says it */
    Scope scope;
    Layout layout;
};

/* A product whose weights have a scale of their own bears its name on the MUL
 * that applies it, and attn_o_out with a bias on the ADD. */
inline constexpr Alias aliases[] = {
    {"embeddings", "embd", "GET_ROWS", Scope::model, Layout::rows},
    {"embeddings", "inp_embd", "GET_ROWS", Scope::model, Layout::rows},
    {"attn_norm", "attn_norm", "MUL", Scope::layer, Layout::rows},
    {"q_proj", "Qcur", "MUL_MAT", Scope::layer, Layout::rows},
    {"q_proj", "Qcur", "MUL", Scope::layer, Layout::rows},
    {"k_proj", "Kcur", "MUL_MAT", Scope::layer, Layout::rows},
    {"k_proj", "Kcur", "MUL", Scope::layer, Layout::rows},
    {"v_proj", "Vcur", "MUL_MAT", Scope::layer, Layout::rows},
    {"v_proj", "Vcur", "MUL", Scope::layer, Layout::rows},
    {"q_rope", "Qcur", "ROPE", Scope::layer, Layout::heads},
    {"k_rope", "Kcur", "ROPE", Scope::layer, Layout::heads},
    /* k_cache and v_cache are no nodes: they are read from the sources of
     * the product `kq`, of `kqv` and of the fused FLASH_ATTN_EXT, whose own
     * result is attn_ctx and has no name. */
    {"attn_scores", "kq", "MUL_MAT", Scope::layer, Layout::keys},
    {"attn_probs", "kq_soft_max", "SOFT_MAX", Scope::layer, Layout::keys},
    {"attn_probs", "kq_soft_max_ext", "SOFT_MAX", Scope::layer, Layout::keys},
    {"attn_ctx", "kqv_out", "CONT", Scope::layer, Layout::rows},
    {"attn_ctx", "kqv_merged_cont", "CONT", Scope::layer, Layout::rows},
    {"attn_sub_norm", "attn_sub_norm", "MUL", Scope::layer, Layout::rows},
    {"attn_out", "attn_out", "MUL_MAT", Scope::layer, Layout::rows},
    {"attn_out", "attn_out", "MUL", Scope::layer, Layout::rows},
    {"attn_out", "attn_o_out", "MUL_MAT", Scope::layer, Layout::rows},
    {"attn_out", "attn_o_out", "MUL", Scope::layer, Layout::rows},
    {"attn_out", "attn_o_out", "ADD", Scope::layer, Layout::rows},
    {"attn_out", "kqv_out", "MUL_MAT", Scope::layer, Layout::rows},
    {"attn_residual", "ffn_inp", "ADD", Scope::layer, Layout::rows},
    {"ffn_norm", "ffn_norm", "MUL", Scope::layer, Layout::rows},
    {"ffn_gate", "ffn_gate", "MUL_MAT", Scope::layer, Layout::rows},
    {"ffn_up", "ffn_up", "MUL_MAT", Scope::layer, Layout::rows},
    {"ffn_act", "ffn_swiglu", "GLU", Scope::layer, Layout::rows},
    {"ffn_act", "ffn_sub_out", "GLU", Scope::layer, Layout::rows},
    {"ffn_act", "ffn_sub_out", "MUL", Scope::layer, Layout::rows},
    {"ffn_act", "ffn_gate_par", "MUL", Scope::layer, Layout::rows},
    {"ffn_act", "ffn_out", "MUL", Scope::layer, Layout::rows},
    {"ffn_sub_norm", "ffn_sub_norm", "MUL", Scope::layer, Layout::rows},
    {"ffn_down", "ffn_out", "MUL_MAT", Scope::layer, Layout::rows},
    {"ffn_down", "ffn_down", "MUL_MAT", Scope::layer, Layout::rows},
    {"ffn_down", "ffn_down", "MUL", Scope::layer, Layout::rows},
    {"layer_out", "l_out", "ADD", Scope::layer, Layout::rows},
    {"final_norm", "result_norm", "MUL", Scope::model, Layout::rows},
    {"logits", "result_output", "MUL_MAT", Scope::model, Layout::rows},
};

/* "Qcur-12" is ("Qcur", 12); a name without a number has layer -1. */
struct NodeName {
    std::string_view base;
    std::int32_t layer;
};

inline NodeName split_name(const char *name) noexcept {
    const std::string_view all(name);
    std::size_t digits = all.size();
    while (digits > 0 && all[digits - 1] >= '0' && all[digits - 1] <= '9') --digits;
    if (digits == all.size() || digits < 2 || all[digits - 1] != '-' || all.size() - digits > 6) return {all, -1};
    std::int32_t layer = 0;
    for (std::size_t i = digits; i < all.size(); ++i) layer = layer * 10 + (all[i] - '0');
    return {all.substr(0, digits - 1), layer};
}

/* The stage of a node, or null. */
inline const Alias *find_alias(const NodeName &node, const char *op) noexcept {
    for (const Alias &alias : aliases) {
        if (node.base == alias.name && (alias.scope == Scope::layer) == (node.layer >= 0) && std::strcmp(op, alias.op) == 0) {
            return &alias;
        }
    }
    return nullptr;
}

inline bool is_stage(const Alias &alias, std::string_view stage) noexcept { return stage == alias.stage; }

}  // namespace bnt_ggml

#endif
