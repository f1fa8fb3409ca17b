// The C++ headers with BITNET_TRACE_DISABLE: calls that do nothing, and a host's own callback that is left alone.
#include "bitnet_trace.hpp"
#include "bitnet_trace_ggml.h"

#include <cstdio>
#include <vector>

namespace {

int evaluated = 0;
const float *data() { return ++evaluated, nullptr; }
bool callback(ggml_tensor *, bool, void *) { return true; }

struct context_params { // as llama_context_params
    ggml_backend_sched_eval_callback cb_eval;
    void *cb_eval_user_data;
};

} // namespace

int main() {
    bnt_options options = bnt_options_make("/proc/nowhere", "run");
    auto rec = bitnet_trace::recorder::open_or_throw(options);
    auto other = bitnet_trace::recorder::from_env("engine", "1");
    rec = std::move(other);
    const std::vector<std::int32_t> ids = {1, 2};
    rec.begin_pass();
    rec.tokens(0, 0, ids);
    const auto where = bitnet_trace::tap("q_proj", 0, 0).token_axis(0).name("Qcur");
    int code = rec.record(where, bitnet_trace::tensor(static_cast<const float *>(nullptr), {2, 3}));
    code |= BNT_RECORD(rec, bitnet_trace::tap("q_proj", ++evaluated, 0), bitnet_trace::tensor(data(), {2, 3}));
    BNT_RECORD(rec, where, bitnet_trace::tensor(data(), {2, 3}));
    code |= rec.set("threads", std::to_string(1)) | rec.set_model("m");
    bitnet_trace::site q_proj = rec.make_site("q_proj");
    if (q_proj.wants(0)) return 1;
    code |= q_proj.record(where, bitnet_trace::tensor(static_cast<const float *>(nullptr), {2, 3}));
    code |= BNT_RECORD(q_proj, where, bitnet_trace::tensor(data(), {2, 3}));
    rec.drop("kqv", 3, "reason");
    rec.fail("cause");
    if (code || rec.is_on() || rec.wants(where) || rec.run_name() || rec.run_dir() || rec.close()) return 1;

    context_params params = {callback, nullptr};
    params.cb_eval = bnt_ggml_cb_eval;
    if (params.cb_eval) return 1;
    bnt_ggml_observer observer;
    observer.recorder = rec.get();
    observer.install(params, callback, &params);
    if (params.cb_eval != callback || params.cb_eval_user_data != &params) return 1;
    std::printf("%d\n", evaluated);
    return 0;
}
