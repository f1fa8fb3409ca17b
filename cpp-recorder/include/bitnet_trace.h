/* bitnet_trace.h: record every tensor of an inference engine to Parquet.
 *
 * C99 and C++17. A program opens a recorder (or takes the process-wide one from the environment), says
 * when a forward call begins and which token ids it has, and hands over each tensor with a tap that says
 * where it stands. bnt_record() copies the tensor and returns; a writer thread does the rest.
 *
 *     bnt_recorder *rec = bnt_global("my-engine", "1.0");    // NULL when BITNET_TRACE_DIR is not set
 *     bnt_begin_pass(rec);
 *     bnt_tokens(rec, 0, 0, ids, 6);
 *     int64_t shape[2] = {6, 576};
 *     bnt_tap tap = bnt_tap_make("attn_norm", layer, 0);     // 6 tokens from position 0 ...
 *     tap.token_axis = 0;                                    // ... counted by axis 0
 *     bnt_tensor t = bnt_tensor_make(BNT_F32, data, sizeof(float) * 6 * 576, 2, shape);
 *     bnt_record(rec, &tap, &t);
 *
 * Rules
 * - A NULL recorder is off: every function takes it, does nothing and reports success.
 * - Recording never fails the host. A tensor that can't be recorded is counted in the run's manifest
 *   (run.json, `dropped`) by reason; the return code says so to whoever wants to know.
 * - No function lets an exception or a panic through, and none ends the process.
 * - Structs that may grow begin with `struct_size`, which the caller sets to sizeof: use the bnt_*_make
 *   functions below, which also set what is not zero by default. A struct of a newer header is accepted.
 * - Strings are UTF-8 and are copied; NULL means empty, or the default.
 * - A recorder may be used from several threads at once. Closing it is the last use.
 * - A forked child does not record: in it a recorder is as after its end, and stderr says so once.
 *
 * Compiled with BITNET_TRACE_DISABLE defined, nothing of this is left in the program: see bitnet_trace_off.h.
 */
