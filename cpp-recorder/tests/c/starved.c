/* A host in which every allocation fails for a while, whoever asks. argv[1]: a directory. */
#define _POSIX_C_SOURCE 200809L
#include "bitnet_trace.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* glibc's own, under the names that remain when a program has a malloc of its own */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static int failing = 0;
static long failed = 0;

static int fails(void) {
    if (!__atomic_load_n(&failing, __ATOMIC_SEQ_CST)) return 0;
    __atomic_fetch_add(&failed, 1, __ATOMIC_SEQ_CST);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void *aligned_alloc(size_t align, size_t size) { return fails() ? NULL : __libc_memalign(align, size); }
int posix_memalign(void **out, size_t align, size_t size) {
    void *new = fails() ? NULL : __libc_memalign(align, size);
    if (!new) return ENOMEM;
    *out = new;
    return 0;
}

static float values[64 << 10];

static int record(bnt_recorder *rec, const char *stage, int64_t seq, int64_t n) {
    const bnt_tensor tensor = bnt_tensor_make(BNT_F32, values, sizeof(float) * (size_t)n, 1, &n);
    const bnt_tap tap = bnt_tap_make(stage, 3, seq);
    return bnt_record(rec, &tap, &tensor);
}

static void pause_ms(long ms) {
    const struct timespec time = {0, ms * 1000000};
    nanosleep(&time, NULL);
}

int main(int argc, char **argv) {
    const int32_t ids[3] = {1, 2, 3};
    bnt_options options;
    bnt_recorder *rec;
    int64_t i, recorded = 0, dropped = 0;
    int code = BNT_DROPPED, tries;
    CHECK(argc == 2);
    options = bnt_options_make(argv[1], "starved");
    rec = bnt_open(&options, NULL);
    CHECK(rec != NULL && record(rec, "q_proj", 0, 100) == BNT_OK);

    __atomic_store_n(&failing, 1, __ATOMIC_SEQ_CST);
    for (i = 1; i < 300; i++) {
        bnt_begin_pass(rec);
        bnt_tokens(rec, 0, i * 100, ids, 3);
        code = record(rec, i % 2 ? "k_proj" : "a stage whose name is a good deal longer than any before it", i, 1 + i * 200);
        CHECK(code == BNT_OK || code == BNT_DROPPED);
        code == BNT_OK ? recorded++ : dropped++;
        bnt_drop(rec, "v_proj", 1, i % 2 ? "no memory in the engine" : "none at all");
        if (i % 100 == 0) pause_ms(50);
    }
    CHECK(bnt_set(rec, "note", "while there is no memory") == BNT_OK);
    CHECK(bnt_site_make(rec, "q_proj") != NULL || bnt_is_on(rec));
    pause_ms(50);
    __atomic_store_n(&failing, 0, __ATOMIC_SEQ_CST);
    CHECK(failed > 0 && dropped > 0);

    /* memory is there again: as soon as the writer has let go of the reserve, tensors are taken */
    for (tries = 0; tries < 400 && record(rec, "logits", 1000, 100) != BNT_OK; tries++) pause_ms(5);
    code = bnt_close(rec, NULL);
    CHECK(code == BNT_OK);
    printf("%ld %ld\n", (long)recorded, (long)dropped + tries);
    return tries == 400;
}
