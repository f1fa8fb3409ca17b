/* Uses every function of the C interface, rightly and wrongly. argv[1]: what to do; argv[2]: a directory. */
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

static bnt_tensor matrix(void) { return bnt_tensor_make(BNT_F32, VALUES, sizeof VALUES, 2, SHAPE); }

/* Everything is a no-op on a NULL recorder. */
static void null_handles(void) {
    bnt_error error = bnt_error_make();
    bnt_tap tap = bnt_tap_make("q_proj", 0, 0);
    bnt_tensor tensor = matrix();
    CHECK(!bnt_is_on(NULL) && !bnt_wants(NULL, &tap) && !bnt_run_name(NULL) && !bnt_run_dir(NULL));
    bnt_begin_pass(NULL);
    bnt_tokens(NULL, 0, 0, NULL, 4);
    bnt_drop(NULL, NULL, 0, NULL);
    CHECK(bnt_record(NULL, &tap, &tensor) == BNT_OK);
    CHECK(bnt_record(NULL, NULL, NULL) == BNT_OK);
    CHECK(bnt_set_model(NULL, "m") == BNT_OK && bnt_set(NULL, "threads", "1") == BNT_OK);
    CHECK(bnt_close(NULL, &error) == BNT_OK && error.code == BNT_OK);
    CHECK(bnt_close(NULL, NULL) == BNT_OK);
    CHECK(bnt_from_env("e", "1") == NULL && bnt_global("e", "1") == NULL); /* no BITNET_TRACE_DIR here */
}

static void full_run(const char *dir, const char *model) {
    bnt_error error = bnt_error_make();
    bnt_options options = bnt_options_make(dir, "c");
    bnt_recorder *rec;
    bnt_tap tap;
    bnt_tensor tensor;
    const int32_t ids[3] = {504, -1, 282};
    const int64_t positions[3] = {7, 3, 3};
    const int32_t requests[3] = {0, 1, 2};
    const int64_t transposed[2] = {4, 3}, strides[2] = {4, 16}, reversed[2] = {-16, -4}, odd[2] = {6, 4};
    const int64_t negative[2] = {-3, 4};

    options.engine = "c-engine";
    options.engine_version = "2";
    options.queue_bytes = 1 << 20;
    rec = bnt_open(&options, &error);
    CHECK(rec != NULL && error.code == BNT_OK && error.message[0] == '\0');
    CHECK(bnt_is_on(rec) && strcmp(bnt_run_name(rec), "c") == 0 && strstr(bnt_run_dir(rec), "run=c") != NULL);
    CHECK(bnt_set_model(rec, model) == BNT_OK && bnt_set_model(rec, NULL) == BNT_ERR_ARGUMENT);
    CHECK(bnt_set(rec, "threads", "1") == BNT_OK && bnt_set(rec, "rope_base", "10000") == BNT_OK);
    CHECK(bnt_set(rec, "threads", "one") == BNT_ERR_ARGUMENT && bnt_set(rec, NULL, NULL) == BNT_ERR_ARGUMENT);
    bnt_begin_pass(rec);
    bnt_tokens(rec, 0, 0, ids, 3);
    bnt_tokens(rec, 0, 0, NULL, 3);

    /* op_index 0: a batch of three tokens */
    tensor = matrix();
    tap = bnt_tap_make("q_proj", 2, 5);
    tap.token_axis = 0;
    tap.name = "Qcur-2";
    tap.op = "MUL_MAT";
    CHECK(bnt_wants(rec, &tap) && bnt_record(rec, &tap, &tensor) == BNT_OK);
    /* 1: positions and requests of its own, transposed */
    tap.token_axis = 1;
    tap.positions = positions;
    tap.requests = requests;
    tap.n_tokens = 3;
    tensor.shape = transposed;
    tensor.byte_strides = strides;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);
    /* 2: one token, read backwards, name that is not UTF-8 */
    tap = bnt_tap_make("v_proj", 2, 5);
    tap.name = "\xff";
    tensor = matrix();
    tensor.byte_strides = reversed;
    tensor.byte_offset = 44;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);
    /* 3: no dimensions, not aligned */
    tensor = bnt_tensor_make(BNT_I64, (const char *)VALUES + 1, 8, 0, NULL);
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);
    /* 4: no elements, no data */
    {
        const int64_t none[2] = {1, 0};
        tensor = bnt_tensor_make(BNT_F16, NULL, 0, 2, none);
        CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);
    }

    /* eighteen tensors that can't be recorded, with the code that says whose fault it is */
    tensor = matrix();
    CHECK(bnt_record(rec, NULL, &tensor) == BNT_ERR_ARGUMENT);
    CHECK(bnt_record(rec, &tap, NULL) == BNT_ERR_ARGUMENT);
    tap.struct_size = 8;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    CHECK(!bnt_wants(rec, &tap) && !bnt_wants(rec, NULL));
    tap = bnt_tap_make("v_proj", 2, 5);
    tensor.struct_size = 0;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.data = NULL;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.shape = NULL;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.shape = negative;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.n_dims = -1;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor.n_dims = BNT_MAX_DIMS + 1;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.byte_offset = 3;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.data_size = (size_t)-1;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_ERR_ARGUMENT);
    tensor = matrix(), tensor.dtype = 99;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tensor = matrix(), tensor.byte_strides = odd;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tensor = matrix(), tensor.data_size = 47;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tensor = matrix(), tap.stage = NULL;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tap = bnt_tap_make("v_proj", 2, 5), tap.positions = positions;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    tap = bnt_tap_make("v_proj", 2, 5), tap.token_axis = 2;
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    bnt_drop(rec, "kqv", 1, "type Q8_1");

    CHECK(bnt_close(rec, &error) == BNT_OK);
}

