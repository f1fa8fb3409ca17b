// A llama.cpp program as others write them: it asks for the last logits only
// and knows nothing of recording but the line marked below. The tests use it to
// see that positions, token ids and kept rows come from the graph alone.
//
//   one-line-host MODEL ID... [/ ID...]...    decodes the ids, each group in a batch of its own, then one more token

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <bitnet_trace_ggml.h>

#include "compat.hpp"

namespace {

llama_token most_likely(llama_context *context, std::int32_t vocabulary) {
    const float *logits = llama_get_logits_ith(context, -1);
    llama_token best = 0;
    for (llama_token id = 1; id < vocabulary; ++id) {
        if (logits[id] > logits[best]) best = id;
    }
    return best;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: one-line-host MODEL ID... [/ ID...]...\n");
        return 2;
    }
    std::vector<std::vector<llama_token>> groups(1);
    for (int i = 2; i < argc; ++i) {
        if (std::strcmp(argv[i], "/") == 0) {
            groups.emplace_back();
        } else {
            groups.back().push_back(static_cast<llama_token>(std::strtol(argv[i], nullptr, 10)));
        }
    }

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = compat::load_model(argv[1], llama_model_default_params());
    if (!model) {
        std::fprintf(stderr, "one-line-host: can't load %s\n", argv[1]);
        return 2;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    compat::set_flash_attention(params, false);
    params.cb_eval = bnt_ggml_cb_eval;  // the one line
    llama_context *context = compat::new_context(model, params);
    if (!context) {
        std::fprintf(stderr, "one-line-host: can't make a context\n");
        return 2;
    }
    const std::int32_t vocabulary = compat::vocab_size(compat::vocab(model));
    int status = 0;
    llama_token best = 0;
    for (std::size_t step = 0; step <= groups.size() && status == 0; ++step) {
        const std::vector<llama_token> tokens = step < groups.size() ? groups[step] : std::vector<llama_token>(1, best);
        const bool last = step + 1 >= groups.size();
        llama_batch batch = llama_batch_init(static_cast<std::int32_t>(tokens.size()), 0, 1);
        static llama_pos next = 0;
        batch.n_tokens = static_cast<std::int32_t>(tokens.size());
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            batch.token[i] = tokens[i];
            batch.pos[i] = next++;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = last && i + 1 == tokens.size();
        }
        if (llama_decode(context, batch) != 0) status = 2;
        llama_batch_free(batch);
        if (status == 0 && last) {
            best = most_likely(context, vocabulary);
            std::printf("%d\n", static_cast<int>(best));
        }
    }
    llama_free(context);
    compat::free_model(model);
    llama_backend_free();
    return status;
}
