#include <bitnet_trace.hpp>

int main() {
    const float values[4] = {1, 2, 3, 4};
    auto rec = bitnet_trace::recorder::from_env("package-cpp", "1");
    return BNT_RECORD(rec, bitnet_trace::tap("logits", -1, 0), bitnet_trace::tensor(values, {4}));
}
