#include "args.hpp"

#include <charconv>
#include <limits>
#include <string_view>

namespace runner {
namespace {

std::int32_t parse_int(std::string_view flag, std::string_view text, std::int32_t least) {
    std::int32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least) {
        throw UsageError(std::string(flag) + " needs a whole number of at least " + std::to_string(least) + ", not '" +
                         std::string(text) + "'");
    }
    return value;
}

// Token ids, separated by commas or spaces.
std::vector<std::int32_t> parse_ids(std::string_view flag, std::string_view text) {
    std::vector<std::int32_t> ids;
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t end = std::min(text.find_first_of(", \t\n", at), text.size());
        if (end > at) {
            ids.push_back(parse_int(flag, text.substr(at, end - at), 0));
        }
        at = end + 1;
    }
    if (ids.empty()) {
        throw UsageError(std::string(flag) + " needs at least one token id, such as 504,3575,282");
    }
    return ids;
}

bool parse_choice(std::string_view flag, std::string_view text, std::string_view no, std::string_view yes) {
    if (text == no) return false;
    if (text == yes) return true;
    throw UsageError(std::string(flag) + " is " + std::string(no) + " or " + std::string(yes) + ", not '" +
                     std::string(text) + "'");
}

// llama.cpp keeps its cache in more types; these are the usual ones.
ggml_type parse_kv_type(std::string_view flag, std::string_view text) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
        if (text == ggml_type_name(type)) return type;
    }
    throw UsageError(std::string(flag) + " is f32, f16, q8_0 or q4_0, not '" + std::string(text) + "'");
}

}  // namespace

Args parse_args(int argc, const char *const *argv) {
    Args args;
    bool has_tokens = false;
    for (int i = 1; i < argc; ++i) {
        std::string_view flag = argv[i];
        std::optional<std::string_view> attached;
        if (const std::size_t equals = flag.find('='); flag.substr(0, 2) == "--" && equals != std::string_view::npos) {
            attached = flag.substr(equals + 1);
            flag = flag.substr(0, equals);
        }
        const auto value = [&]() -> std::string_view {
            if (attached) return *attached;
            if (i + 1 >= argc) throw UsageError(std::string(flag) + " needs a value");
            return argv[++i];
        };
        if (flag == "--model" || flag == "-m") {
            args.model = value();
        } else if (flag == "--prompt" || flag == "-p") {
            args.prompt = std::string(value());
        } else if (flag == "--tokens") {
            args.tokens = parse_ids(flag, value());
            has_tokens = true;
        } else if (flag == "--teacher-force") {
            args.teacher_force = parse_ids(flag, value());
        } else if (flag == "--max-tokens" || flag == "-n") {
            args.max_tokens = parse_int(flag, value(), 0);
        } else if (flag == "--threads" || flag == "-t") {
            args.threads = parse_int(flag, value(), 1);
        } else if (flag == "--batch" || flag == "-b") {
            args.batch = parse_int(flag, value(), 1);
        } else if (flag == "--kv-type") {
            args.kv_type = parse_kv_type(flag, value());
        } else if (flag == "--flash-attn") {
            args.flash_attention = parse_choice(flag, value(), "off", "on");
        } else if (attached && (flag == "--special" || flag == "--ignore-eos" || flag == "--print-tokens" || flag == "--help")) {
            throw UsageError(std::string(flag) + " takes no value");
        } else if (flag == "--special") {
            args.parse_special = true;
        } else if (flag == "--ignore-eos") {
            args.ignore_eos = true;
        } else if (flag == "--print-tokens") {
            args.print_tokens = true;
        } else if (flag == "--help" || flag == "-h") {
            args.help = true;
            return args;
        } else {
            throw UsageError("unknown argument '" + std::string(argv[i]) + "'");
        }
    }
    if (args.model.empty()) {
        throw UsageError("--model is missing: name a GGUF file");
    }
    if (ggml_is_quantized(args.kv_type) && !args.flash_attention) {
        throw UsageError("--kv-type " + std::string(ggml_type_name(args.kv_type)) + " needs --flash-attn on");
    }
    if (args.prompt.has_value() == has_tokens) {
        throw UsageError(has_tokens ? "give either --prompt or --tokens, not both"
                                    : "--prompt TEXT or --tokens IDS is missing");
    }
    return args;
}

const char *usage() {
    return R"(usage: cpp-runner --model FILE (--prompt TEXT | --tokens IDS) [options]

Runs a GGUF model with llama.cpp, greedily, with logits at every position, and
prints the generated text. Records every tensor of the stage vocabulary when
BITNET_TRACE_DIR names a folder.

  --model FILE          the model, a GGUF file
  --prompt TEXT         prompt, tokenised as the model's metadata says
  --tokens IDS          prompt as token ids: 504,3575,282
  --special             read special tokens such as <|im_start|> in the prompt
  --max-tokens N        generate N tokens (default 16; 0: the prompt only). The last
                        one is sampled but not fed: prompt + N - 1 positions are computed
  --teacher-force IDS   feed these ids as the continuation instead of the most likely ones
  --ignore-eos          go on after an end-of-generation token
  --threads N           compute threads (default 1)
  --batch N             prompt tokens a forward call (default 512)
  --kv-type TYPE        type of the KV cache: f32, f16, q8_0, q4_0 (default f32;
                        the last two need --flash-attn on)
  --flash-attn on|off   fused attention (default off: scores and probabilities exist)
  --print-tokens        one JSON line on stdout with the ids of prompt and
                        continuation, instead of the text
  --help                this text

environment: BITNET_TRACE_DIR, BITNET_TRACE_RUN, BITNET_TRACE_SELECT, BITNET_TRACE_VALUES,
BITNET_TRACE_DEQUANTIZE

examples:
  cpp-runner --model smollm2-135m-q4_1.gguf --prompt "The capital of France is" --max-tokens 8
  cpp-runner --model m.gguf --tokens 504,3575,282 --max-tokens 4 --print-tokens
  BITNET_TRACE_DIR=traces BITNET_TRACE_RUN=cpp cpp-runner --model m.gguf --prompt Hi --max-tokens 4

Exit code: 0 done, 2 any error.
)";
}

}  // namespace runner
