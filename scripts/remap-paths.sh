# shellcheck shell=sh
# Sourced by what builds the addon. A panic names a file of a crate, which is where the builder keeps crates: without this,
# a binary depends on that place, and tells it.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
case $cargo_home in
  # Flags are told apart by spaces.
  *[[:space:]]*) echo "$cargo_home has a space, so the binary will name it" >&2 ;;
  *) export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }--remap-path-prefix=$cargo_home=/cargo" ;;
esac
