/* A host that shows its callback a graph of two tokens, and in it what no engine should. Prints how many nodes were asked for
 * and how often its own callback was called. */
#include "ggml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool own(struct ggml_tensor *t, bool ask, void *calls) {
    (void)t;
    ++*(int *)calls;
    return !ask;
}

int main(int argc, char **argv) {
    static float values[64];
    static int32_t ids[2] = {7, 9}, positions[2] = {0, 1};
    struct ggml_init_params params = {1 << 16, NULL, true};
    void *context = ggml_init(params);
    for (int i = 0; i < 64; ++i) values[i] = (float)i;
    values[3] = NAN;
    values[5] = INFINITY;

    struct ggml_tensor *inputs[2], *nodes[9];
    for (int i = 0; i < 2; ++i) {
        inputs[i] = ggml_new_tensor_4d(context, 26, 2, 1, 1, 1);
        inputs[i]->data = i ? (void *)positions : (void *)ids;
    }
    static const struct { const char *name; int op; } made[9] = {
        {"embd", 4}, {"attn_norm-0", 6}, {"Qcur-0", 1}, {"Qcur-0", 5}, {"ffn_norm-0", 6},
        {"ffn_gate-0", 1}, {"ffn_up-0", 1}, {"ffn_out-0", 1}, {"result_output", 1},
    };
    for (int i = 0; i < 9; ++i) {
        nodes[i] = ggml_new_tensor_4d(context, 0, 4, i == 3 ? 1 : 2, i == 3 ? 2 : 1, 1);
        ggml_set_name(nodes[i], made[i].name);
        nodes[i]->op = made[i].op;
        nodes[i]->data = values;
        nodes[i]->buffer = ggml_backend_cpu_buffer_from_ptr(values, sizeof values);
    }
    nodes[0]->src[1] = inputs[0];
    nodes[3]->src[1] = inputs[1];
    if (argc > 1 && strcmp(argv[1], "odd") == 0) {
        nodes[1]->buffer = NULL;         /* read where its data says */
        nodes[4]->type = 9999;           /* no element type */
        nodes[5]->type = 63;             /* a number of no type, within the table of any version */
        nodes[6]->data = NULL;           /* no memory */
        nodes[7]->ne[1] = -1;            /* no extent */
        nodes[2]->op = 1 << 30;          /* no operator: no stage either */
    }

    struct ggml_backend_sched *sched = ggml_backend_sched_new();
    int calls = 0;
    if (argc > 1 && strcmp(argv[1], "chain") == 0) {
        ggml_backend_sched_set_eval_callback(sched, own, &calls);
    } else {
        ggml_backend_sched_set_eval_callback(sched, NULL, NULL);
    }
    int asked = ggml_compute(sched, nodes, 9);
    if (argc > 1 && strcmp(argv[1], "fork") == 0) {
        const pid_t child = fork();
        if (child == 0) {
            asked = ggml_compute(sched, nodes, 9);
            exit(asked);
        }
        int status = 0;
        waitpid(child, &status, 0);
        calls = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    printf("%d %d\n", asked, calls);
    fflush(stdout);
    if (argc > 1 && strcmp(argv[1], "leak") != 0) ggml_backend_sched_free(sched);
    return 0;
}