#ifndef BITNET_TRACE_H
#define BITNET_TRACE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define BNT_INLINE inline /* one function in all of a program's files, so that inline functions may call it */
extern "C" {
#else
#define BNT_INLINE static inline
#endif
#ifdef BITNET_TRACE_DISABLE
#define BNT_API static inline /* defined in bitnet_trace_off.h; not to be taken for the library's own */
#else
#define BNT_API extern
#endif

/* Version of this interface. It grows when something is removed or changes its meaning. */
#define BNT_ABI_VERSION 1u

/* Version of the interface that the library has. Differs from BNT_ABI_VERSION when header and library
 * do not belong together. */
BNT_API uint32_t bnt_abi_version(void);

/* Return codes. */
enum {
    BNT_OK = 0,
    BNT_DROPPED = 1,        /* the tensor was not recorded; counted in the manifest */
    BNT_ERR_ARGUMENT = 2,   /* a NULL or malformed argument, or a struct_size below the first version's */
    BNT_ERR_IO = 3,         /* the directory or a file could not be written */
    BNT_ERR_INCOMPLETE = 4, /* the recorder gave up while the engine ran; what was sealed is valid */
    BNT_ERR_PANIC = 5,      /* a defect of the library */
    BNT_REPLAYED = 6,       /* bnt_replay() has overwritten the tensor */
    BNT_ERR_REPLAY = 7      /* the stored run can't be replayed, or not any further */
};

/* Most dimensions of a tensor. */
#define BNT_MAX_DIMS 16

/* Element types of bnt_tensor.dtype. Those from BNT_Q4_0 on are ggml's packed blocks (BNT_I2_S: bitnet.cpp's): shapes
 * count elements, the innermost dimension is whole blocks in one piece, and strides and offset are whole blocks. */
enum {
    BNT_F32 = 0,
    BNT_F16 = 1,
    BNT_BF16 = 2,
    BNT_F64 = 3,
    BNT_I8 = 4,
    BNT_I16 = 5,
    BNT_I32 = 6,
    BNT_I64 = 7,
    BNT_U8 = 8,
    BNT_BOOL = 9,
    BNT_Q4_0 = 10,
    BNT_Q4_1 = 11,
    BNT_Q5_0 = 12,
    BNT_Q5_1 = 13,
    BNT_Q8_0 = 14,
    BNT_Q8_1 = 15,
    BNT_Q2_K = 16,
    BNT_Q3_K = 17,
    BNT_Q4_K = 18,
    BNT_Q5_K = 19,
    BNT_Q6_K = 20,
    BNT_Q8_K = 21,
    BNT_TQ1_0 = 22,
    BNT_TQ2_0 = 23,
    BNT_I2_S = 24
};

/* What is kept of each tensor: bnt_options.values. */
enum {
    BNT_VALUES_FULL = 0, /* every element, with hash and statistics */
    BNT_VALUES_STATS = 1 /* hash and statistics */
};

/* What becomes of tensors that the writer has no room for, and of what is written: bnt_options.preset. */
enum {
    BNT_PRESET_DEFAULT = 0, /* the engine waits while the queue is full */
    BNT_PRESET_LOSSY = 1,   /* tensors are dropped and counted while it is full */
    BNT_PRESET_DURABLE = 2  /* the engine waits, and what is written survives a power loss */
};

/* How a stored run is replayed: bnt_options.replay_flags. */
enum {
    BNT_REPLAY_PARTIAL = 1,     /* what it lacks is left as it is, and counted */
    BNT_REPLAY_OTHER_PROMPT = 2 /* other token ids than the stored run's are meant */
};

/* A recorder of one run. Opaque; NULL is off. */
typedef struct bnt_recorder bnt_recorder;

/* A tracepoint of one stage, kept by the engine. NULL is off. Only bnt_site_wants() looks into it. */
typedef struct bnt_site {
    uint64_t layers; /* bit layer + 2: whether anything of the layer may be wanted; bit 63: of a deeper one */
    /* the rest is the library's */
} bnt_site;

/* Filled where a function that takes one returns an error; may be NULL. */
typedef struct bnt_error {
    uint32_t struct_size; /* sizeof(bnt_error) */
    int32_t code;         /* BNT_OK or BNT_ERR_* */
    char message[500];    /* what, where, what to try; cut where it is longer; always ends with NUL */
} bnt_error;

typedef struct bnt_options {
    uint32_t struct_size;       /* sizeof(bnt_options) */
    int32_t values;             /* BNT_VALUES_* */
    const char *dir;            /* directory of the database; created when missing; required */
    const char *run;            /* name of the run; NULL: made from engine, time and process id */
    const char *engine;         /* name of the engine */
    const char *engine_version; /* its version */
    uint64_t queue_bytes;       /* most bytes that wait for the writer; 0: the default, 256 MiB */
    const char *select;         /* which records are kept, as BITNET_TRACE_SELECT; NULL or empty: all */
    int32_t preset;             /* BNT_PRESET_* */
    int32_t dequantize;         /* 1: records of packed dtypes keep f32 values beside their blocks; 0: a reader makes them */
    const char *replay;         /* a stored run whose tensors bnt_replay() puts in place of the program's; NULL: none */
    const char *replay_at;      /* which of its records, as BITNET_TRACE_REPLAY_AT; NULL or empty: all */
    uint32_t replay_flags;      /* BNT_REPLAY_* */
    uint32_t reserved;          /* 0 */
} bnt_options;

/* A tensor in memory: little-endian elements. Nothing is read outside data[0 .. data_size). */
typedef struct bnt_tensor {
    uint32_t struct_size; /* sizeof(bnt_tensor) */
    int32_t dtype;        /* BNT_F32 ... */
    const void *data;     /* may be NULL where data_size is 0; no alignment is needed */
    size_t data_size;     /* bytes that may be read from data */
    size_t byte_offset;   /* where the element with index 0, 0, ... begins (not 0 with negative strides) */
    const int64_t *shape; /* n_dims extents, outermost first (C order: the reverse of ggml's ne) */
    const int64_t *byte_strides; /* n_dims strides in bytes, multiples of the element's size, also 0 and
                                    negative; NULL: contiguous row-major. Of packed blocks, the innermost is the
                                    block's size, as in ggml's nb[0] */
    int32_t n_dims;       /* 0 (a single element) to BNT_MAX_DIMS */
    int32_t reserved;     /* 0 */
} bnt_tensor;

/* Where a tensor stands: its key, and how it divides into one record a token. */
typedef struct bnt_tap {
    uint32_t struct_size;     /* sizeof(bnt_tap) */
    int32_t layer;            /* from 0; -1: none (embeddings, logits); -2: all_layers_out */
    const char *stage;        /* word of the stage vocabulary, or one's own; required */
    const char *name;         /* the engine's own name of the tensor */
    const char *op;           /* the engine's name of the operation */
    int64_t seq;              /* position of the (first) token, from 0; without use where positions are given */
    const int64_t *positions; /* position of each token, or NULL: seq, seq + 1, ... */
    const int32_t *requests;  /* request of each token, or NULL: `request` for all */
    size_t n_tokens;          /* entries of positions and requests, if there are any: the extent of token_axis, or
                                 1; another number refuses the tensor */
    int32_t request;          /* which sequence of a batch; 0 where there is one */
    int32_t token_axis;       /* axis of shape that counts tokens; -1: the tensor is one token's slice (so set it: 0 is an axis) */
    int32_t causal_axis;      /* axis of shape that counts keys: the slice of position p keeps 0 .. p; -1: none */
    int32_t reserved;         /* 0 */
} bnt_tap;

/* The recorder that the environment asks for: BITNET_TRACE_DIR, BITNET_TRACE_RUN, BITNET_TRACE_VALUES,
 * BITNET_TRACE_SELECT, BITNET_TRACE_PRESET, BITNET_TRACE_QUEUE_BYTES, BITNET_TRACE_DEQUANTIZE, BITNET_TRACE_REPLAY,
 * BITNET_TRACE_REPLAY_AT, BITNET_TRACE_REPLAY_PARTIAL, BITNET_TRACE_REPLAY_OTHER_PROMPT. NULL when it asks for none. Where it can't be had, also because the selection is wrong,
 * one warning on stderr says why, and NULL.
 *
 * A selection is made of alternatives (;) of terms that must all hold (,) of values (|) of seq, layer, stage and
 * request, != excludes: "seq=0-2,layer=6,stage=attn_*;layer=-1". */
BNT_API bnt_recorder *bnt_from_env(const char *engine, const char *engine_version);

/* A recorder that is set up in code. NULL, and an error, when it can't be had. */
BNT_API bnt_recorder *bnt_open(const bnt_options *options, bnt_error *error);

/* The process-wide recorder from the environment: the same pointer at every call, made at the first and
 * sealed at exit. NULL when the environment asks for none. Closing it seals it early. */
BNT_API bnt_recorder *bnt_global(const char *engine, const char *engine_version);

/* 1 while the recorder takes tensors; 0 for NULL, after a failure and after the end. */
BNT_API int bnt_is_on(const bnt_recorder *recorder);

/* 1 if any token of a tensor with this tap would be recorded, so that an engine can save itself the work of making
 * it readable. With a token axis and neither positions nor requests it may have any number of tokens; a seq below 0
 * is not known yet, and any may be meant. */
BNT_API int bnt_wants(const bnt_recorder *recorder, const bnt_tap *tap);

/* A tracepoint of a stage, made when the engine is set up. NULL where the recorder is off, and after a failure. It
 * may outlive its recorder, and wants nothing then. */
BNT_API bnt_site *bnt_site_make(bnt_recorder *recorder, const char *stage);

/* bnt_record() of a tensor of the site's stage, whatever stage the tap names (NULL will do). */
BNT_API int bnt_site_record(const bnt_site *site, const bnt_tap *tap, const bnt_tensor *tensor);

/* Ends a site's life. */
BNT_API void bnt_site_free(bnt_site *site);

/* Part of bnt_site_wants(): asks the recorder. */
BNT_API int bnt_site_confirm(const bnt_site *site, int32_t layer);

/* The run's name and directory; NULL for a NULL recorder. They live as long as the recorder. */
BNT_API const char *bnt_run_name(const bnt_recorder *recorder);
BNT_API const char *bnt_run_dir(const bnt_recorder *recorder);

/* A forward call begins: what is recorded next belongs to it. */
BNT_API void bnt_begin_pass(bnt_recorder *recorder);

/* Token ids of a request at positions first_seq, first_seq + 1, ...; an id below 0 is not known. */
BNT_API void bnt_tokens(bnt_recorder *recorder, int32_t request, int64_t first_seq, const int32_t *ids, size_t n);

/* Records a tensor: BNT_OK (also when off or not selected), or BNT_DROPPED, BNT_ERR_ARGUMENT, BNT_ERR_PANIC, all of which
 * are counted in the manifest. Waits while the queue is full. */
BNT_API int bnt_record(bnt_recorder *recorder, const bnt_tap *tap, const bnt_tensor *tensor);

/* Records a tensor as bnt_record() does and then, in a replay, overwrites its wanted rows in data with those of the
 * stored run, so data must be writable: BNT_REPLAYED where any row was, otherwise what bnt_record() returns, and
 * BNT_ERR_REPLAY from the moment on at which the replay has stopped. Rows correspond by position; either all rows
 * that are wanted of a tensor are overwritten or none. k_cache and v_cache, which are copies, never are. */
BNT_API int bnt_replay(bnt_recorder *recorder, const bnt_tap *tap, const bnt_tensor *tensor);

/* BNT_ERR_REPLAY, and why, if a stored run was to be replayed and could not be, or not any further: what the program
 * computes from then on is its own, and the run is `failed`. A program that exists to be compared ends here. */
BNT_API int bnt_replay_error(const bnt_recorder *recorder, bnt_error *error);

/* Counts a tensor that the program could not hand over, under a reason in a few words; not one whose stage and
 * layer are not selected, but any without a stage. */
BNT_API void bnt_drop(bnt_recorder *recorder, const char *stage, int32_t layer, const char *reason);

/* The model file. Its size and BLAKE3 are computed in the background. */
BNT_API int bnt_set_model(bnt_recorder *recorder, const char *path);

/* What else is known of the run. Keys with a place of their own in the manifest:
 *   threads, batch, prompt_tokens        whole numbers
 *   flash_attention, graph_split, positions_counted, fusion_may_differ, threads_may_differ
 *                                        on, off, true, false, 1, 0
 *   kv_type, fault, prompt, model_arch   text
 * Any other key goes to settings.extra. BNT_ERR_ARGUMENT where the value is not of the key's kind. */
BNT_API int bnt_set(bnt_recorder *recorder, const char *key, const char *value);

/* The program cannot go on, because of `cause`: what was recorded is sealed by bnt_close() (or at exit) as ever,
 * but the run says `failed` and why. The first cause stands. */
BNT_API void bnt_fail(bnt_recorder *recorder, const char *cause);

/* Seals the run and frees the recorder (but not the process-wide one). BNT_ERR_INCOMPLETE, with the reason,
 * if the recorder gave up before, or the program did (bnt_fail); BNT_ERR_REPLAY if the replay stopped. */
BNT_API int bnt_close(bnt_recorder *recorder, bnt_error *error);

/* --- constructors: everything that is not said is as if it were absent ------------------------------- */

BNT_INLINE bnt_error bnt_error_make(void) {
    bnt_error e;
    e.struct_size = (uint32_t)sizeof e;
    e.code = BNT_OK;
    e.message[0] = '\0';
    return e;
}

BNT_INLINE bnt_options bnt_options_make(const char *dir, const char *run) {
    bnt_options o;
    o.struct_size = (uint32_t)sizeof o;
    o.values = BNT_VALUES_FULL;
    o.dir = dir;
    o.run = run;
    o.engine = NULL;
    o.engine_version = NULL;
    o.queue_bytes = 0;
    o.select = NULL;
    o.preset = BNT_PRESET_DEFAULT;
    o.dequantize = 0;
    o.replay = NULL;
    o.replay_at = NULL;
    o.replay_flags = 0;
    o.reserved = 0;
    return o;
}

BNT_INLINE bnt_tap bnt_tap_make(const char *stage, int32_t layer, int64_t seq) {
    bnt_tap t;
    t.struct_size = (uint32_t)sizeof t;
    t.layer = layer;
    t.stage = stage;
    t.name = NULL;
    t.op = NULL;
    t.seq = seq;
    t.positions = NULL;
    t.requests = NULL;
    t.n_tokens = 0;
    t.request = 0;
    t.token_axis = -1;
    t.causal_axis = -1;
    t.reserved = 0;
    return t;
}

BNT_INLINE bnt_tensor bnt_tensor_make(int32_t dtype, const void *data, size_t data_size, int32_t n_dims,
                                         const int64_t *shape) {
    bnt_tensor t;
    t.struct_size = (uint32_t)sizeof t;
    t.dtype = dtype;
    t.data = data;
    t.data_size = data_size;
    t.byte_offset = 0;
    t.shape = shape;
    t.byte_strides = NULL;
    t.n_dims = n_dims;
    t.reserved = 0;
    return t;
}

/* --- the guard of a tracepoint ------------------------------------------------------------------------ */

/* 1 if any token of the stage's tensor in this layer may be recorded. Where none is, this costs one relaxed load and a
 * branch: so it stands before whatever makes a tensor ready. */
BNT_INLINE int bnt_site_wants(const bnt_site *site, int32_t layer) {
    const uint32_t n = (uint32_t)layer + 2u;
    uint64_t layers = 0;
    if (site) {
#ifdef __GNUC__
        layers = __atomic_load_n(&site->layers, __ATOMIC_RELAXED);
#else
        layers = *(const volatile uint64_t *)&site->layers;
#endif
    }
    return (layers >> (n < 63u ? n : 63u) & 1u) != 0 && bnt_site_confirm(site, layer);
}

#ifdef BITNET_TRACE_DISABLE
#include "bitnet_trace_off.h"
#endif

#undef BNT_API
#undef BNT_INLINE

#ifdef __cplusplus
}
#endif

#endif
