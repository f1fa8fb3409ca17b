/* Tracepoints that are made once and ask before a tensor is made ready. argv[1]: a directory. */
#define _POSIX_C_SOURCE 200809L
#include "bitnet_trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

static const float VALUES[4] = {1, 2, 3, 4};
static const int64_t SHAPE[1] = {4};

static int record(const bnt_site *site, int32_t layer, int64_t seq) {
    const bnt_tensor tensor = bnt_tensor_make(BNT_F32, VALUES, sizeof VALUES, 1, SHAPE);
    const bnt_tap tap = bnt_tap_make(NULL, layer, seq);
    return bnt_site_record(site, &tap, &tensor);
}

/* The layers in which a site wants its stage, of those that the test asks for. */
static int wanted(const bnt_site *site, const int32_t *layers, int n) {
    int i, found = 0;
    for (i = 0; i < n; i++) found |= bnt_site_wants(site, layers[i]) << i;
    return found;
}

static void sites(const char *dir) {
    const int32_t layers[8] = {-2, -1, 0, 6, 60, 61, 1000, INT32_MAX};
    bnt_options options = bnt_options_make(dir, "some");
    bnt_site *attn_out, *logits, *none;
    bnt_recorder *rec;
    pid_t pid;
    int status = 0;

    CHECK(bnt_site_make(NULL, "q_proj") == NULL && !bnt_site_wants(NULL, 0) && record(NULL, 0, 0) == BNT_OK);
    CHECK(!bnt_site_confirm(NULL, 0));
    bnt_site_free(NULL);

    options.select = "layer=6|61|1000,stage=attn_*;stage=logits";
    rec = bnt_open(&options, NULL);
    CHECK(rec != NULL);
    attn_out = bnt_site_make(rec, "attn_out");
    logits = bnt_site_make(rec, "logits");
    none = bnt_site_make(rec, "ffn_norm");
    CHECK(wanted(attn_out, layers, 8) == (1 << 3 | 1 << 5 | 1 << 6));
    CHECK(bnt_site_wants(logits, -1) && wanted(none, layers, 8) == 0);
    CHECK(record(attn_out, 6, 0) == BNT_OK && record(attn_out, 61, 1) == BNT_OK);
    CHECK(record(attn_out, 5, 0) == BNT_OK && record(attn_out, 62, 0) == BNT_OK); /* not selected */
    CHECK(record(logits, -1, 2) == BNT_OK && record(none, 6, 0) == BNT_OK);
    CHECK(bnt_site_record(logits, NULL, NULL) == BNT_ERR_ARGUMENT); /* counted */

    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(bnt_site_wants(attn_out, 6) || bnt_site_wants(logits, -1));
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);

    CHECK(bnt_site_wants(attn_out, 6));
    CHECK(bnt_close(rec, NULL) == BNT_OK);
    CHECK(!bnt_site_wants(attn_out, 6) && !bnt_site_wants(attn_out, 61) && !bnt_site_wants(logits, -1));
    CHECK(record(attn_out, 6, 9) != BNT_ERR_PANIC);
    bnt_site_free(attn_out);
    bnt_site_free(logits);
    bnt_site_free(none);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    sites(argv[1]);
    return 0;
}
