// The C++ header: a recorder that seals itself, moves, several threads, and errors with and without exceptions.
#include "bitnet_trace.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (0)

using bitnet_trace::recorder;
using bitnet_trace::tap;
using bitnet_trace::tensor;

int main(int argc, char **argv) {
    CHECK(argc == 2);
    recorder off;
    CHECK(!off.is_on() && off.record(tap("x", 0, 0), tensor(static_cast<float *>(nullptr), {0})) == BNT_OK);

    bnt_options options = bnt_options_make(argv[1], "cpp");
    recorder first = recorder::open(options);
    recorder rec = std::move(first);
    CHECK(rec.is_on() && !first.is_on() && std::strcmp(rec.run_name(), "cpp") == 0);
    rec.set("engine_flags", std::string("none"));
    rec.begin_pass();
    rec.tokens(0, 0, std::vector<std::int32_t>{1, 2});
    const std::array<double, 6> doubles = {1, 2, 3, 4, 5, 6};
    const tap where = tap("logits", -1, 0).token_axis(0).name("result_output");
    CHECK(rec.wants(where) && rec.record(where, tensor(doubles.data(), {2, 3})) == BNT_OK);
    const std::int64_t positions[] = {5, 9};
    const std::int32_t requests[] = {1, 1};
    tensor columns = tensor(doubles.data(), {3, 2});
    columns.byte_strides({8, 24});
    CHECK(rec.record(tap("q_proj", 0, 0).token_axis(1).tokens(positions, requests, 2), columns) == BNT_OK);
    CHECK(rec.record(tap("q_proj", 0, 0), columns.byte_strides({8})) == BNT_ERR_ARGUMENT);
    rec.drop("kqv", 3, "type Q4_K");

    std::vector<std::thread> threads;
    for (std::int32_t layer = 0; layer < 4; layer++)
        threads.emplace_back([&rec, layer] {
            std::vector<float> values(100, static_cast<float>(layer));
            for (std::int64_t seq = 0; seq < 25; seq++)
                rec.record(tap("layer_out", layer, seq), tensor(values.data(), {10, 10}));
        });
    for (auto &thread : threads) thread.join();

    bool thrown = false;
    try {
        recorder::open_or_throw(bnt_options_make("/proc/nowhere", "x"));
    } catch (const bitnet_trace::error &e) {
        thrown = e.code() == BNT_ERR_IO && std::strstr(e.what(), "/proc/nowhere") != nullptr;
    }
    CHECK(thrown);

    try { // an exception that passes a recorder cuts its run short
        recorder cut = recorder::open(bnt_options_make(argv[1], "thrown"));
        cut.record(tap("logits", -1, 0), tensor(doubles.data(), {6}));
        throw std::runtime_error("the engine's");
    } catch (const std::runtime_error &) {
    }
    recorder failed = recorder::open(bnt_options_make(argv[1], "failed"));
    failed.record(tap("logits", -1, 0), tensor(doubles.data(), {6}));
    failed.fail("no memory for the context");
    bnt_error error = bnt_error_make();
    CHECK(failed.close(&error) == BNT_ERR_INCOMPLETE && std::strstr(error.message, "no memory for the context"));
    return 0; // rec seals itself
}
