#!/usr/bin/env bash
# Installs zig and cargo-zigbuild into target/zig/bin, and adds that to the PATH of a workflow's later steps.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv target/zig
target/zig/bin/pip install --quiet ziglang==0.17.1 cargo-zigbuild==0.24.1
echo "$PWD/target/zig/bin" | tee -a "${GITHUB_PATH:-/dev/null}"
