#include "engine.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace runner {
namespace {

// llama.cpp explains a failure in its log only, so errors are kept for the
// message that ends the program. It may log from several threads.
std::mutex log_mutex;
std::string log_errors;

void keep_errors(ggml_log_level level, const char *text, void *) {
    static thread_local bool continues_error = false;
    if (level != GGML_LOG_LEVEL_CONT) continues_error = level == GGML_LOG_LEVEL_ERROR;
    if (!continues_error || !text) return;
    const std::lock_guard<std::mutex> lock(log_mutex);
    log_errors += text;
}

std::string logged() {
    const std::lock_guard<std::mutex> lock(log_mutex);
    std::string text = log_errors;
    std::replace(text.begin(), text.end(), '\n', ' ');
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text.empty() ? text : " (llama.cpp says: " + text + ")";
}

// A missing file and one that is no GGUF get messages of their own; llama.cpp
// only says that it failed.
void check_file(const std::string &path) {
    std::FILE *file = std::fopen(path.c_str(), "rb");
    if (!file) {
        throw EngineError("can't open model '" + path + "': " + std::strerror(errno));
    }
    char magic[4] = {};
    const std::size_t count = std::fread(magic, 1, sizeof magic, file);
    const int read_error = std::ferror(file) ? errno : 0;
    std::fclose(file);
    if (read_error != 0) {
        throw EngineError("can't read model '" + path + "': " + std::strerror(read_error));
    }
    if (count != sizeof magic || std::memcmp(magic, "GGUF", 4) != 0) {
        throw EngineError("'" + path + "' is not a GGUF model: it doesn't begin with the bytes GGUF");
    }
}

struct Batch {
    explicit Batch(std::int32_t size) : raw(llama_batch_init(size, 0, 1)) {}
    ~Batch() { llama_batch_free(raw); }
    Batch(const Batch &) = delete;
    Batch &operator=(const Batch &) = delete;
    llama_batch raw;
};

}  // namespace

Engine::Engine(const Args &args) : args_(args) {
    llama_log_set(keep_errors, nullptr);
    check_file(args.model);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    model_.reset(compat::load_model(args.model.c_str(), params));
    if (!model_) {
        throw EngineError("can't load model '" + args.model + "': is the file whole, and of an architecture this llama.cpp knows?" +
                          logged());
    }
    if (compat::has_encoder(model_.get())) {
        throw EngineError("'" + args.model + "' is an encoder model; only decoder models can be run");
    }
    vocab_ = compat::vocab(model_.get());
}

Engine::~Engine() {
    context_.reset();
    model_.reset();
    llama_backend_free();
}

std::vector<llama_token> Engine::tokenize(const std::string &text, bool parse_special) const {
    if (!compat::has_tokenizer(vocab_)) throw EngineError("'" + args_.model + "' has no tokenizer: give the prompt as --tokens");
    std::vector<llama_token> tokens(text.size() + 8);
    // add_special lets the model's metadata decide on BOS and EOS.
    const auto run = [&] {
        return llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                              static_cast<std::int32_t>(tokens.size()), /*add_special=*/true, parse_special);
    };
    std::int32_t count = run();
    if (count < 0) {
        tokens.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(count)));
        count = run();
    }
    if (count < 0) throw EngineError("llama_tokenize failed on the prompt" + logged());
    tokens.resize(static_cast<std::size_t>(count));
    if (tokens.empty()) throw EngineError("the prompt has no tokens: this model adds none to an empty text");
    return tokens;
}

std::string Engine::piece(llama_token token) const {
    if (!compat::has_tokenizer(vocab_)) return "[" + std::to_string(token) + "]";
    std::string text(64, '\0');
    const auto run = [&] {
        return llama_token_to_piece(vocab_, token, text.data(), static_cast<std::int32_t>(text.size()), 0, /*special=*/true);
    };
    std::int32_t count = run();
    if (count < 0) {
        text.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(count)));
        count = run();
    }
    text.resize(static_cast<std::size_t>(std::max(count, 0)));
    return text;
}

bool Engine::is_end(llama_token token) const { return compat::is_end(vocab_, token); }

void Engine::check_ids(const char *flag, const std::vector<llama_token> &ids) const {
    const std::int32_t size = compat::vocab_size(vocab_);
    for (const llama_token id : ids) {
        if (id < 0 || id >= size) {
            throw UsageError(std::string(flag) + ": token id " + std::to_string(id) + " is not in the vocabulary of " +
                             std::to_string(size) + " tokens");
        }
    }
}

void Engine::start(std::size_t positions, EvalCallback callback) {
    const std::int32_t trained = compat::train_context(model_.get());
    if (trained > 0 && positions > static_cast<std::size_t>(trained)) {
        throw EngineError("prompt and --max-tokens need " + std::to_string(positions) + " positions; the model was trained for " +
                          std::to_string(trained));
    }
    if (compat::flash_attention_needs_f16 && args_.flash_attention && args_.kv_type == GGML_TYPE_F32) {
        throw EngineError("this engine's flash attention needs --kv-type f16");
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<std::uint32_t>(std::max<std::size_t>(positions, 1));
    params.n_batch = static_cast<std::uint32_t>(args_.batch);
    params.n_ubatch = params.n_batch;  // one graph a call: what --batch says is what is computed
    params.n_threads = args_.threads;
    params.n_threads_batch = args_.threads;
    params.type_k = args_.kv_type;
    params.type_v = params.type_k;
    params.cb_eval = callback.function;
    params.cb_eval_user_data = callback.user_data;
    compat::set_flash_attention(params, args_.flash_attention);
    context_.reset(compat::new_context(model_.get(), params));
    if (!context_) {
        throw EngineError("llama.cpp could not make a context with these settings (bitnet.cpp's has no F32 cache without flash attention: "
                          "try --kv-type f16)" + logged());
    }
    threads_.attach(context_.get(), args_.threads);
    next_ = 0;
}

llama_token Engine::decode(const std::vector<llama_token> &tokens) {
    const std::size_t step = static_cast<std::size_t>(args_.batch);
    Batch batch(static_cast<std::int32_t>(std::min(step, tokens.size())));
    for (std::size_t first = 0; first < tokens.size(); first += step) {
        const std::size_t count = std::min(step, tokens.size() - first);
        batch.raw.n_tokens = static_cast<std::int32_t>(count);
        for (std::size_t i = 0; i < count; ++i) {
            batch.raw.token[i] = tokens[first + i];
            batch.raw.pos[i] = next_ + static_cast<llama_pos>(i);
            batch.raw.n_seq_id[i] = 1;
            batch.raw.seq_id[i][0] = 0;
            batch.raw.logits[i] = 1;  // every row: nothing is pruned from the last layer
        }
        const std::int32_t status = llama_decode(context_.get(), batch.raw);
        if (status != 0) {
            throw EngineError("llama_decode failed with code " + std::to_string(status) + " at position " + std::to_string(next_) +
                              logged());
        }
        next_ += static_cast<llama_pos>(count);
    }
    return argmax(-1);
}

// The first of equal maxima; a NaN never wins, and where there is nothing but NaN it is token 0.
llama_token Engine::argmax(std::int32_t row) const {
    const float *logits = llama_get_logits_ith(context_.get(), row);
    if (!logits) throw EngineError("llama.cpp has no logits for the last position" + logged());
    const std::int32_t size = compat::vocab_size(vocab_);
    llama_token best = 0;
    bool found = false;
    for (std::int32_t id = 0; id < size; ++id) {
        if (std::isnan(logits[id])) continue;
        if (!found || logits[id] > logits[best]) best = id;
        found = true;
    }
    return best;
}

}  // namespace runner
