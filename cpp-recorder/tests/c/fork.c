/* A host that forks while it records. argv[1]: a directory. */
#define _POSIX_C_SOURCE 200809L
#include "bitnet_trace.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            _exit(1);                                                            \
        }                                                                        \
    } while (0)

static int record(bnt_recorder *rec, int64_t seq) {
    static float values[1024];
    const int64_t shape[1] = {1024};
    const bnt_tap tap = bnt_tap_make("logits", -1, seq);
    const bnt_tensor tensor = bnt_tensor_make(BNT_F32, values, sizeof values, 1, shape);
    return bnt_record(rec, &tap, &tensor);
}

static void *work(void *pipe) {
    char byte;
    return read(*(int *)pipe, &byte, 1) == 1 ? pipe : NULL;
}

/* More than the queue holds, and nobody to empty it. */
static void child(bnt_recorder *rec) {
    const bnt_tap tap = bnt_tap_make("logits", -1, 0);
    const int32_t id = 1;
    int pipes[2];
    pthread_t thread;
    void *result = NULL;
    int64_t seq;
    alarm(60);
    for (seq = 0; seq < 1000; seq++) CHECK(record(rec, seq) == BNT_DROPPED);
    CHECK(!bnt_is_on(rec) && !bnt_wants(rec, &tap) && bnt_run_name(rec) != NULL);
    bnt_begin_pass(rec);
    bnt_tokens(rec, 0, 7, &id, 1);
    bnt_drop(rec, "logits", -1, "of the child");
    CHECK(bnt_set(rec, "threads", "9") == BNT_OK);
    /* a thread that has the memory, and so the id, of the parent's writer: closing lets it be */
    CHECK(pipe(pipes) == 0 && pthread_create(&thread, NULL, work, &pipes[0]) == 0);
    CHECK(bnt_close(rec, NULL) == BNT_ERR_INCOMPLETE);
    CHECK(write(pipes[1], "x", 1) == 1);
    CHECK(pthread_join(thread, &result) == 0 && result == &pipes[0]);
    exit(0);
}

int main(int argc, char **argv) {
    bnt_options options;
    bnt_recorder *rec;
    int64_t seq;
    pid_t pid;
    int status = 0;
    CHECK(argc == 2);
    options = bnt_options_make(argv[1], "parent");
    options.queue_bytes = 64 << 10;
    rec = bnt_open(&options, NULL);
    CHECK(rec != NULL);
    for (seq = 0; seq < 10; seq++) CHECK(record(rec, seq) == BNT_OK);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) child(rec);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (; seq < 20; seq++) CHECK(record(rec, seq) == BNT_OK);
    CHECK(bnt_close(rec, NULL) == BNT_OK);
    return 0;
}
