/* Reads ggml_tensor for the library, with the host's own ggml.h: what follows the graph is in the library and knows
 * none of ggml's structs and numbers.
 *
 * Part of bitnet_trace_ggml.h, which programs include.
 */
#ifndef BITNET_TRACE_GGML_HOST_HPP
#define BITNET_TRACE_GGML_HOST_HPP

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <cstdint>

#include "bitnet_trace.h"

extern "C" {

/* What is known of a tensor. Strings live until the evaluation callback returns. */
typedef struct bnt_ggml_node {
    int64_t ne[4];
    size_t nb[4];
    const char *name;
    const char *op;    /* as ggml_op_name says it */
    const char *dtype; /* as ggml_type_name says it; NULL where the type has no name */
    const void *src[4];
    const void *view_src;
    size_t view_offs;
    int32_t flags;
    int32_t reserved;
} bnt_ggml_node;

typedef struct bnt_ggml_host {
    uint32_t struct_size; /* sizeof(bnt_ggml_host) */
    uint32_t node_size;   /* sizeof(bnt_ggml_node) */
    void (*node)(const void *tensor, bnt_ggml_node *out);
    /* Where the tensor's bytes lie in host memory, or NULL; their number, or 0 where there are none. */
    const void *(*bytes)(const void *tensor, size_t *size);
    /* Copies the first `size` bytes of a tensor that does not lie in host memory. */
    void (*copy)(const void *tensor, void *to, size_t size);
    /* Overwrites the first `size` bytes of a tensor. */
    void (*write)(const void *tensor, const void *from, size_t size);
} bnt_ggml_host;

/* Follows the graphs of one context. NULL does nothing and wants nothing. */
typedef struct bnt_ggml_follower bnt_ggml_follower;

/* NULL where the recorder is off. The follower may outlive the recorder's handle, and records nothing then. */
extern bnt_ggml_follower *bnt_ggml_follow(bnt_recorder *recorder, const bnt_ggml_host *host);
extern void bnt_ggml_unfollow(bnt_ggml_follower *follower);

/* The request of each token of the following forward calls; without it, or where a call has another number of
 * tokens, the graph is asked. */
extern void bnt_ggml_requests(bnt_ggml_follower *follower, const int32_t *requests, size_t n);

/* 1 if the data of the tensor is wanted: for each node, before it is computed. NULL says that the graph's computation
 * ends before its last node. */
extern int bnt_ggml_ask(bnt_ggml_follower *follower, const void *tensor);

/* Records a tensor that was asked for and is computed now; in a replay, overwrites it. */
extern void bnt_ggml_data(bnt_ggml_follower *follower, const void *tensor);

} /* extern "C" */

namespace bnt_ggml {

inline const ggml_tensor *tensor_of(const void *tensor) noexcept { return static_cast<const ggml_tensor *>(tensor); }

inline void node(const void *tensor, bnt_ggml_node *out) {
    const ggml_tensor *t = tensor_of(tensor);
    for (int i = 0; i < 4; ++i) {
        out->ne[i] = t->ne[i];
        out->nb[i] = t->nb[i];
        out->src[i] = t->src[i];
    }
    out->name = t->name;
    out->op = static_cast<unsigned>(t->op) < static_cast<unsigned>(GGML_OP_COUNT) ? ggml_op_name(t->op) : "";
    out->dtype = static_cast<unsigned>(t->type) < static_cast<unsigned>(GGML_TYPE_COUNT) ? ggml_type_name(t->type) : nullptr;
    out->view_src = t->view_src;
    out->view_offs = t->view_offs;
    out->flags = t->flags;
    out->reserved = 0;
}

/* The buffer of a view is that of the tensor it looks into. */
inline ggml_backend_buffer_t buffer_of(const ggml_tensor *t) noexcept {
    return t->view_src && t->view_src->buffer ? t->view_src->buffer : t->buffer;
}

inline const void *bytes(const void *tensor, std::size_t *size) {
    const ggml_tensor *t = tensor_of(tensor);
    *size = 0;
    if (!t->data || static_cast<unsigned>(t->type) >= static_cast<unsigned>(GGML_TYPE_COUNT) || ggml_nelements(t) <= 0) return nullptr;
    *size = ggml_nbytes(t);
    const ggml_backend_buffer_t buffer = buffer_of(t);
    return !buffer || ggml_backend_buffer_is_host(buffer) ? t->data : nullptr;
}

inline void copy(const void *tensor, void *to, std::size_t size) {
    ggml_backend_tensor_get(tensor_of(tensor), to, 0, size);
}

inline void write(const void *tensor, const void *from, std::size_t size) {
    ggml_backend_tensor_set(const_cast<ggml_tensor *>(tensor_of(tensor)), from, 0, size);
}

inline bnt_ggml_host host() noexcept { return {sizeof(bnt_ggml_host), sizeof(bnt_ggml_node), node, bytes, copy, write}; }

}  // namespace bnt_ggml

#endif
