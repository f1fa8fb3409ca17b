#!/usr/bin/env bash
# Installs and builds what the project needs besides cargo's crates. Run it as
# often as you like: what is there and up to date is left alone.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup.sh [tools|models|gemma|cpp|bitnet|python|preload|all|recorder]...

  tools    check the compilers; cmake and ninja into target/venv when missing
  models   SmolLM2-135M-Instruct Q4_1 -> target/demo/models/smollm2-135m-q4_1.gguf
  gemma    Gemma 3 270M Q4_K_M, for tests, under its own terms -> target/demo/models/gemma-3-270m-q4_k_m.gguf
  cpp      llama.cpp (pinned source) and the C++ runner -> target/demo/bin/cpp-runner;
           with BITNET_CPP_DIR=DIR the runner is built against your own llama.cpp or
           bitnet.cpp (source tree, build or install folder) under target/cpp/ instead.
           The last line, alone on stdout, is the path of the runner
  bitnet   bitnet.cpp (pinned source) and the same programs over it -> target/demo/bitnet/bin,
           with gguf-quantize, which writes I2_S; skipped where the processor has no AVX2
  python   duckdb, pandas, polars, pyarrow into target/venv
  preload  libraries of node-llama-cpp, a llama.cpp compiled by others, where there is npm
  all      everything above (the default)
  recorder the C and C++ recorder, installed under PREFIX (/usr/local)

environment:
  BITNET_CPP_DIR   your own C++ engine, see above
  PREFIX, DESTDIR  where `recorder` goes
  CXX, PYTHON      compiler and interpreter to use (c++, python3)
  JOBS             parallel compile jobs (one a processor)

Needs cargo, a C++17 compiler and python3 with venv and pip. As root on a system
with apt-get, the latter two are installed when missing.
Exit code: 0 done, 2 something is missing or failed; the message says what to do.
TEXT
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PYTHON=${PYTHON:-python3}
TARGET="$ROOT/target"
DEMO="$TARGET/demo"
VENV="$TARGET/venv"
LOGS="$TARGET/logs"
STAMPS="$TARGET/stamps"

. "$ROOT/scripts/lib.sh"
. "$ROOT/scripts/lib-tools.sh"
. "$ROOT/scripts/lib-models.sh"
. "$ROOT/scripts/lib-cpp.sh"
. "$ROOT/scripts/lib-bitnet.sh"
. "$ROOT/scripts/lib-preload.sh"

[ $# -gt 0 ] || set -- all
for command in "$@"; do
  case $command in
    -h | --help) usage; exit 0 ;;
    tools | models | gemma | cpp | bitnet | python | preload | all | recorder) ;;
    *) usage >&2; die "unknown command '$command'" ;;
  esac
done

# Two set-ups at once would take each other's half-made files for their own.
mkdir -p "$TARGET"
if have flock; then
  exec 9>"$TARGET/.setup.lock"
  if ! flock -w 2 9; then # one that finds everything in place takes less
    say "    waiting for another set-up to finish"
    flock 9
  fi
fi

trap 'say "setup: interrupted; run it again to go on"; exit 2' INT TERM

for command in "$@"; do
  case $command in
    tools) setup_tools ;;
    models) setup_models ;;
    gemma) setup_gemma ;;
    cpp) setup_tools; setup_cpp ;;
    bitnet) setup_tools; setup_bitnet ;;
    recorder) setup_tools; install_recorder ;;
    python) setup_python ;;
    preload) setup_preload ;;
    all) setup_tools; setup_models; setup_gemma; setup_python; setup_preload; setup_cpp; setup_bitnet ;;
  esac
done
