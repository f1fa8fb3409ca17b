/* A run replayed into a C program: replay DIR. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitnet_trace.h"

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

static const float STORED[6] = {1, 2, 3, 4, 5, 6};
static const int64_t SHAPE[2] = {2, 3};
static const int32_t IDS[2] = {7, 8};

static bnt_recorder *open_run(const char *dir, const char *run, const char *replay) {
    bnt_options o = bnt_options_make(dir, run);
    bnt_error error = bnt_error_make();
    o.engine = "c-engine";
    o.replay = replay;
    bnt_recorder *rec = bnt_open(&o, &error);
    if (error.code != BNT_OK) fprintf(stderr, "%s\n", error.message);
    return rec;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/run=a", argv[1]);
    bnt_error error = bnt_error_make();
    bnt_tap tap = bnt_tap_make("q_proj", 1, 0);
    tap.token_axis = 0;

    float data[8];
    memcpy(data, STORED, sizeof STORED);
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, data, sizeof STORED, 2, SHAPE);
    bnt_recorder *a = open_run(argv[1], "a", NULL);
    CHECK(a != NULL);
    bnt_begin_pass(a);
    bnt_tokens(a, 0, 0, IDS, 2);
    CHECK(bnt_replay(a, &tap, &tensor) == BNT_OK); /* nothing to replay: recorded */
    CHECK(bnt_replay_error(a, &error) == BNT_OK && error.code == BNT_OK);
    CHECK(bnt_close(a, NULL) == BNT_OK);

    /* Columns of a larger matrix, written where they stand and nowhere else. */
    const int64_t strides[2] = {4, 8};
    bnt_recorder *b = open_run(argv[1], "b", path);
    CHECK(b != NULL);
    bnt_begin_pass(b);
    bnt_tokens(b, 0, 0, IDS, 2);
    for (int i = 0; i < 8; i++) data[i] = -1.0f;
    tensor.data_size = sizeof data;
    tensor.byte_strides = strides;
    CHECK(bnt_replay(b, &tap, &tensor) == BNT_REPLAYED);
    for (int i = 0; i < 6; i++) CHECK(data[i / 3 + 2 * (i % 3)] == STORED[i]);
    CHECK(data[6] == -1.0f && data[7] == -1.0f);
    CHECK(bnt_close(b, NULL) == BNT_OK);

    /* Another token stops the replay; the program goes on, and is told. */
    bnt_recorder *c = open_run(argv[1], "c", path);
    const int32_t other[2] = {7, 9};
    bnt_begin_pass(c);
    bnt_tokens(c, 0, 0, other, 2);
    data[0] = -1.0f;
    CHECK(bnt_replay(c, &tap, &tensor) == BNT_ERR_REPLAY && data[0] == -1.0f);
    CHECK(bnt_replay_error(c, &error) == BNT_ERR_REPLAY && strstr(error.message, "seq=1 is 9 here") != NULL);
    CHECK(bnt_replay(c, NULL, NULL) == BNT_ERR_REPLAY);
    error = bnt_error_make();
    CHECK(bnt_close(c, &error) == BNT_ERR_REPLAY && error.message[0] != '\0');

    CHECK(bnt_replay(NULL, &tap, &tensor) == BNT_OK && bnt_replay_error(NULL, NULL) == BNT_OK);
    snprintf(path, sizeof path, "%s/run=nobody", argv[1]);
    CHECK(open_run(argv[1], "d", path) == NULL);
    return 0;
}
