/* A host that says its memory is larger than it is: the tools that the tests run under must see that. */
#include "bitnet_trace.h"

#include <stdlib.h>

int main(int argc, char **argv) {
    const int64_t shape[2] = {3, 4}, strides[2] = {4, 12};
    void *values = calloc(1, 40);
    bnt_options options = bnt_options_make(argv[argc - 1], "lie");
    bnt_recorder *rec = bnt_open(&options, NULL);
    bnt_tap tap = bnt_tap_make("q_proj", 0, 0);
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, values, 48, 2, shape);
    tensor.byte_strides = strides;
    bnt_record(rec, &tap, &tensor);
    bnt_close(rec, NULL);
    free(values);
    return 0;
}
