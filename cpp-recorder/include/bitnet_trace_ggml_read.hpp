/* Reading ggml tensors: bytes, element types, integer inputs.
 *
 * Part of bitnet_trace_ggml.h, which programs include.
 */
#ifndef BITNET_TRACE_GGML_READ_HPP
#define BITNET_TRACE_GGML_READ_HPP

#include <ggml-backend.h>
#include <ggml.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "bitnet_trace.h"

namespace bnt_ggml {

/* The ABI's code of a packed type, or -1. By name: headers differ in which types they have and in their numbers
 * (I2_S is bitnet.cpp's). */
inline std::int32_t packed_code(ggml_type type) noexcept {
    struct Packed {
        const char *name;
        std::int32_t code;
    };
    static constexpr Packed types[] = {
        {"q4_0", BNT_Q4_0}, {"q4_1", BNT_Q4_1},   {"q5_0", BNT_Q5_0},   {"q5_1", BNT_Q5_1}, {"q8_0", BNT_Q8_0},
        {"q8_1", BNT_Q8_1}, {"q2_K", BNT_Q2_K},   {"q3_K", BNT_Q3_K},   {"q4_K", BNT_Q4_K}, {"q5_K", BNT_Q5_K},
        {"q6_K", BNT_Q6_K}, {"q8_K", BNT_Q8_K},   {"tq1_0", BNT_TQ1_0}, {"tq2_0", BNT_TQ2_0}, {"i2_s", BNT_I2_S},
    };
    const char *name = ggml_type_name(type);
    for (const Packed &packed : types) {
        if (name && std::strcmp(name, packed.name) == 0) return packed.code;
    }
    return -1;
}

/* The ABI's code of an element type, or -1 for types that it has no code for. */
inline std::int32_t dtype_code(ggml_type type) noexcept {
    switch (type) {
        case GGML_TYPE_F32: return BNT_F32;
        case GGML_TYPE_F16: return BNT_F16;
        case GGML_TYPE_BF16: return BNT_BF16;
        case GGML_TYPE_F64: return BNT_F64;
        case GGML_TYPE_I8: return BNT_I8;
        case GGML_TYPE_I32: return BNT_I32;
        case GGML_TYPE_I64: return BNT_I64;
        default: return packed_code(type);
    }
}

/* The bytes of a tensor from its first element on; null data where it has none. */
struct Bytes {
    const void *data = nullptr;
    std::size_t size = 0;
};

/* The buffer of a view is that of the tensor it looks into. */
inline ggml_backend_buffer_t buffer_of(const ggml_tensor *t) noexcept {
    return t->view_src && t->view_src->buffer ? t->view_src->buffer : t->buffer;
}

/* Host memory is read in place, anything else is copied into `scratch`. */
inline Bytes read_bytes(const ggml_tensor *t, std::vector<std::uint8_t> &scratch) {
    if (!t || !t->data || ggml_nelements(t) <= 0) return {};
    const std::size_t size = ggml_nbytes(t);
    const ggml_backend_buffer_t buffer = buffer_of(t);
    if (!buffer || ggml_backend_buffer_is_host(buffer)) return {t->data, size};
    scratch.resize(size);
    ggml_backend_tensor_get(t, scratch.data(), 0, size);
    return {scratch.data(), size};
}

/* Ids, positions and cell numbers: a contiguous I32 or I64 tensor, all of it. */
inline bool read_integers(const ggml_tensor *t, std::vector<std::int64_t> &out) {
    out.clear();
    if (!t || (t->type != GGML_TYPE_I32 && t->type != GGML_TYPE_I64) || !ggml_is_contiguous(t)) return false;
    std::vector<std::uint8_t> scratch;
    const Bytes bytes = read_bytes(t, scratch);
    if (!bytes.data) return false;
    const auto count = static_cast<std::size_t>(ggml_nelements(t));
    out.resize(count);
    if (t->type == GGML_TYPE_I64) {
        std::memcpy(out.data(), bytes.data, count * sizeof(std::int64_t));
    } else {
        std::vector<std::int32_t> narrow(count);
        std::memcpy(narrow.data(), bytes.data, count * sizeof(std::int32_t));
        out.assign(narrow.begin(), narrow.end());
    }
    return true;
}

/* What a chain of views, permutes and casts looks into. */
inline const ggml_tensor *origin(const ggml_tensor *t) noexcept {
    for (int depth = 0; t && depth < 16; ++depth) {
        if (t->view_src) {
            t = t->view_src;
            continue;
        }
        switch (t->op) {
            case GGML_OP_CPY:
            case GGML_OP_CONT:
            case GGML_OP_DUP:
            case GGML_OP_VIEW:
            case GGML_OP_RESHAPE:
            case GGML_OP_PERMUTE:
            case GGML_OP_TRANSPOSE:
                if (!t->src[0]) return t;
                t = t->src[0];
                continue;
            default: return t;
        }
    }
    return t;
}

/* The layer of llama.cpp's cache tensors `cache_k_l7` and `cache_v_l7`, or -1. */
inline std::int32_t cache_layer(const ggml_tensor *t, char kind) noexcept {
    const ggml_tensor *root = origin(t);
    if (!root) return -1;
    const char prefix[] = {'c', 'a', 'c', 'h', 'e', '_', kind, '_', 'l', '\0'};
    const char *at = std::strstr(root->name, prefix);
    if (!at) return -1;
    at += sizeof prefix - 1;
    if (*at < '0' || *at > '9') return -1;
    std::int32_t layer = 0;
    for (int digits = 0; *at >= '0' && *at <= '9' && digits < 6; ++at, ++digits) layer = layer * 10 + (*at - '0');
    return layer;
}

}  // namespace bnt_ggml

#endif
