/* C99 and C++17, with and without BITNET_TRACE_DISABLE: every function is called with arguments that count how often
 * they are evaluated. Prints that count. */
#include "bitnet_trace.h"

#include <stdio.h>
#include <string.h>

static int evaluated = 0;

static const char *text(const char *s) { return evaluated++, s; }
static int32_t number(int32_t n) { return evaluated++, n; }
static bnt_recorder *off(void) { return evaluated++, (bnt_recorder *)NULL; }
static bnt_recorder *of_file = NULL;

int main(void) {
    const float values[2] = {1, 2};
    const int64_t shape[1] = {2};
    bnt_recorder *rec = bnt_global(text("engine"), text("1"));
    bnt_error error = bnt_error_make();
    bnt_options options = bnt_options_make(text("/proc/nowhere"), text("run"));
    bnt_tap tap = bnt_tap_make(text("q_proj"), number(0), number(0));
    bnt_tensor tensor = bnt_tensor_make(number(BNT_F32), values, sizeof values, number(1), shape);
    const char *only_recorded = "threads"; /* what nothing but a call uses is not unused */
    bnt_site *site = bnt_site_make(off(), text("q_proj"));
    int code = BNT_OK;
    options.queue_bytes = 1 << 20;
    tap.token_axis = 0;
    tensor.byte_offset = 0;

    of_file = bnt_from_env(text("engine"), text("1"));
    if (of_file || bnt_open((evaluated++, rec ? NULL : &options), &error) || bnt_is_on(off())) return 1;
    if (bnt_wants(off(), &tap) || bnt_run_name(off()) || bnt_run_dir(off())) return 1;
    if (site || bnt_site_wants((evaluated++, site), number(0))) return 1;
    code |= bnt_site_record((evaluated++, site), &tap, &tensor);
    bnt_site_record(site, &tap, &tensor);
    bnt_site_free((evaluated++, site));
    bnt_begin_pass(off());
    bnt_tokens(off(), number(0), number(0), NULL, 0);
    bnt_drop(off(), text("q_proj"), number(0), text("reason"));
    bnt_fail(off(), text("cause"));
    bnt_set(rec, only_recorded, "1");
    code |= bnt_record(off(), &tap, &tensor) | bnt_set_model(off(), text("m")) | bnt_set(off(), text("k"), text("v"));
    bnt_record(rec, &tap, &tensor);
#ifndef __cplusplus
    code |= bnt_record(off(), &tap, &(bnt_tensor){sizeof(bnt_tensor), BNT_F32, values, 8, 0, shape, NULL, 1, 0});
#endif
    code |= bnt_close(off(), &error);
    bnt_close(rec, NULL);
    if (code != BNT_OK || bnt_abi_version() != BNT_ABI_VERSION) return 1;
    printf("%d\n", evaluated);
    return 0;
}
