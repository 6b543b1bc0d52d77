#!/usr/bin/env bash
# Builds the addon for one target, as sticky-listen.<platform>.node in the root folder, and writes down what is in it.
#
#   scripts/build-target.sh <target> [arguments of cargo build...]
#
# On macOS the machine's own linker links. Elsewhere zig does (scripts/setup-zig.sh), which has all C libraries: the gnu
# binaries need no newer glibc than Node itself, wherever they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
shift

glibc=$(sed -n "s/^const GLIBC = '\(.*\)'$/\1/p" lib/addon.js)
case $target in
  x86_64-*) cpu=x64 ;;
  aarch64-*) cpu=arm64 ;;
esac
case $target in
  *-linux-gnu) platform=linux-$cpu-gnu linked=$target.$glibc ;;
  *-linux-musl) platform=linux-$cpu-musl linked=$target ;;
  *-darwin) platform=darwin-$cpu linked=$target ;;
esac

build=zigbuild
[ "$(uname)" = Darwin ] && build=build
# Node loads the addon into a process that has musl already.
case $target in *-musl) export RUSTFLAGS="-C target-feature=-crt-static" ;; esac
. scripts/remap-paths.sh
cargo "$build" --release --locked --target "$linked" "$@"

case $target in *-darwin) library=libsticky_listen.dylib ;; *) library=libsticky_listen.so ;; esac
cp "${CARGO_TARGET_DIR:-target}/$target/release/$library" "sticky-listen.$platform.node"
node npm/sbom.js "$platform"
ls -l "sticky-listen.$platform".*
