#!/usr/bin/env bash
# Builds the policy engine to the file that is named: `build.sh TARGET_DIR FILE`.
# The same sources and toolchain give the same bytes, in any directory and for any user.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
target=$1
file=$2
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
flags=(
  "--remap-path-prefix=$registry=/registry"
  "--remap-path-prefix=$PWD=/policy_engine"
  "--remap-path-prefix=$(rustc --print sysroot)=/rust"
  "-Clink-arg=--max-memory=1073741824"
)
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}") CARGO_INCREMENTAL=0 \
  cargo build --quiet --locked --release --target wasm32-unknown-unknown --target-dir "$target"
cp "$target/wasm32-unknown-unknown/release/policy_engine.wasm" "$file"
