/* What the adapter needs of ggml when recording is compiled out: the type of the callback. */
struct ggml_tensor;
typedef bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor *t, bool ask, void *user_data);
