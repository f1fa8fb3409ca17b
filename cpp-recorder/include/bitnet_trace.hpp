// bitnet_trace.hpp: the C interface of bitnet_trace.h with C++17 types. Header-only.
//
//     auto rec = bitnet_trace::recorder::from_env("my-engine", "1.0"); // sealed at the end of its life
//     rec.begin_pass();
//     rec.tokens(0, 0, ids);
//     rec.record(bitnet_trace::tap("attn_norm", layer, 0).token_axis(0),
//                bitnet_trace::tensor(data, {6, 576}));
//
// Nothing here throws or allocates, except recorder::open_or_throw(), which says so. Pointers that a tap or a
// tensor is given must live until record() returns.
//
// With BITNET_TRACE_DISABLE defined, every function is empty and nothing is to be linked; and where BNT_RECORD is
// used in place of recorder::record(), not even its arguments are evaluated.
#ifndef BITNET_TRACE_HPP
#define BITNET_TRACE_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "bitnet_trace.h"

// rec.record(where, what) that is compiled out together with its arguments: BNT_RECORD(rec, where, what).
#ifdef BITNET_TRACE_DISABLE
#define BNT_RECORD(recorder, ...) (true ? static_cast<int>(BNT_OK) : (recorder).record(__VA_ARGS__))
#else
#define BNT_RECORD(recorder, ...) ((recorder).record(__VA_ARGS__))
#endif

