// The llama.cpp functions that have changed their names or types since 2024,
// under the names of today. CMake finds out which ones this llama.h has.
#pragma once

#include <ggml-backend.h>
#include <llama.h>

#include <cstdint>
#include <string>

namespace compat {

inline llama_model *load_model(const char *path, llama_model_params params) {
#ifdef LLAMA_HAS_MODEL_LOAD
    return llama_model_load_from_file(path, params);
#else
    return llama_load_model_from_file(path, params);
#endif
}

inline void free_model(llama_model *model) {
#ifdef LLAMA_HAS_MODEL_LOAD
    llama_model_free(model);
#else
    llama_free_model(model);
#endif
}

inline llama_context *new_context(llama_model *model, llama_context_params params) {
#ifdef LLAMA_HAS_INIT_FROM_MODEL
    return llama_init_from_model(model, params);
#else
    return llama_new_context_with_model(model, params);
#endif
}

inline void set_flash_attention(llama_context_params &params, bool on) {
#ifdef LLAMA_HAS_FLASH_ATTN_TYPE
    params.flash_attn_type = on ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
#else
    params.flash_attn = on;
#endif
}

// Before 2025's enum, fused attention over an F32 cache ended in a crash.
#ifdef LLAMA_HAS_FLASH_ATTN_TYPE
inline constexpr bool flash_attention_needs_f16 = false;
#else
inline constexpr bool flash_attention_needs_f16 = true;
#endif

#ifdef LLAMA_HAS_VOCAB
using Vocab = const llama_vocab *;
inline Vocab vocab(const llama_model *model) { return llama_model_get_vocab(model); }
inline std::int32_t vocab_size(Vocab vocab) { return llama_vocab_n_tokens(vocab); }
inline bool is_end(Vocab vocab, llama_token token) { return llama_vocab_is_eog(vocab, token); }
#else
using Vocab = const llama_model *;
inline Vocab vocab(const llama_model *model) { return model; }
inline std::int32_t vocab_size(Vocab vocab) { return llama_n_vocab(vocab); }
inline bool is_end(Vocab vocab, llama_token token) { return llama_token_is_eog(vocab, token); }
#endif

inline bool has_tokenizer(Vocab vocab) { return llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE; }

inline std::int32_t train_context(const llama_model *model) {
#ifdef LLAMA_HAS_MODEL_LOAD
    return llama_model_n_ctx_train(model);
#else
    return llama_n_ctx_train(model);
#endif
}

// Threads that stay between forward calls. Without them ggml makes new ones for every graph it computes, and an
// observed graph is computed in hundreds of pieces. Null where the engine has none, or can't make them: it then
// computes as before. The functions are those of the CPU backend, which may be a plug-in.
class ThreadPool {
public:
    ThreadPool() = default;
    ~ThreadPool() { reset(); }
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

#ifdef LLAMA_HAS_THREADPOOL
    void attach(llama_context *context, int threads) {
        reset();
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        ggml_backend_reg_t backend = cpu ? ggml_backend_dev_backend_reg(cpu) : nullptr;
        if (!backend) return;
        using New = ggml_threadpool *(*)(ggml_threadpool_params *);
        const auto make = reinterpret_cast<New>(ggml_backend_reg_get_proc_address(backend, "ggml_threadpool_new"));
        free_ = reinterpret_cast<Free>(ggml_backend_reg_get_proc_address(backend, "ggml_threadpool_free"));
        if (!make || !free_) return;
        ggml_threadpool_params params = ggml_threadpool_params_default(threads);
        pool_ = make(&params);
        if (pool_) llama_attach_threadpool(context, pool_, nullptr);
    }

private:
    using Free = void (*)(ggml_threadpool *);
    void reset() {
        if (pool_) free_(pool_);
        pool_ = nullptr;
    }
    Free free_ = nullptr;
    ggml_threadpool *pool_ = nullptr;
#else
    void attach(llama_context *, int) {}

private:
    void reset() {}
#endif
};

inline bool has_encoder(const llama_model *model) { return llama_model_has_encoder(model); }

}  // namespace compat
