// The llama.cpp functions that have changed their names or types since 2024,
// under the names of today. CMake finds out which ones this llama.h has.
#pragma once

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

inline bool has_encoder(const llama_model *model) { return llama_model_has_encoder(model); }

}  // namespace compat
