# Compilers and Python: what must be there, and the virtual environment.

# Debian packages are installed when we may; otherwise the reader is told how.
install_debian() {
  if have apt-get && [ "$(id -u)" = 0 ]; then
    step "installing Debian packages: $*"
    run_logged apt-update apt-get update -q || die "apt-get update failed"
    run_logged apt-install env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -q --no-install-recommends "$@" || die "could not install $*"
    return 0
  fi
  return 1
}

cxx_works() {
  local dir ok=1
  dir=$(mktemp -d)
  printf '#include <string_view>\nint main() { return std::string_view("").size(); }\n' >"$dir/t.cpp"
  if "${CXX:-c++}" -std=c++17 "$dir/t.cpp" -o "$dir/t" >/dev/null 2>&1; then ok=0; fi
  rm -rf "$dir"
  return $ok
}

python_works() { "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1; }

check_compilers() {
  if ! have cargo; then
    die "cargo is not on PATH. Install Rust 1.95 or newer with rustup (Debian's packages are too old), then run this again"
  fi
  if ! cxx_works; then
    if [ -n "${CXX:-}" ]; then
      die "CXX=$CXX can't compile a C++17 program. Set CXX to a working compiler, or unset it"
    fi
    install_debian g++ && cxx_works ||
      die "no C++17 compiler: install one (Debian and Ubuntu: apt-get install g++), or set CXX"
  fi
  if ! python_works; then
    [ "$PYTHON" = python3 ] || die "PYTHON=$PYTHON needs to be Python 3.9 or newer with venv and pip; set it to another one, or unset it"
    { install_debian python3 python3-venv python3-pip && hash -r && python_works; } ||
      die "$PYTHON needs to be 3.9 or newer with venv and pip (Debian and Ubuntu: apt-get install python3 python3-venv python3-pip); PYTHON=... names another one"
  fi
  # Inside a virtual environment (perhaps our own) the interpreter that it was made with.
  PYTHON=$("$PYTHON" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)')
}

# The environment holds absolute paths, so its key has the project's own path.
ensure_venv() {
  local key
  key="$ROOT $("$PYTHON" -c 'import sys; print(sys.version, sys.executable)' | tr '\n' ' ')"
  if stamp_ok venv "$key" && [ -x "$VENV/bin/python" ]; then return; fi
  step "Python environment in target/venv"
  stamp_clear venv
  stamp_clear venv-build-tools
  stamp_clear venv-readers
  rm -rf "$VENV"
  run_logged venv "$PYTHON" -m venv "$VENV" || die "could not make a virtual environment with $PYTHON"
  stamp_set venv "$key"
}

# pip_install STAMP REQUIREMENT...
pip_install() {
  local name=$1
  shift
  if stamp_ok "$name" "$*"; then return; fi
  ensure_venv
  step "installing from the Python package index: $*"
  stamp_clear "$name"
  run_logged "$name" "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input "$@" ||
    die "pip could not install $*. Is the Python package index reachable from here?"
  stamp_set "$name" "$*"
}

# They are run, not only looked up: a pyenv shim is found even when it leads nowhere.
build_tools_work() { cmake --version >/dev/null 2>&1 && ninja --version >/dev/null 2>&1; }

setup_tools() {
  check_compilers
  if ! build_tools_work; then
    ensure_venv
    pip_install venv-build-tools "$(pin cmake)" "$(pin ninja)"
    PATH="$VENV/bin:$PATH"
    export PATH
    build_tools_work || die "cmake and ninja are not in $VENV/bin although pip installed them; delete target/venv and run this again"
  fi
}

setup_python() {
  check_compilers
  ensure_venv
  pip_install venv-readers "$(pin duckdb)" "$(pin numpy)" "$(pin pandas)" "$(pin polars)" "$(pin pyarrow)"
}

# pip_fetch PACKAGE DIRECTORY [PIP OPTION...]: the pinned file of a package, checked by its hash.
pip_fetch() {
  local package=$1 dir=$2 requirements
  shift 2
  ensure_venv
  rm -rf "$dir"
  mkdir -p "$dir"
  requirements="$dir/requirements.txt"
  pin "$package" >"$requirements"
  run_logged "fetch-$package" "$VENV/bin/python" -m pip download --disable-pip-version-check --no-input \
    --no-deps --require-hashes --dest "$dir" "$@" -r "$requirements" ||
    die "could not fetch $(pin "$package" | cut -d' ' -f1). Is the Python package index reachable from here?"
  rm -f "$requirements"
}
