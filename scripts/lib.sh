# Shared by setup.sh and its parts: messages, stamps, logged commands.
# Progress goes to stderr; stdout is kept for the one answer a caller reads.

say()  { printf '%s\n' "$*" >&2; }
# What is up to date is told to people, not to programs that only want it to be there.
idle() { [ -n "${SETUP_QUIET:-}" ] || say "$@"; }
step() { printf '==> %s\n' "$*" >&2; }
die()  { printf 'setup: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# The version pinned for package $1 in pins.txt, or the whole requirement line.
pin() {
  local line
  line=$(grep -E "^$1==" "$ROOT/scripts/pins.txt" | head -n 1)
  [ -n "$line" ] || die "scripts/pins.txt has no line for $1; restore the file from version control"
  printf '%s\n' "$line"
}
pin_version() { pin "$1" | sed -E 's/^[^=]*==([^ ]*).*/\1/'; }

# A stamp holds what a finished step was made from. It is written last, so a
# step that was cut short is done again, as is one whose inputs have changed.
stamp_ok()  { [ -f "$STAMPS/$1" ] && [ "$(cat "$STAMPS/$1")" = "$2" ]; }
stamp_set() {
  mkdir -p "$STAMPS"
  printf '%s\n' "$2" >"$STAMPS/.$1.$$"
  mv -f "$STAMPS/.$1.$$" "$STAMPS/$1"
}
stamp_clear() { rm -f "$STAMPS/$1"; }

digest() { sha256sum | cut -c1-12; }

# run_logged NAME COMMAND...: output into target/logs/NAME.log; on failure the
# end of the log is shown, so that nobody has to look for it.
run_logged() {
  local name=$1 log="$LOGS/$1.log"
  shift
  mkdir -p "$LOGS"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    say "setup: this failed: $*"
    say "setup: the whole output is in $log"
    return 1
  fi
}

# Like run_logged for ninja builds, with a line of progress every tenth.
run_ninja() {
  local name=$1 log="$LOGS/$1.log"
  shift
  mkdir -p "$LOGS"
  if ! "$@" 2>&1 </dev/null | tee "$log" | awk '
      match($0, /^\[[0-9]+\/[0-9]+\]/) {
        split(substr($0, 2, RLENGTH - 2), n, "/")
        tenth = int(10 * n[1] / n[2])
        if (n[2] > 9 && tenth > last) { last = tenth; printf "    built %d of %d\n", n[1], n[2]; fflush() }
      }' >&2; then
    grep -E -A 12 'FAILED|[Ee]rror' "$log" | head -n 60 >&2
    say "setup: this failed: $*"
    say "setup: the whole output is in $log"
    return 1
  fi
}

jobs_count() {
  if [ -n "${JOBS:-}" ]; then printf '%s\n' "$JOBS"; return; fi
  getconf _NPROCESSORS_ONLN 2>/dev/null || printf '2\n'
}
