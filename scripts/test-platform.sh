#!/usr/bin/env bash
# Tests a binary that was built elsewhere, on the platform it is for. On Linux these are the tests that need no program
# beside Node; on macOS, which has one loopback address and no /proc, those that need neither.
set -euo pipefail
cd "$(dirname "$0")/.."

npm ci --no-audit --no-fund --ignore-scripts
tests=(loading options package)
if [ "$(uname)" = Linux ]; then
  tests+=(drop-in events guarantees managers net-server proxy-protocol steering worker-ends worker-kinds worker-misuse worker-server warnings)
fi
files=("${tests[@]/#/__test__/}")
files=("${files[@]/%/.test.js}")
node --test --test-reporter=spec --test-concurrency=1 --test-timeout=180000 "${files[@]}"
