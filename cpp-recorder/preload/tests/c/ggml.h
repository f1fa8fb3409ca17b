#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor {
    int type;
    struct ggml_backend_buffer *buffer;
#ifdef STRANGE
    void *nobody_knows;
#endif
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
#ifdef GRAD
    struct ggml_tensor *grad;
#endif
    struct ggml_tensor *src[10];
    struct ggml_tensor *view_src;
    size_t view_offs;
    void *data;
    char name[64];
    void *extra;
    char padding[8];
};
struct ggml_init_params { size_t mem_size; void *mem_buffer; bool no_alloc; };
typedef bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor *, bool, void *);

struct ggml_backend_buffer *ggml_backend_cpu_buffer_from_ptr(void *, size_t);
struct ggml_tensor *ggml_set_name(struct ggml_tensor *, const char *);
struct ggml_tensor *ggml_new_tensor_4d(void *, int, int64_t, int64_t, int64_t, int64_t);
void *ggml_init(struct ggml_init_params);
struct ggml_backend_sched *ggml_backend_sched_new(void);
void ggml_backend_sched_free(struct ggml_backend_sched *);
void ggml_backend_sched_set_eval_callback(struct ggml_backend_sched *, ggml_backend_sched_eval_callback, void *);
int ggml_compute(struct ggml_backend_sched *, struct ggml_tensor **, int);
