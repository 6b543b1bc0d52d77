#!/usr/bin/env bash
# Tests the musl binary of this machine's architecture in a container of Alpine.
#
#   scripts/test-alpine.sh <major version of Node>
set -euo pipefail
cd "$(dirname "$0")/.."
docker run --rm --env CI --volume "$PWD:/src" --workdir /src "node:$1-alpine" \
  sh -c 'apk add --no-cache bash git && git config --global --add safe.directory /src && scripts/test-platform.sh'