/* What bnt_open refuses, and how it says so. */
static void refused(const char *dir) {
    bnt_error error = bnt_error_make();
    bnt_error small = bnt_error_make();
    bnt_options options = bnt_options_make("/proc/nowhere", "x");
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_IO);
    CHECK(strstr(error.message, "/proc/nowhere") != NULL);
    CHECK(bnt_open(&options, NULL) == NULL);
    options = bnt_options_make(dir, "../x");
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    options = bnt_options_make(NULL, NULL);
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    options = bnt_options_make(dir, "x");
    options.values = 7;
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    options = bnt_options_make(dir, "x");
    options.preset = 3;
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    CHECK(strstr(error.message, "BNT_PRESET_DURABLE") != NULL);
    options = bnt_options_make(dir, "x");
    options.dequantize = -1;
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    options.struct_size = 4;
    CHECK(bnt_open(&options, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    CHECK(strstr(error.message, "struct_size") != NULL);
    CHECK(bnt_open(NULL, &error) == NULL && error.code == BNT_ERR_ARGUMENT);
    small.struct_size = 8; /* too small to hold a message: not written to */
    CHECK(bnt_open(NULL, &small) == NULL && small.code == BNT_OK);
}

/* The process-wide recorder, which is not closed. */
static void global(void) {
    bnt_recorder *rec = bnt_global("c-engine", "2");
    bnt_tap tap = bnt_tap_make("logits", -1, 0);
    bnt_tensor tensor = matrix();
    CHECK(rec != NULL && rec == bnt_global("other", "3"));
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_OK);
}

/* More than a page of tensors, on a system that lets no file grow beyond that. */
static void flood(void) {
    static float values[4096];
    const int64_t shape[1] = {4096};
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, values, sizeof values, 1, shape);
    bnt_recorder *rec = bnt_global("c-engine", "2");
    int64_t seq;
    CHECK(rec != NULL);
    for (seq = 0; seq < 100; seq++) {
        bnt_tap tap = bnt_tap_make("logits", -1, seq);
        int code = bnt_record(rec, &tap, &tensor);
        CHECK(code == BNT_OK || code == BNT_DROPPED);
    }
}

/* A tensor that the system has no memory to copy, among others. */
static void starved(void) {
    const int64_t shape[1] = {(int64_t)400 << 20}, broadcast[1] = {0};
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, VALUES, sizeof VALUES, 1, shape);
    bnt_tensor small = matrix();
    bnt_recorder *rec = bnt_global("c-engine", "2");
    bnt_tap tap = bnt_tap_make("logits", -1, 0);
    CHECK(rec != NULL);
    tensor.byte_strides = broadcast;
    CHECK(bnt_record(rec, &tap, &small) == BNT_OK);
    CHECK(bnt_record(rec, &tap, &tensor) == BNT_DROPPED);
    CHECK(bnt_record(rec, &tap, &small) == BNT_OK);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    CHECK(bnt_abi_version() == BNT_ABI_VERSION);
    if (strcmp(argv[1], "run") == 0) {
        null_handles();
        full_run(argv[2], argv[0]);
        refused(argv[2]);
    } else if (strcmp(argv[1], "global") == 0) {
        global();
    } else if (strcmp(argv[1], "closed-global") == 0) {
        global();
        CHECK(bnt_close(bnt_global(NULL, NULL), NULL) == BNT_OK);
        CHECK(!bnt_is_on(bnt_global(NULL, NULL)));
        CHECK(bnt_close(bnt_global(NULL, NULL), NULL) == BNT_OK);
    } else if (strcmp(argv[1], "flood") == 0) {
        flood();
    } else if (strcmp(argv[1], "starved") == 0) {
        starved();
    } else if (strcmp(argv[1], "off") == 0) {
        CHECK(bnt_from_env("e", "1") == NULL && bnt_global("e", "1") == NULL);
    } else {
        return 1;
    }
    printf("the engine's output\n");
    return 0;
}
