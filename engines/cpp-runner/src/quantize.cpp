// Writes a copy of a GGUF model in another type, by the engine's own quantiser.
//
//   gguf-quantize INPUT OUTPUT TYPE

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <llama.h>

namespace {

struct Type {
    const char *name;
    llama_ftype ftype;
};

constexpr Type types[] = {
    {"f16", LLAMA_FTYPE_MOSTLY_F16},     {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},   {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},
    {"tq1_0", LLAMA_FTYPE_MOSTLY_TQ1_0}, {"tq2_0", LLAMA_FTYPE_MOSTLY_TQ2_0},
#ifdef LLAMA_HAS_I2_S
    {"i2_s", LLAMA_FTYPE_MOSTLY_I2_S},
#endif
};

void print_errors(ggml_log_level level, const char *text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

}  // namespace

int main(int argc, char **argv) {
    const Type *type = nullptr;
    for (const Type &one : types) {
        if (argc == 4 && std::strcmp(argv[3], one.name) == 0) type = &one;
    }
    if (!type) {
        std::fprintf(stderr, "usage: gguf-quantize INPUT OUTPUT TYPE\nTYPE is what this engine has of:");
        for (const Type &one : types) std::fprintf(stderr, " %s", one.name);
        std::fprintf(stderr, "\nExit code: 0 done, 2 any error.\n");
        return 2;
    }
    llama_log_set(print_errors, nullptr);
    llama_backend_init();
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = type->ftype;
    // A tensor of I2_S has one scale; several threads would each write one into the middle of it.
    params.nthread = 1;
    const bool done = llama_model_quantize(argv[1], argv[2], &params) == 0;
    llama_backend_free();
    if (!done) std::fprintf(stderr, "gguf-quantize: can't quantise %s to %s as %s\n", argv[1], argv[2], type->name);
    return done ? 0 : 2;
}
