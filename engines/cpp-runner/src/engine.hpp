// A model and its context, one forward call at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "args.hpp"
#include "compat.hpp"

namespace runner {

// Something that llama.cpp refused, with what it logged about it.
struct EngineError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct EvalCallback {
    ggml_backend_sched_eval_callback function = nullptr;
    void *user_data = nullptr;
};

class Engine {
public:
    // Loads the model. Throws EngineError when it is missing or no GGUF.
    explicit Engine(const Args &args);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    std::vector<llama_token> tokenize(const std::string &text, bool parse_special) const;
    std::string piece(llama_token token) const;
    bool is_end(llama_token token) const;

    // Throws UsageError when an id is not in the vocabulary.
    void check_ids(const char *flag, const std::vector<llama_token> &ids) const;

    // Makes a context for `positions` tokens.
    void start(std::size_t positions, EvalCallback callback);

    // Computes the tokens at the positions that follow the last ones, in calls
    // of --batch tokens, with logits for each; returns the argmax of the last.
    llama_token decode(const std::vector<llama_token> &tokens);

private:
    struct ModelDeleter {
        void operator()(llama_model *model) const { compat::free_model(model); }
    };
    struct ContextDeleter {
        void operator()(llama_context *context) const { llama_free(context); }
    };

    llama_token argmax(std::int32_t row) const;

    Args args_;
    std::unique_ptr<llama_model, ModelDeleter> model_;
    compat::ThreadPool threads_;  // outlives the context that computes with it
    std::unique_ptr<llama_context, ContextDeleter> context_;
    compat::Vocab vocab_ = nullptr;
    llama_pos next_ = 0;
};

}  // namespace runner
