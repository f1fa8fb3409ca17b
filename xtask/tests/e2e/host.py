"""A plain Python program on libllama, by ctypes: it knows nothing of recording, nor of the structs it passes on.

    host.py LIBRARY MODEL TOKENS[/TOKENS...] GENERATE

Decodes each group of ids as a batch, then GENERATE ids greedily; prints the ids and a digest of the last logits.
"""
import ctypes, hashlib, os, sys

library, model, groups, generate = sys.argv[1:5]
generate = int(generate)
groups = [[int(i) for i in group.split(",")] for group in groups.split("/")]
folder = os.path.dirname(os.path.abspath(library))


# Structs of the library's that are handed back as they came: passed in memory, their size does not matter.
class Opaque(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * 1024)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.c_void_p), ("rest", ctypes.c_void_p * 5)]


llama = ctypes.CDLL(library)
pointer = ctypes.c_void_p
for backend in sorted(os.listdir(folder)):
    # Backends that are loaded at run time, as node-llama-cpp has them.
    if backend.startswith("libggml-cpu-haswell"):
        ggml = ctypes.CDLL(os.path.join(folder, next(f for f in os.listdir(folder) if f.startswith("libggml."))))
        ggml.ggml_backend_load.restype = pointer
        ggml.ggml_backend_load(os.path.join(folder, backend).encode())
llama.llama_backend_init()
for name, result, arguments in [
    ("llama_model_default_params", Opaque, []),
    ("llama_context_default_params", Opaque, []),
    ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Opaque]),
    ("llama_init_from_model", pointer, [pointer, Opaque]),
    ("llama_model_get_vocab", pointer, [pointer]),
    ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
    ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
    ("llama_batch_get_one", Batch, [pointer, ctypes.c_int32]),
    ("llama_decode", ctypes.c_int32, [pointer, Batch]),
    ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
    ("llama_free", None, [pointer]),
    ("llama_model_free", None, [pointer]),
]:
    function = getattr(llama, name)
    function.restype, function.argtypes = result, arguments

handle = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
context = handle and llama.llama_init_from_model(handle, llama.llama_context_default_params())
if not context:
    sys.exit("host.py: the model cannot be loaded")
llama.llama_set_n_threads(context, 1, 1)
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(handle))

best = None
said = []
for step in range(len(groups) + generate):
    ids = groups[step] if step < len(groups) else [best]
    array = (ctypes.c_int32 * len(ids))(*ids)
    if llama.llama_decode(context, llama.llama_batch_get_one(ctypes.addressof(array), len(ids))) != 0:
        sys.exit("host.py: llama_decode failed")
    logits = llama.llama_get_logits_ith(context, -1)[:vocabulary]
    best = max(range(vocabulary), key=logits.__getitem__)
    said.append(best)
print(said, hashlib.sha256(repr(logits).encode()).hexdigest()[:16])
llama.llama_free(context)
llama.llama_model_free(handle)
