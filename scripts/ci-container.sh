#!/usr/bin/env bash
# Runs .ci/run in a container of Debian with Rust, whose toolchain is a minimal one, and whose user does not own the files.
set -euo pipefail
cd "$(dirname "$0")/.."
rustup component add rustfmt clippy
git config --global --add safe.directory "$PWD"
exec .ci/run
