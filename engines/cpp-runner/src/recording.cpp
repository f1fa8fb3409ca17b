#include "recording.hpp"

#include <cctype>
#include <cstdio>
#include <string>

namespace runner {

Recording::Recording(const Args &args, std::size_t prompt_tokens)
    : recorder_(bnt_from_env(BNT_GGML_ENGINE, BNT_GGML_ENGINE_VERSION)) {
    observer_.recorder = recorder_;
    if (!recorder_) return;
    bnt_set_model(recorder_, args.model.c_str());
    bnt_set(recorder_, "threads", std::to_string(args.threads).c_str());
    bnt_set(recorder_, "batch", std::to_string(args.batch).c_str());
    std::string kv_type = ggml_type_name(args.kv_type);
    for (char &c : kv_type) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    bnt_set(recorder_, "kv_type", kv_type.c_str());
    bnt_set(recorder_, "flash_attention", args.flash_attention ? "true" : "false");
    bnt_set(recorder_, "prompt_tokens", std::to_string(prompt_tokens).c_str());
    if (args.prompt) bnt_set(recorder_, "prompt", args.prompt->c_str());
}

// An error of the engine comes by here; otherwise the run is closed by now.
Recording::~Recording() {
    if (!recorder_) return;
    bnt_fail(recorder_, "the engine stopped with an error");
    warn();
}

EvalCallback Recording::callback() {
    if (!recorder_) return {};
    return {bnt_ggml_cb_eval, &observer_};
}

void Recording::check_replay() const {
    bnt_error error = bnt_error_make();
    if (bnt_replay_error(recorder_, &error) != BNT_OK) {
        throw EngineError(std::string("the replay stopped: ") + error.message);
    }
}

void Recording::close() {
    if (recorder_ && warn() == BNT_ERR_REPLAY) throw EngineError("the replay stopped");
}

int Recording::warn() noexcept {
    bnt_recorder *recorder = recorder_;
    recorder_ = observer_.recorder = nullptr;
    bnt_error error = bnt_error_make();
    const int code = bnt_close(recorder, &error);
    if (code != BNT_OK) {
        std::fprintf(stderr, "cpp-runner: the trace is not complete: %s\n", error.message);
    }
    return code;
}

}  // namespace runner
