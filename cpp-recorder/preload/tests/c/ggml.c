/* A ggml without arithmetic: the part of its interface that the preload library confirms a layout with, over a
 * ggml_tensor as it was (GRAD), as it is, or as nobody knows it (STRANGE). Tests compile it into a shared library, so that
 * odd tensors can be shown to the library, which no real graph has. */
#include "ggml.h"

#include <stdlib.h>
#include <string.h>

struct ggml_backend_buffer { void *base; size_t size; };
static struct { const char *name; size_t size; int64_t block; } types[] = {
    {"f32", 4, 1}, {"f16", 2, 1}, {0, 0, 1}, {0, 0, 1}, {0, 0, 1}, {0, 0, 1}, {0, 0, 1}, {0, 0, 1}, {"q8_0", 34, 32},
};
static const char *ops[] = {"NONE", "MUL_MAT", "VIEW", "PERMUTE", "GET_ROWS", "ROPE", "MUL"};

const char *ggml_op_name(int op) { return op >= 0 && op < 7 ? ops[op] : "?"; }
const char *ggml_type_name(int type) { return type == 26 ? "i32" : type >= 0 && type < 9 ? types[type].name : NULL; }
size_t ggml_type_size(int type) { return type == 26 ? 4 : types[type].size; }
int64_t ggml_blck_size(int type) { return type == 26 ? 1 : types[type].block; }
const char *ggml_get_name(const struct ggml_tensor *t) { return t->name; }
int64_t ggml_nelements(const struct ggml_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; }

size_t ggml_nbytes(const struct ggml_tensor *t) {
    size_t size = (size_t)t->ne[0] / (size_t)ggml_blck_size(t->type) * t->nb[0];
    for (int i = 1; i < 4; ++i) size += (size_t)(t->ne[i] - 1) * t->nb[i];
    return size;
}

void *ggml_init(struct ggml_init_params params) { return params.no_alloc ? calloc(1, 1 << 16) : NULL; }
void ggml_free(void *context) { free(context); }

static struct ggml_tensor *make(void *context) {
    size_t *used = context;
    struct ggml_tensor *t = (struct ggml_tensor *)((char *)context + 64 + *used);
    *used += sizeof *t;
    return t;
}

struct ggml_tensor *ggml_new_tensor_4d(void *context, int type, int64_t a, int64_t b, int64_t c, int64_t d) {
    struct ggml_tensor *t = make(context);
    const int64_t ne[4] = {a, b, c, d};
    t->type = type;
    memcpy(t->ne, ne, sizeof ne);
    t->nb[0] = ggml_type_size(type);
    t->nb[1] = t->nb[0] * (size_t)(a / ggml_blck_size(type));
    for (int i = 2; i < 4; ++i) t->nb[i] = t->nb[i - 1] * (size_t)t->ne[i - 1];
    return t;
}

struct ggml_tensor *ggml_set_name(struct ggml_tensor *t, const char *name) {
    strncpy(t->name, name, sizeof t->name - 1);
    return t;
}

struct ggml_tensor *ggml_mul_mat(void *context, struct ggml_tensor *a, struct ggml_tensor *b) {
    struct ggml_tensor *t = ggml_new_tensor_4d(context, 0, a->ne[1], b->ne[1], b->ne[2], b->ne[3]);
    t->op = 1;
    t->src[0] = a;
    t->src[1] = b;
    return t;
}

struct ggml_tensor *ggml_view_2d(void *context, struct ggml_tensor *a, int64_t n, int64_t m, size_t nb1, size_t offset) {
    struct ggml_tensor *t = ggml_new_tensor_4d(context, a->type, n, m, 1, 1);
    t->op = 2;
    t->nb[1] = nb1;
    t->nb[2] = t->nb[3] = nb1 * (size_t)m;
    t->src[0] = t->view_src = a;
    t->view_offs = offset;
    return t;
}

struct ggml_tensor *ggml_permute(void *context, struct ggml_tensor *a, int a0, int a1, int a2, int a3) {
    struct ggml_tensor *t = make(context);
    const int axes[4] = {a0, a1, a2, a3};
    t->type = a->type;
    t->op = 3;
    t->src[0] = t->view_src = a;
    for (int i = 0; i < 4; ++i) {
        t->ne[axes[i]] = a->ne[i];
        t->nb[axes[i]] = a->nb[i];
    }
    return t;
}

struct ggml_backend_buffer *ggml_backend_cpu_buffer_from_ptr(void *base, size_t size) {
    struct ggml_backend_buffer *buffer = malloc(sizeof *buffer);
    buffer->base = base;
    buffer->size = size;
    return buffer;
}
void ggml_backend_buffer_free(struct ggml_backend_buffer *buffer) { free(buffer); }
bool ggml_backend_buffer_is_host(struct ggml_backend_buffer *buffer) { return buffer->base != NULL; }
int ggml_backend_tensor_alloc(struct ggml_backend_buffer *buffer, struct ggml_tensor *t, void *address) {
    t->buffer = buffer;
    t->data = address;
    return 0;
}
void ggml_backend_tensor_get(const struct ggml_tensor *t, void *to, size_t offset, size_t size) {
    memcpy(to, (const char *)t->data + offset, size);
}
void ggml_backend_tensor_set(struct ggml_tensor *t, const void *from, size_t offset, size_t size) {
    memcpy((char *)t->data + offset, from, size);
}
void ggml_set_input(struct ggml_tensor *t) { t->flags |= 1; }

struct ggml_backend_sched { ggml_backend_sched_eval_callback callback; void *data; };
struct ggml_backend_sched *ggml_backend_sched_new(void) { return calloc(1, sizeof(struct ggml_backend_sched)); }
void ggml_backend_sched_free(struct ggml_backend_sched *sched) { free(sched); }
void ggml_backend_sched_set_eval_callback(struct ggml_backend_sched *sched, ggml_backend_sched_eval_callback callback, void *data) {
    sched->callback = callback;
    sched->data = data;
}

/* As ggml's scheduler does it, but that nothing is computed. */
int ggml_compute(struct ggml_backend_sched *sched, struct ggml_tensor **nodes, int n) {
    int asked = 0;
    for (int i = 0; i < n && sched->callback; ++i) {
        if (!sched->callback(nodes[i], true, sched->data)) continue;
        ++asked;
        if (!sched->callback(nodes[i], false, sched->data)) break;
    }
    return asked;
}
