/* What is left of bitnet_trace_ggml.h, which includes it, with BITNET_TRACE_DISABLE defined. */
#ifndef BITNET_TRACE_GGML_OFF_HPP
#define BITNET_TRACE_GGML_OFF_HPP

#include <ggml-backend.h>

#include <cstddef>
#include <cstdint>

#include "bitnet_trace.h"

inline namespace bnt_ggml_off {  // a program's files need not all be compiled alike

/* A context without a callback computes its graph as if this header did not exist. */
inline constexpr ggml_backend_sched_eval_callback bnt_ggml_cb_eval = nullptr;

struct bnt_ggml_observer {
    bnt_recorder *recorder = nullptr;
    const std::int32_t *requests = nullptr;
    std::size_t n_requests = 0;

    template <class Params>
    void install(Params &params, ggml_backend_sched_eval_callback own = nullptr, void *own_user_data = nullptr) {
        params.cb_eval = own;
        params.cb_eval_user_data = own_user_data;
    }
};

}  // namespace bnt_ggml_off

#endif
