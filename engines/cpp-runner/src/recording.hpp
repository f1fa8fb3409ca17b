// What the runner tells the recorder besides the tensors.
#pragma once

#include <cstddef>

#include <bitnet_trace.h>
#include <bitnet_trace_ggml.h>

#include "args.hpp"
#include "engine.hpp"

namespace runner {

// Records the run when the environment asks for it; otherwise does nothing.
class Recording {
public:
    Recording(const Args &args, std::size_t prompt_tokens);
    ~Recording();
    Recording(const Recording &) = delete;
    Recording &operator=(const Recording &) = delete;

    // Empty when nothing is recorded, so that an unobserved run is left alone.
    EvalCallback callback();

    // Seals the run. A failure is a warning: the text was generated all the same.
    void close();

private:
    bnt_recorder *recorder_ = nullptr;
    bnt_ggml_observer observer_;
};

}  // namespace runner
