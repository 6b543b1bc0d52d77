#!/usr/bin/env bash
# Publishes what a tag names: the packages of all platforms, then the main one, which wants them. Their binaries must be
# in the root folder, and what scripts/build-target.sh writes beside them. What was published already is left as it is, so this can be run again.
#
#   npm/publish.sh [--dry-run]
#
# In a workflow npm needs no token: each package names the workflow as its trusted publisher. It must exist for that, so
# its first version is published by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$(node -p "require('./package.json').name")
version=$(node -p "require('./package.json').version")
if [ "${GITHUB_REF_NAME-v$version}" != "v$version" ]; then
  echo "The tag is $GITHUB_REF_NAME, and package.json says $version" >&2
  exit 1
fi
# Who asks for no version gets no unfinished one.
case $version in *-*) tag=next ;; *) tag=latest ;; esac
# Only a workflow can say where a package comes from.
provenance=(${GITHUB_ACTIONS:+--provenance})

read -ra platforms < <(node -p "require('./lib/addon').PLATFORMS.join(' ')")
node npm/package.js "${platforms[@]}"
for package in "${platforms[@]/#/$name-}" "$name"; do
  if npm view "$package@$version" version >/dev/null 2>&1; then
    echo "$package@$version is published"
    continue
  fi
  npm publish --access public --tag "$tag" ${provenance[@]+"${provenance[@]}"} "$@" "./dist/$package-$version.tgz"
done
