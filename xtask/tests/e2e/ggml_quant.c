/* What ggml makes of packed blocks, for comparison: reads stdin, writes stdout.
 *
 *   ggml_quant layout          name, elements and bytes of a block of each type
 *   ggml_quant unpack TYPE     blocks to f32
 *   ggml_quant pack TYPE       f32 to blocks
 */
#include <ggml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Types of intermediate results, which the public table has no conversions for. */
void quantize_row_q8_1_ref(const float *x, void *y, int64_t k);
void quantize_row_q8_K_ref(const float *x, void *y, int64_t k);
void dequantize_row_q8_K(const void *x, float *y, int64_t k);

static enum ggml_type find(const char *name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char *found = ggml_type_name((enum ggml_type)i);
        if (found && strcmp(found, name) == 0) return (enum ggml_type)i;
    }
    fprintf(stderr, "no type %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "layout") == 0) {
        for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
            const enum ggml_type type = (enum ggml_type)i;
            if (ggml_type_size(type)) printf("%s %d %zu\n", ggml_type_name(type), (int)ggml_blck_size(type), ggml_type_size(type));
        }
        return 0;
    }
    if (argc != 3) return 2;
    const enum ggml_type type = find(argv[2]);
    const size_t room = (size_t)1 << 24, size = ggml_type_size(type), block = (size_t)ggml_blck_size(type);
    void *in = malloc(room), *out = malloc(16 * room);
    if (!in || !out) return 2;
    const size_t bytes = fread(in, 1, room, stdin);
    size_t written;
    if (strcmp(argv[1], "unpack") == 0) {
        const int64_t elements = (int64_t)(bytes / size * block);
        const ggml_to_float_t to_float = ggml_get_type_traits(type)->to_float;
        if (to_float) to_float(in, out, elements);
        else if (type == GGML_TYPE_Q8_K) dequantize_row_q8_K(in, out, elements);
        else return 2;
        written = (size_t)elements * sizeof(float);
    } else {
        const int64_t elements = (int64_t)(bytes / sizeof(float));
        if (type == GGML_TYPE_Q8_1) quantize_row_q8_1_ref(in, out, elements);
        else if (type == GGML_TYPE_Q8_K) quantize_row_q8_K_ref(in, out, elements);
        else ggml_quantize_chunk(type, in, out, 0, 1, elements, NULL);
        written = (size_t)elements / block * size;
    }
    return fwrite(out, 1, written, stdout) == written ? 0 : 2;
}
