/* Records with a selection: argv[1] says whose; argv[2]: a directory. */
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

static const float VALUES[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
static const int64_t SHAPE[2] = {3, 4};

static bnt_tap batch(const char *stage, int32_t layer) {
    bnt_tap tap = bnt_tap_make(stage, layer, 0);
    tap.token_axis = 0;
    return tap;
}

/* Three tokens each of two tensors. */
static void engine(bnt_recorder *rec) {
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, VALUES, sizeof VALUES, 2, SHAPE);
    bnt_tap wanted = batch("attn_out", 6), other = batch("ffn_norm", 6);
    bnt_begin_pass(rec);
    CHECK(bnt_record(rec, &wanted, &tensor) == BNT_OK && bnt_record(rec, &other, &tensor) == BNT_OK);
}

static void options(const char *dir) {
    const int64_t known[2] = {0, 3}, some[2] = {3, 2};
    bnt_error error = bnt_error_make();
    bnt_options o = bnt_options_make(dir, "wrong");
    bnt_tap tap;
    bnt_recorder *rec;

    o.select = "layer=six";
    CHECK(bnt_open(&o, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    CHECK(strstr(error.message, "column 7, \"six\"") != NULL);

    o = bnt_options_make(dir, "some");
    o.select = " seq=1-2, layer=6, stage=attn_* ";
    rec = bnt_open(&o, &error);
    CHECK(rec != NULL);
    tap = batch("attn_out", 6);
    CHECK(bnt_wants(rec, &tap));
    tap.positions = known, tap.n_tokens = 2;
    CHECK(!bnt_wants(rec, &tap));
    tap.positions = some;
    CHECK(bnt_wants(rec, &tap));
    tap = bnt_tap_make("attn_out", 6, -1);
    CHECK(bnt_wants(rec, &tap));
    tap = bnt_tap_make("attn_out", 5, -1);
    CHECK(!bnt_wants(rec, &tap));
    tap = bnt_tap_make("attn_out", 6, 0);
    CHECK(!bnt_wants(rec, &tap));
    engine(rec);
    bnt_drop(rec, "attn_out", 5, "not selected");
    bnt_drop(rec, "attn_out", 6, "selected");
    bnt_drop(rec, NULL, 0, "of no stage");
    CHECK(bnt_close(rec, &error) == BNT_OK);

    /* the header's first version ends before `select`, which is not read */
    o = bnt_options_make(dir, "older");
    o.struct_size = (uint32_t)offsetof(bnt_options, select);
    o.select = (const char *)1;
    rec = bnt_open(&o, &error);
    CHECK(rec != NULL);
    engine(rec);
    CHECK(bnt_close(rec, &error) == BNT_OK);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    if (strcmp(argv[1], "options") == 0) {
        options(argv[2]);
    } else {
        engine(bnt_global("c-engine", "2"));
    }
    printf("the engine's output\n");
    return 0;
}
