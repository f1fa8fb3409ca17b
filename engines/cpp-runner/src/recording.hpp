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

    // Throws when the run that is replayed was found not to fit: what comes after is not what was asked for.
    void check_replay() const;

    // Seals the run. A failure is a warning: the text was generated all the same; but one of the replay, which may be
    // known only now, throws.
    void close();

private:
    // Seals the run, and says what is wrong with it.
    int warn() noexcept;

    bnt_recorder *recorder_ = nullptr;
    bnt_ggml_observer observer_;
};

}  // namespace runner