namespace bitnet_trace {
#ifdef BITNET_TRACE_DISABLE
inline namespace off { // a program's files need not all be compiled alike
#endif

// The dtype of a C++ element type. Specialise it for half-precision types: `value` is BNT_F16 or BNT_BF16.
template <class T> struct dtype_of;
template <> struct dtype_of<float> { static constexpr std::int32_t value = BNT_F32; };
template <> struct dtype_of<double> { static constexpr std::int32_t value = BNT_F64; };
template <> struct dtype_of<std::int8_t> { static constexpr std::int32_t value = BNT_I8; };
template <> struct dtype_of<std::int16_t> { static constexpr std::int32_t value = BNT_I16; };
template <> struct dtype_of<std::int32_t> { static constexpr std::int32_t value = BNT_I32; };
template <> struct dtype_of<std::int64_t> { static constexpr std::int32_t value = BNT_I64; };
template <> struct dtype_of<std::uint8_t> { static constexpr std::int32_t value = BNT_U8; };
template <> struct dtype_of<bool> { static constexpr std::int32_t value = BNT_BOOL; };

// What open_or_throw() throws; what() says what is wrong, where, and what to try.
class error : public std::runtime_error {
  public:
    error(int code, const char *message) : std::runtime_error(message), code_(code) {}
    int code() const noexcept { return code_; } // BNT_ERR_*

  private:
    int code_;
};

// Where a tensor stands. See bnt_tap.
class tap {
  public:
    tap(const char *stage, std::int32_t layer, std::int64_t seq) noexcept : tap_(bnt_tap_make(stage, layer, seq)) {}

    tap &name(const char *name) noexcept { return tap_.name = name, *this; }
    tap &op(const char *op) noexcept { return tap_.op = op, *this; }
    tap &request(std::int32_t request) noexcept { return tap_.request = request, *this; }
    tap &token_axis(std::int32_t axis) noexcept { return tap_.token_axis = axis, *this; }
    tap &causal_axis(std::int32_t axis) noexcept { return tap_.causal_axis = axis, *this; }
    // Position of each token, and request of each token (or null): n_tokens entries.
    tap &tokens(const std::int64_t *positions, const std::int32_t *requests, std::size_t n_tokens) noexcept {
        tap_.positions = positions;
        tap_.requests = requests;
        tap_.n_tokens = n_tokens;
        return *this;
    }

    const bnt_tap *get() const noexcept { return &tap_; }

  private:
    bnt_tap tap_;
};

// A tensor in memory. See bnt_tensor. One of more than BNT_MAX_DIMS dimensions is refused by the recorder.
class tensor {
  public:
    // Contiguous and row-major; `shape` outermost first. The caller promises that the elements are there.
    template <class T>
    tensor(const T *data, std::initializer_list<std::int64_t> shape) noexcept
        : tensor(dtype_of<T>::value, data, sizeof(T) * count(shape), shape) {}

    tensor(std::int32_t dtype, const void *data, std::size_t bytes,
           std::initializer_list<std::int64_t> shape) noexcept
        : tensor(dtype, data, bytes, shape.begin(), shape.size()) {}

    tensor(std::int32_t dtype, const void *data, std::size_t bytes, const std::int64_t *shape,
           std::size_t n_dims) noexcept
        : tensor_(bnt_tensor_make(dtype, data, bytes, fits(n_dims), nullptr)) {
        for (std::size_t i = 0; i < n_dims && i < BNT_MAX_DIMS; i++) shape_[i] = shape[i];
    }

    // Strides in bytes, one a dimension, and where the first element begins.
    tensor &byte_strides(std::initializer_list<std::int64_t> strides, std::size_t byte_offset = 0) noexcept {
        if (fits(strides.size()) != tensor_.n_dims) tensor_.n_dims = -1; // refused and counted
        std::size_t i = 0;
        for (const auto stride : strides)
            if (i < BNT_MAX_DIMS) strides_[i++] = stride;
        strided_ = true;
        tensor_.byte_offset = byte_offset;
        return *this;
    }

    // The C struct; it points into this object.
    bnt_tensor get() const noexcept {
        bnt_tensor t = tensor_;
        t.shape = shape_;
        t.byte_strides = strided_ ? strides_ : nullptr;
        return t;
    }

  private:
    static std::size_t count(std::initializer_list<std::int64_t> shape) noexcept {
        std::size_t n = 1;
        for (const auto extent : shape) n *= extent < 0 ? 0 : static_cast<std::size_t>(extent); // below 0: refused
        return n;
    }
    static std::int32_t fits(std::size_t n_dims) noexcept {
        return n_dims <= BNT_MAX_DIMS ? static_cast<std::int32_t>(n_dims) : -1;
    }

    bnt_tensor tensor_;
    std::int64_t shape_[BNT_MAX_DIMS] = {};
    std::int64_t strides_[BNT_MAX_DIMS] = {};
    bool strided_ = false;
};

// A tracepoint of one stage, made by recorder::make_site() and kept by the engine. Movable. An empty one is off.
class site {
  public:
    site() noexcept = default;
    // Takes a handle over.
    explicit site(bnt_site *handle) noexcept : handle_(handle) {}
    site(site &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    site &operator=(site &&other) noexcept { return std::swap(handle_, other.handle_), *this; }
    site(const site &) = delete;
    site &operator=(const site &) = delete;
    ~site() { bnt_site_free(handle_); }

    // Whether anything of the stage in this layer may be recorded; a load and a branch where nothing is.
    bool wants(std::int32_t layer) const noexcept { return bnt_site_wants(handle_, layer) != 0; }
    // recorder::record() of a tensor of the site's stage, whatever stage the tap names.
    int record(const tap &where, const tensor &what) const noexcept {
        if (handle_ == nullptr) return BNT_OK;
        const bnt_tensor t = what.get();
        return bnt_site_record(handle_, where.get(), &t);
    }
    bnt_site *get() const noexcept { return handle_; }

  private:
    bnt_site *handle_ = nullptr;
};

// A recorder of one run; sealed when it is destroyed: as `failed` where an exception does that. Movable. An
// empty one is off.
class recorder {
  public:
    recorder() noexcept = default;
    // Takes a handle over.
    explicit recorder(bnt_recorder *handle) noexcept
        : handle_(handle), exceptions_(handle != nullptr ? std::uncaught_exceptions() : 0) {}
    recorder(recorder &&other) noexcept
        : handle_(std::exchange(other.handle_, nullptr)), owned_(std::exchange(other.owned_, true)),
          exceptions_(handle_ != nullptr ? std::uncaught_exceptions() : 0) {}
    recorder &operator=(recorder &&other) noexcept {
        std::swap(handle_, other.handle_);
        std::swap(owned_, other.owned_);
        std::swap(exceptions_, other.exceptions_);
        return *this;
    }
    recorder(const recorder &) = delete;
    recorder &operator=(const recorder &) = delete;
    ~recorder() {
        if (!owned_ || handle_ == nullptr) return;
        if (std::uncaught_exceptions() > exceptions_) bnt_fail(handle_, "an exception ended the engine");
        bnt_close(handle_, nullptr);
    }

    // The recorder that BITNET_TRACE_DIR and its companions ask for; off when they ask for none.
    static recorder from_env(const char *engine, const char *version) noexcept {
        return recorder(bnt_from_env(engine, version));
    }
    // The process-wide recorder from the environment, which is sealed at exit and not by this object.
    static recorder global(const char *engine, const char *version) noexcept {
        recorder r(bnt_global(engine, version));
        r.owned_ = false;
        return r;
    }
    // A recorder set up in code; off, and an error, when it can't be had.
    static recorder open(const bnt_options &options, bnt_error *error = nullptr) noexcept {
        return recorder(bnt_open(&options, error));
    }
    // The same, which throws bitnet_trace::error.
    static recorder open_or_throw(const bnt_options &options) {
        bnt_error e = bnt_error_make();
        recorder r = open(options, &e);
        if (e.code != BNT_OK) throw error(e.code, e.message);
        return r;
    }

    bool is_on() const noexcept { return bnt_is_on(handle_) != 0; }
    bool wants(const tap &t) const noexcept { return bnt_wants(handle_, t.get()) != 0; }
    site make_site(const char *stage) const noexcept { return site(bnt_site_make(handle_, stage)); }
    const char *run_name() const noexcept { return bnt_run_name(handle_); }
    const char *run_dir() const noexcept { return bnt_run_dir(handle_); }
    bnt_recorder *get() const noexcept { return handle_; }

    void begin_pass() noexcept { bnt_begin_pass(handle_); }
    // `ids` is any contiguous container of std::int32_t.
    template <class Ids> void tokens(std::int32_t request, std::int64_t first_seq, const Ids &ids) noexcept {
        bnt_tokens(handle_, request, first_seq, ids.data(), ids.size());
    }
    int record(const tap &where, const tensor &what) noexcept {
        if (handle_ == nullptr) return BNT_OK;
        const bnt_tensor t = what.get();
        return bnt_record(handle_, where.get(), &t);
    }
    // record(), which in a replay overwrites the tensor: its data must be writable. BNT_REPLAYED where it was.
    int replay(const tap &where, const tensor &what) noexcept {
        if (handle_ == nullptr) return BNT_OK;
        const bnt_tensor t = what.get();
        return bnt_replay(handle_, where.get(), &t);
    }
    // BNT_OK, or BNT_ERR_REPLAY with the reason why the replay stopped.
    int replay_error(bnt_error *error = nullptr) const noexcept { return bnt_replay_error(handle_, error); }
    void drop(const char *stage, std::int32_t layer, const char *reason) noexcept {
        bnt_drop(handle_, stage, layer, reason);
    }
    void fail(const char *cause) noexcept { bnt_fail(handle_, cause); }
    int set_model(const char *path) noexcept { return bnt_set_model(handle_, path); }
    int set(const char *key, const char *value) noexcept { return bnt_set(handle_, key, value); }
    int set(const char *key, const std::string &value) noexcept { return set(key, value.c_str()); }

    // Seals the run now. Returns BNT_OK, or BNT_ERR_INCOMPLETE with the reason.
    int close(bnt_error *error = nullptr) noexcept {
        return bnt_close(std::exchange(handle_, nullptr), error);
    }

  private:
    bnt_recorder *handle_ = nullptr;
    bool owned_ = true;
    int exceptions_ = 0; // those in flight when it was made; more when it is destroyed: one that unwinds
};

#ifdef BITNET_TRACE_DISABLE
} // namespace off
#endif
} // namespace bitnet_trace

#endif
