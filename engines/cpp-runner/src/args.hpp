// Command line of the runner.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace runner {

// A mistake on the command line: its message says which argument and why.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Args {
    std::string model;
    std::optional<std::string> prompt;
    std::vector<std::int32_t> tokens;         // used when there is no prompt text
    std::vector<std::int32_t> teacher_force;  // continuation to feed instead of the argmax
    std::int32_t max_tokens = 16;
    std::int32_t threads = 1;
    std::int32_t batch = 512;
    ggml_type kv_type = GGML_TYPE_F32;
    bool flash_attention = false;
    bool parse_special = false;
    bool ignore_eos = false;
    bool print_tokens = false;
    bool help = false;
};

Args parse_args(int argc, const char *const *argv);

// What --help prints.
const char *usage();

}  // namespace runner
