/* Records tensors of packed blocks; argv[1]: a directory. */
#include "bitnet_trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

enum { BLOCK = 34 };

int main(int argc, char **argv) {
    /* a cache of 4 cells, 2 heads of 64: 16 blocks of Q8_0, each with the scale 1 and its number 32 times */
    unsigned char cache[16 * BLOCK];
    /* two of the cells, as ggml shows them: the strides are those of its nb */
    const int64_t shape[3] = {2, 2, 64}, flat[1] = {48};
    const int64_t strides[3] = {4 * BLOCK, 2 * BLOCK, BLOCK}, split[3] = {4 * BLOCK, BLOCK + 1, BLOCK};
    bnt_error error = bnt_error_make();
    bnt_tensor tensor;
    bnt_options options;
    bnt_tap tap = bnt_tap_make("k_cache", 0, 5);
    bnt_recorder *rec;
    int i;

    CHECK(argc == 2);
    for (i = 0; i < 16; ++i) {
        memset(cache + i * BLOCK, i, BLOCK);
        cache[i * BLOCK] = 0x00;
        cache[i * BLOCK + 1] = 0x3c;
    }
    options = bnt_options_make(argv[1], "packed");
    rec = bnt_open(&options, &error);
    CHECK(rec);
    tap.token_axis = 0;
    tensor = bnt_tensor_make(BNT_Q8_0, cache, sizeof cache, 3, shape);
    tensor.byte_strides = strides;
    tensor.byte_offset = 4 * BLOCK;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);

    tensor.byte_strides = split;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tensor.byte_strides = NULL;
    tensor.byte_offset = 2;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tap.token_axis = -1;
    tensor = bnt_tensor_make(BNT_Q8_0, cache, sizeof cache, 1, flat);
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    CHECK(bnt_close(rec, &error) == BNT_OK);
    return 0;
}
