/* Records any program that computes with ggml: llama.cpp, bitnet.cpp and others.
 *
 * One line in the host is all that is needed, before its context is made:
 *
 *     #include <bitnet_trace_ggml.h>
 *     ...
 *     params.cb_eval = bnt_ggml_cb_eval;
 *
 * With BITNET_TRACE_DIR set, every tensor of the stage vocabulary is recorded:
 * token ids, positions and the rows that the last layer keeps are read from the
 * graph itself. Without it, no tensor is asked for and the graph is not split.
 *
 * A host that has its own recorder, its own evaluation callback or several
 * sequences in a batch makes a bnt_ggml_observer:
 *
 *     bnt_ggml_observer observer;
 *     observer.recorder = recorder;
 *     observer.install(params, my_callback, my_data);
 *
 * With BITNET_TRACE_DISABLE defined, bnt_ggml_cb_eval is a null pointer and
 * install() leaves the host's own callback: no code of this header is left.
 *
 * C++17, header only, on top of the host's own ggml.h; link libbitnet_trace.
 * Nothing here throws (but what the host's own callback does), and no tensor,
 * however odd, ends the host: what can't be recorded is counted in the run's
 * manifest.
 */
#ifndef BITNET_TRACE_GGML_H
#define BITNET_TRACE_GGML_H

#ifndef __cplusplus
#error "bitnet_trace_ggml.h is a C++17 header; from C, write a callback over bnt_record of bitnet_trace.h"
#endif

#ifdef BITNET_TRACE_DISABLE
#include "bitnet_trace_ggml_off.hpp"
#else

#include "bitnet_trace_ggml_host.hpp"

/* The engine's name and version in the manifest of a host that makes no recorder itself. */
#ifndef BNT_GGML_ENGINE
#define BNT_GGML_ENGINE "llama.cpp"
#endif
#ifndef BNT_GGML_ENGINE_VERSION
#define BNT_GGML_ENGINE_VERSION ""
#endif

inline bool bnt_ggml_cb_eval(struct ggml_tensor *t, bool ask, void *user_data);

/* One observer follows one context; it must outlive it. */
struct bnt_ggml_observer {
    /* Where to record; null means off. */
    bnt_recorder *recorder = nullptr;
    /* The request of each token of the next forward call, for a host that knows better than the graph tells. */
    const std::int32_t *requests = nullptr;
    std::size_t n_requests = 0;

    bnt_ggml_observer() = default;
    bnt_ggml_observer(const bnt_ggml_observer &) = delete;
    bnt_ggml_observer &operator=(const bnt_ggml_observer &) = delete;
    ~bnt_ggml_observer() { bnt_ggml_unfollow(follower); }

    /* Makes the context that `params` (llama_context_params) are for an observed one, unless the recorder is
     * null. `own` is the host's own callback: it is called as ggml would call it, and its answer is passed on. */
    template <class Params>
    void install(Params &params, ggml_backend_sched_eval_callback own = nullptr, void *own_user_data = nullptr) {
        chain = own;
        chain_user_data = own_user_data;
        params.cb_eval = recorder ? bnt_ggml_cb_eval : own;
        params.cb_eval_user_data = recorder ? this : own_user_data;
    }

private:
    friend bool bnt_ggml_cb_eval(struct ggml_tensor *, bool, void *);

    bool wants(const ggml_tensor *t) {
        if (followed != recorder) {
            bnt_ggml_unfollow(follower);
            const bnt_ggml_host host = bnt_ggml::host();
            follower = bnt_ggml_follow(recorder, &host);
            followed = recorder;
        }
        if (requests) bnt_ggml_requests(follower, requests, n_requests);
        return bnt_ggml_ask(follower, t) != 0;
    }

    ggml_backend_sched_eval_callback chain = nullptr;
    void *chain_user_data = nullptr;
    bnt_ggml_follower *follower = nullptr;
    bnt_recorder *followed = nullptr;
    /* Who asked for the node that is being computed. */
    bool wanted = false;
    bool chain_wanted = false;
};

/* The observer that stands behind a null `user_data`: one a thread, because a
 * context is computed in the thread that decodes. */
inline bnt_ggml_observer &bnt_ggml_default_observer() {
    thread_local bnt_ggml_observer observer;
    thread_local bool ready = false;
    if (!ready) {
        observer.recorder = bnt_global(BNT_GGML_ENGINE, BNT_GGML_ENGINE_VERSION);
        ready = true;
    }
    return observer;
}

/* A ggml_backend_sched_eval_callback; `user_data` is null or a bnt_ggml_observer. */
inline bool bnt_ggml_cb_eval(struct ggml_tensor *t, bool ask, void *user_data) {
    bnt_ggml_observer &observer = user_data ? *static_cast<bnt_ggml_observer *>(user_data) : bnt_ggml_default_observer();
    if (ask) {
        observer.chain_wanted = observer.chain && observer.chain(t, true, observer.chain_user_data);
        observer.wanted = observer.wants(t);
        return observer.wanted || observer.chain_wanted;
    }
    if (observer.wanted) bnt_ggml_data(observer.follower, t);
    if (!observer.chain || !observer.chain_wanted || observer.chain(t, false, observer.chain_user_data)) return true;
    // That ends the graph's computation.
    bnt_ggml_ask(observer.follower, nullptr);
    return false;
}

#endif /* BITNET_TRACE_DISABLE */
#endif
