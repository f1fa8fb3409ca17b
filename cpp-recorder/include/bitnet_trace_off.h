/* bitnet_trace_off.h: what is left of bitnet_trace.h, which includes it, with BITNET_TRACE_DISABLE defined.
 *
 * Every function is a macro that checks its arguments' types as ever, evaluates none of them, and is the constant
 * that the function returns for a recorder that is off: no call, no symbol and nothing to link. A function whose
 * address is taken is one that does nothing.
 */
#ifndef BITNET_TRACE_OFF_H
#define BITNET_TRACE_OFF_H

#ifdef __cplusplus
#define BNT_OFF_NULL_ nullptr
#define BNT_OFF_EMPTY_(type) type()
#define BNT_OFF_INT_(value) (value)
#else
#define BNT_OFF_NULL_ NULL
#define BNT_OFF_EMPTY_(type) ((type){0})
#define BNT_OFF_INT_(value) ((int){0} = (value)) /* an assignment is no "statement with no effect" */
#endif

BNT_API uint32_t bnt_abi_version(void) { return BNT_ABI_VERSION; }

BNT_API bnt_recorder *bnt_from_env(const char *engine, const char *engine_version) {
    (void)engine, (void)engine_version;
    return BNT_OFF_NULL_;
}

BNT_API bnt_recorder *bnt_open(const bnt_options *options, bnt_error *error) {
    (void)options, (void)error;
    return BNT_OFF_NULL_;
}

BNT_API bnt_recorder *bnt_global(const char *engine, const char *engine_version) {
    (void)engine, (void)engine_version;
    return BNT_OFF_NULL_;
}

BNT_API int bnt_is_on(const bnt_recorder *recorder) {
    (void)recorder;
    return 0;
}

BNT_API int bnt_wants(const bnt_recorder *recorder, const bnt_tap *tap) {
    (void)recorder, (void)tap;
    return 0;
}

BNT_API bnt_site *bnt_site_make(bnt_recorder *recorder, const char *stage) {
    (void)recorder, (void)stage;
    return BNT_OFF_NULL_;
}

BNT_API int bnt_site_record(const bnt_site *site, const bnt_tap *tap, const bnt_tensor *tensor) {
    (void)site, (void)tap, (void)tensor;
    return BNT_OK;
}

BNT_API void bnt_site_free(bnt_site *site) { (void)site; }

BNT_API int bnt_site_confirm(const bnt_site *site, int32_t layer) {
    (void)site, (void)layer;
    return 0;
}

BNT_API const char *bnt_run_name(const bnt_recorder *recorder) {
    (void)recorder;
    return BNT_OFF_NULL_;
}

BNT_API const char *bnt_run_dir(const bnt_recorder *recorder) {
    (void)recorder;
    return BNT_OFF_NULL_;
}

BNT_API void bnt_begin_pass(bnt_recorder *recorder) { (void)recorder; }

BNT_API void bnt_tokens(bnt_recorder *recorder, int32_t request, int64_t first_seq, const int32_t *ids, size_t n) {
    (void)recorder, (void)request, (void)first_seq, (void)ids, (void)n;
}

BNT_API int bnt_record(bnt_recorder *recorder, const bnt_tap *tap, const bnt_tensor *tensor) {
    (void)recorder, (void)tap, (void)tensor;
    return BNT_OK;
}

BNT_API int bnt_replay(bnt_recorder *recorder, const bnt_tap *tap, const bnt_tensor *tensor) {
    (void)recorder, (void)tap, (void)tensor;
    return BNT_OK;
}

BNT_API int bnt_replay_error(const bnt_recorder *recorder, bnt_error *error) {
    (void)recorder, (void)error;
    return BNT_OK;
}

BNT_API void bnt_drop(bnt_recorder *recorder, const char *stage, int32_t layer, const char *reason) {
    (void)recorder, (void)stage, (void)layer, (void)reason;
}

BNT_API int bnt_set_model(bnt_recorder *recorder, const char *path) {
    (void)recorder, (void)path;
    return BNT_OK;
}

