// Runs a GGUF model greedily with llama.cpp; records it when BITNET_TRACE_DIR is set.
//
// args.cpp reads the command line, engine.cpp drives llama.cpp, recording.cpp
// tells the recorder what was run. Every error ends here, with exit code 2.

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "args.hpp"
#include "engine.hpp"
#include "recording.hpp"

namespace {

constexpr int exit_ok = 0;
constexpr int exit_error = 2;

using runner::Args;

struct Generated {
    std::vector<llama_token> fed;        // the continuation: forced ids, then the model's own
    std::vector<llama_token> predicted;  // the argmax at each step
};

Generated generate(runner::Engine &engine, const runner::Recording &recording, const Args &args,
                   const std::vector<llama_token> &prompt) {
    Generated out;
    recording.check_replay();
    llama_token next = engine.decode(prompt);
    recording.check_replay();
    const auto count = static_cast<std::size_t>(args.max_tokens);
    while (out.fed.size() < count) {
        const bool forced = out.fed.size() < args.teacher_force.size();
        const llama_token token = forced ? args.teacher_force[out.fed.size()] : next;
        out.predicted.push_back(next);
        out.fed.push_back(token);
        const bool ends = !forced && !args.ignore_eos && engine.is_end(token);
        if (!args.print_tokens && !ends) {
            const std::string text = engine.piece(token);
            std::fwrite(text.data(), 1, text.size(), stdout);
            std::fflush(stdout);
        }
        if (ends || out.fed.size() == count) break;
        next = engine.decode({token});
        recording.check_replay();
    }
    return out;
}

void print_list(const char *name, const std::vector<llama_token> &ids, const char *end) {
    std::printf("\"%s\":[", name);
    for (std::size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i ? "," : "", static_cast<int>(ids[i]));
    std::printf("]%s", end);
}

int run(const Args &args) {
    runner::Engine engine(args);
    engine.check_ids("--tokens", args.tokens);
    engine.check_ids("--teacher-force", args.teacher_force);
    const std::vector<llama_token> prompt = args.prompt ? engine.tokenize(*args.prompt, args.parse_special) : args.tokens;

    // The last sampled token is not fed, so it needs no position.
    const std::size_t generated = args.max_tokens > 0 ? static_cast<std::size_t>(args.max_tokens) - 1 : 0;
    runner::Recording recording(args, prompt.size());
    engine.start(prompt.size() + generated, recording.callback());
    const Generated out = generate(engine, recording, args, prompt);
    recording.close();

    if (args.print_tokens) {
        std::printf("{");
        print_list("prompt_tokens", prompt, ",");
        print_list("generated_tokens", out.fed, ",");
        print_list("predicted_tokens", out.predicted, "}");
    }
    std::printf("\n");
    if (std::fflush(stdout) != 0) {
        std::fprintf(stderr, "cpp-runner: could not write to stdout\n");
        return exit_error;
    }
    return exit_ok;
}

}  // namespace

int main(int argc, char **argv) {
    try {
        const Args args = runner::parse_args(argc, argv);
        if (args.help) {
            std::fputs(runner::usage(), stdout);
            return exit_ok;
        }
        return run(args);
    } catch (const runner::UsageError &error) {
        std::fprintf(stderr, "cpp-runner: %s\nTry cpp-runner --help\n", error.what());
    } catch (const std::bad_alloc &) {
        std::fprintf(stderr, "cpp-runner: out of memory\n");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cpp-runner: %s\n", error.what());
    } catch (...) {
        std::fprintf(stderr, "cpp-runner: unknown error\n");
    }
    return exit_error;
}
