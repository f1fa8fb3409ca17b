# A llama.cpp that somebody else has compiled, to record from outside: the shared libraries of node-llama-cpp.

NODE_LLAMA=@node-llama-cpp/linux-x64

# Without npm, and on other processors, there is nothing to fetch; the tests say what they leave out.
setup_preload() {
  local key version integrity home="$DEMO/node-llama-cpp" part="$DEMO/fetch/node-llama-cpp" file
  if [ "$(uname -sm)" != "Linux x86_64" ] || ! npm --version >/dev/null 2>&1; then
    idle "    node-llama-cpp: left out (npm and Linux on x86-64 are needed)"
    return
  fi
  key=$(pin $NODE_LLAMA)
  version=$(pin_version $NODE_LLAMA)
  integrity=${key##*--integrity=}
  if stamp_ok node-llama-cpp "$key" && [ -d "$home/bins" ]; then return; fi
  step "libraries of node-llama-cpp $version (11 MB to fetch)"
  stamp_clear node-llama-cpp
  rm -rf "$part" "$home"
  mkdir -p "$part"
  (cd "$part" && run_logged fetch-node-llama-cpp npm pack --silent "$NODE_LLAMA@$version") ||
    die "could not fetch $NODE_LLAMA@$version. Is the npm registry reachable from here?"
  file=$(find "$part" -name '*.tgz')
  [ -f "$file" ] || die "expected one .tgz in $part"
  [ "sha512-$(sha512_base64 "$file")" = "$integrity" ] || die "$file is not the pinned file: its SHA-512 differs"
  tar -xzf "$file" -C "$part" || die "could not unpack $file"
  mv "$part/package" "$home"
  rm -rf "$part"
  stamp_set node-llama-cpp "$key"
}

# SHA-512 in base64, as npm writes it.
sha512_base64() {
  "$PYTHON" -c 'import base64, hashlib, sys; print(base64.b64encode(hashlib.sha512(open(sys.argv[1], "rb").read()).digest()).decode())' "$1"
}
