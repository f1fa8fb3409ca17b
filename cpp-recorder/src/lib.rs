//! C ABI, C++ headers and ggml adapter of the bitnet-diff recorder.