BNT_API int bnt_set(bnt_recorder *recorder, const char *key, const char *value) {
    (void)recorder, (void)key, (void)value;
    return BNT_OK;
}

BNT_API void bnt_fail(bnt_recorder *recorder, const char *cause) { (void)recorder, (void)cause; }

BNT_API int bnt_close(bnt_recorder *recorder, bnt_error *error) {
    (void)recorder, (void)error;
    return BNT_OK;
}

/* The second arm of ?: is never evaluated; it is there for the compiler to check, and so that what is only used in
 * arguments is used. The parentheses around a name keep it from being a macro again. */
#define bnt_abi_version() (1 ? BNT_ABI_VERSION : (bnt_abi_version)())
#define bnt_from_env(...) (1 ? BNT_OFF_NULL_ : (bnt_from_env)(__VA_ARGS__))
#define bnt_open(...) (1 ? BNT_OFF_NULL_ : (bnt_open)(__VA_ARGS__))
#define bnt_global(...) (1 ? BNT_OFF_NULL_ : (bnt_global)(__VA_ARGS__))
#define bnt_is_on(...) BNT_OFF_INT_(1 ? 0 : (bnt_is_on)(__VA_ARGS__))
#define bnt_wants(...) BNT_OFF_INT_(1 ? 0 : (bnt_wants)(__VA_ARGS__))
#define bnt_site_make(...) (1 ? BNT_OFF_NULL_ : (bnt_site_make)(__VA_ARGS__))
#define bnt_site_record(...) BNT_OFF_INT_(1 ? 0 : (bnt_site_record)(__VA_ARGS__))
#define bnt_site_free(...) (1 ? (void)0 : (bnt_site_free)(__VA_ARGS__))
#define bnt_site_wants(...) BNT_OFF_INT_(1 ? 0 : (bnt_site_wants)(__VA_ARGS__))
#define bnt_run_name(...) (1 ? BNT_OFF_NULL_ : (bnt_run_name)(__VA_ARGS__))
#define bnt_run_dir(...) (1 ? BNT_OFF_NULL_ : (bnt_run_dir)(__VA_ARGS__))
#define bnt_begin_pass(...) (1 ? (void)0 : (bnt_begin_pass)(__VA_ARGS__))
#define bnt_tokens(...) (1 ? (void)0 : (bnt_tokens)(__VA_ARGS__))
#define bnt_record(...) BNT_OFF_INT_(1 ? 0 : (bnt_record)(__VA_ARGS__))
#define bnt_replay(...) BNT_OFF_INT_(1 ? 0 : (bnt_replay)(__VA_ARGS__))
#define bnt_replay_error(...) BNT_OFF_INT_(1 ? 0 : (bnt_replay_error)(__VA_ARGS__))
#define bnt_drop(...) (1 ? (void)0 : (bnt_drop)(__VA_ARGS__))
#define bnt_set_model(...) BNT_OFF_INT_(1 ? 0 : (bnt_set_model)(__VA_ARGS__))
#define bnt_set(...) BNT_OFF_INT_(1 ? 0 : (bnt_set)(__VA_ARGS__))
#define bnt_fail(...) (1 ? (void)0 : (bnt_fail)(__VA_ARGS__))
#define bnt_close(...) BNT_OFF_INT_(1 ? 0 : (bnt_close)(__VA_ARGS__))

#define bnt_error_make() (1 ? BNT_OFF_EMPTY_(bnt_error) : (bnt_error_make)())
#define bnt_options_make(...) (1 ? BNT_OFF_EMPTY_(bnt_options) : (bnt_options_make)(__VA_ARGS__))
#define bnt_tap_make(...) (1 ? BNT_OFF_EMPTY_(bnt_tap) : (bnt_tap_make)(__VA_ARGS__))
#define bnt_tensor_make(...) (1 ? BNT_OFF_EMPTY_(bnt_tensor) : (bnt_tensor_make)(__VA_ARGS__))

#endif
