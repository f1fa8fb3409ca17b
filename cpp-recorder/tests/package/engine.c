#include <bitnet_trace.h>

int main(void) {
    const float values[4] = {1, 2, 3, 4};
    const int64_t shape[1] = {4};
    bnt_recorder *rec = bnt_global("package-c", "1");
    bnt_tap tap = bnt_tap_make("logits", -1, 0);
    bnt_tensor tensor = bnt_tensor_make(BNT_F32, values, sizeof values, 1, shape);
    return bnt_abi_version() != BNT_ABI_VERSION || bnt_record(rec, &tap, &tensor) != BNT_OK;
}
