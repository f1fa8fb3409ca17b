// A llama.cpp program as others write them. It knows nothing of recording, unless it is compiled with ONE_LINE.
//
//   host MODEL [--flash] [--kv TYPE] [--batch N] [--ubatch N] [--seqs N] [--unified] [--ring] [--threads N] [--contexts N] [--embeddings]
//        [--last] [--chain] [--abort] STEP...
//
// A STEP is a batch: tokens as SEQ:ID,ID,..., parts joined by ';'. Positions go on from the sequence's last. Each context
// decodes all steps. Prints a digest of every row of logits (or, with --last, of the last token's only; or of the embeddings).

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#ifdef ONE_LINE
#include <bitnet_trace_ggml.h>
#endif
#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

namespace {

struct Token {
    llama_seq_id sequence;
    llama_token id;
};

std::vector<Token> parse(const char *text) {
    std::vector<Token> tokens;
    llama_seq_id sequence = 0;
    while (*text) {
        char *end = nullptr;
        const long number = std::strtol(text, &end, 10);
        if (*end == ':') {
            sequence = static_cast<llama_seq_id>(number);
        } else {
            tokens.push_back({sequence, static_cast<llama_token>(number)});
        }
        text = *end ? end + 1 : end;
    }
    return tokens;
}

void digest(std::uint64_t &hash, const float *values, std::int32_t count) {
    for (std::int32_t i = 0; values && i < count; ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, values + i, sizeof bits);
        hash = (hash ^ bits) * 1099511628211ull;
    }
}

// A callback of the host's own, which wants nothing.
bool own_callback(ggml_tensor *, bool ask, void *calls) {
    ++*static_cast<int *>(calls);
    return !ask;
}

int decode(llama_context *context, const std::vector<std::vector<Token>> &steps, bool last, bool embeddings) {
    const llama_model *model = llama_get_model(context);
    const std::int32_t width = embeddings ? llama_model_n_embd(model) : llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::map<llama_seq_id, llama_pos> next;
    std::uint64_t hash = 14695981039346656037ull;
    for (const std::vector<Token> &step : steps) {
        llama_batch batch = llama_batch_init(static_cast<std::int32_t>(step.size()), 0, 1);
        for (const Token &token : step) {
            const std::int32_t i = batch.n_tokens++;
            batch.token[i] = token.id;
            batch.pos[i] = next[token.sequence]++;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = token.sequence;
            batch.logits[i] = !last || static_cast<std::size_t>(i) + 1 == step.size();
        }
        if (llama_decode(context, batch) != 0) return 2;
        for (std::int32_t i = 0; i < batch.n_tokens; ++i) {
            if (batch.logits[i]) digest(hash, embeddings ? llama_get_embeddings_ith(context, i) : llama_get_logits_ith(context, i), width);
        }
        llama_batch_free(batch);
    }
    std::printf("%016llx\n", static_cast<unsigned long long>(hash));
    return 0;
}

}  // namespace

int main(int argc, char **argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    int contexts = 1, calls = 0;
    bool last = false, aborts = false;
    std::vector<std::vector<Token>> steps;
    for (int i = 2; i < argc; ++i) {
        const std::string flag = argv[i];
        const auto number = [&] { return static_cast<std::uint32_t>(std::atoi(argv[++i])); };
        if (flag == "--flash") {
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        } else if (flag == "--kv") {
            const std::string name = argv[++i];
            for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
                const char *known = ggml_type_name(static_cast<ggml_type>(type));
                if (known && name == known) params.type_k = params.type_v = static_cast<ggml_type>(type);
            }
        } else if (flag == "--ubatch") {
            params.n_ubatch = number();
        } else if (flag == "--seqs") {
            params.n_seq_max = number();
        } else if (flag == "--unified") {
            params.kv_unified = true;
        } else if (flag == "--ring") {
            params.swa_full = false;  // a sliding window's cache is as small as it can be
        } else if (flag == "--threads") {
            params.n_threads = params.n_threads_batch = static_cast<std::int32_t>(number());
        } else if (flag == "--contexts") {
            contexts = static_cast<int>(number());
        } else if (flag == "--embeddings") {
            params.embeddings = true;
        } else if (flag == "--last") {
            last = true;
        } else if (flag == "--chain") {
            params.cb_eval = own_callback;
            params.cb_eval_user_data = &calls;
        } else if (flag == "--abort") {
            aborts = true;
        } else {
            steps.push_back(parse(argv[i]));
        }
    }
#ifdef ONE_LINE
    params.cb_eval = bnt_ggml_cb_eval;
#endif
    llama_model *model = argc > 1 ? llama_model_load_from_file(argv[1], llama_model_default_params()) : nullptr;
    if (!model) return 2;
    int status = 0;
    std::vector<llama_context *> all;
    for (int i = 0; i < contexts && status == 0; ++i) {
        all.push_back(llama_init_from_model(model, params));
        status = all.back() ? decode(all.back(), steps, last, params.embeddings) : 2;
    }
    if (aborts) std::abort();
    if (params.cb_eval == own_callback) std::printf("%s\n", calls > 0 ? "the host's own callback was called" : "");
    for (llama_context *context : all) llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return status;
}
