# bitnet.cpp, pinned, and the runner over it: the reference of ternary models.

BITNET_CRATE=bitnet-llm-sys
BITNET="$DEMO/bitnet"
# Without llamafile's kernels a product with F16 rounds its activations to F16
# in a batch of any size; with them it does so for a single token only.
BITNET_OPTIONS=(-DGGML_LLAMAFILE=OFF)

setup_bitnet() {
  if ! has_avx2; then
    say "    bitnet.cpp: skipped, for this processor has no AVX2, without which its I2_S products compute nothing"
    return
  fi
  build_recorder
  build_pinned bitnet bitnet.cpp "$(pin_version $BITNET_CRATE)" 70 "$BITNET/lib" "${BITNET_OPTIONS[@]}"
  local llama="$DEMO/src/bitnet.cpp/3rdparty/llama.cpp"
  # shellcheck disable=SC2016 # $ORIGIN is for the dynamic linker.
  build_runner bitnet-runner "$DEMO/build/bitnet-runner" "$BITNET/bin" '$ORIGIN/../lib' bitnet.cpp \
    "$BITNET_CRATE $(pin_version $BITNET_CRATE)" "$llama/include;$llama/ggml/include" "$BITNET/lib/libllama.so"
}

# Its source comes in a crate: cargo fetches it, and checks the file against the registry's checksum.
fetch_bitnet() {
  local key source="$DEMO/src/bitnet.cpp" part="$DEMO/fetch/bitnet" version checksum
  key="$(pin $BITNET_CRATE) + F32 cache"
  if stamp_ok bitnet-source "$key" && [ -f "$source/CMakeLists.txt" ]; then return; fi
  step "source of bitnet.cpp (1 MB to fetch)"
  stamp_clear bitnet-source
  version=$(pin_version $BITNET_CRATE)
  checksum=$(pin $BITNET_CRATE | sed 's/.*sha256://')
  rm -rf "$part"
  mkdir -p "$part/src" "$DEMO/src"
  : >"$part/src/lib.rs"
  cat >"$part/Cargo.toml" <<TOML
[package]
name = "fetch-bitnet"
edition = "2024"

[dependencies]
$BITNET_CRATE = "=$version"

[workspace]
TOML
  run_logged fetch-bitnet cargo vendor --quiet --manifest-path "$part/Cargo.toml" "$part/vendor" ||
    die "could not fetch the crate $BITNET_CRATE $version. Is the crate registry reachable from here?"
  grep -A 3 "^name = \"$BITNET_CRATE\"" "$part/Cargo.lock" | grep -q "^checksum = \"$checksum\"" ||
    die "the crate $BITNET_CRATE $version is not the pinned one: its checksum is not $checksum"
  [ -f "$part/vendor/$BITNET_CRATE/bitnet.cpp/CMakeLists.txt" ] ||
    die "the crate $BITNET_CRATE $version holds no bitnet.cpp/CMakeLists.txt"
  lift_cache_check "$part/vendor/$BITNET_CRATE/bitnet.cpp/3rdparty/llama.cpp/src/llama.cpp"
  rm -rf "$source"
  mv "$part/vendor/$BITNET_CRATE/bitnet.cpp" "$source"
  rm -rf "$part"
  stamp_set bitnet-source "$key"
}

# The only change: bitnet.cpp takes no V cache but F16 without flash attention. llama.cpp refuses quantised ones alone,
# and the control needs F32: with F16, a last bit of difference moves a value now and then to the next half.
lift_cache_check() {
  sed -i 's/if (params\.type_v != GGML_TYPE_F16 && !params\.flash_attn)/if (ggml_is_quantized(params.type_v) \&\& !params.flash_attn)/' "$1"
  grep -q 'if (ggml_is_quantized(params.type_v) && !params.flash_attn)' "$1" ||
    die "$1 does not check the type of the V cache where it did"
}
