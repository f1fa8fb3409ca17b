#!/usr/bin/env bash
# Gives the readers inputs that nobody thought of. fuzz/README.md says what a target is.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/fuzz.sh [SECONDS] [TARGET]...

  SECONDS   how long each target runs (600)
  TARGET    names under fuzz/fuzz_targets (all of them, one after the other)

Installs cargo-fuzz into target/tools when it is missing. What is found to reach
new code is kept in target/fuzz/corpus, and used again by the next run.
Exit code: 0 no finding; 1 a finding, whose input is named; 2 it could not run.
TEXT
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VERSION=0.13.2
BUILD="$ROOT/target/fuzz"
LOGS="$ROOT/target/logs"

say() { printf '%s\n' "$*" >&2; }
die() { say "fuzz: $*"; exit 2; }

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  [0-9]*) TIME=$1; shift ;;
  *) TIME=600 ;;
esac
case $TIME in *[!0-9]*) usage >&2; die "'$TIME' is not a number of seconds" ;; esac

cd "$ROOT"
KNOWN=$(cd fuzz/fuzz_targets && ls -- *.rs | sed 's/\.rs$//')
if [ $# = 0 ]; then
  # shellcheck disable=SC2086
  set -- $KNOWN
fi
for target in "$@"; do
  [ -f "fuzz/fuzz_targets/$target.rs" ] || { usage >&2; die "there is no target '$target'; there are:" $KNOWN; }
done

# Coverage and the sanitizer are options of a nightly compiler, which the stable one takes when told so.
export RUSTC_BOOTSTRAP=1
export PATH="$ROOT/target/tools/bin:$PATH"
mkdir -p "$LOGS"
if ! cargo fuzz --version >/dev/null 2>&1; then
  say "==> installing cargo-fuzz $VERSION into target/tools"
  cargo install cargo-fuzz --locked --version "$VERSION" --root "$ROOT/target/tools" >"$LOGS/cargo-fuzz.log" 2>&1 ||
    die "cargo-fuzz could not be installed; the reason is at the end of $LOGS/cargo-fuzz.log"
fi
say "==> building (the first time takes some minutes)"
cargo fuzz build --target-dir "$BUILD" >"$LOGS/fuzz-build.log" 2>&1 ||
  { tail -n 30 "$LOGS/fuzz-build.log" >&2; die "the targets could not be built; all of it is in $LOGS/fuzz-build.log"; }

# Runs are written to memory where that is possible: a disk is hundreds of times slower.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

for target in "$@"; do
  corpus="$BUILD/corpus/$target" findings="$BUILD/findings/$target" log="$LOGS/fuzz-$target.log"
  mkdir -p "$corpus" "$findings"
  options=(-max_total_time="$TIME" -max_len=65536 -timeout=20 -malloc_limit_mb=512 -rss_limit_mb=3072
    -artifact_prefix="$findings/" -print_final_stats=1)
  [ ! -f "fuzz/dictionaries/$target.dict" ] || options+=(-dict="fuzz/dictionaries/$target.dict")
  if ! cargo fuzz run --target-dir "$BUILD" "$target" "$corpus" "fuzz/seeds/$target" -- "${options[@]}" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    say "fuzz: $target found something; the input is under $findings, all output in $log"
    say "      once it is mended, put the input into fuzz/seeds/$target: the tests replay it"
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  cover=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
  printf '%-12s %5s s  %10s runs  %s  no finding\n' "$target" "$TIME" "$runs" "${cover:-cov: ?}"
done
