#!/usr/bin/env bash
# Builds the addon and its packages twice, and compares: here, and in another folder, with another umask, target folder and
# home of cargo. The same compiler, linker, Node and npm are to make the same bytes of the same source.
#
#   scripts/reproduce.sh [--built] [target]
#
# Without a target it is built as `npm run build` does it, with one as scripts/build-target.sh does. --built takes the
# binary that is in the root folder already, for instance a released one, in place of one that is built here.
set -euo pipefail
cd "$(dirname "$0")/.."

built=
if [ "${1-}" = --built ]; then
  built=1
  shift
fi
target=${1-}

build() {
  if [ "$target" ]; then scripts/build-target.sh "$target"; else npm run --silent build; fi
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
source=$folder/elsewhere/source
mkdir -p "$source" "$folder/cargo" "$folder/here" "$folder/there"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from - | tar --extract --directory "$source"
[ ! -e node_modules ] || ln -s "$PWD/node_modules" "$source"
# Not what was downloaded already: only where it is to be found.
for entry in "${CARGO_HOME:-$HOME/.cargo}"/{*,.[!.]*}; do
  [ ! -e "$entry" ] || ln -s "$entry" "$folder/cargo"
done
(
  umask 077
  cd "$source"
  export CARGO_HOME=$folder/cargo CARGO_TARGET_DIR=$folder/target
  build
)
[ "$built" ] || build

binary=$(basename "$source"/sticky-listen.*.node)
platform=${binary#sticky-listen.}
platform=${platform%.node}
node npm/package.js --out "$folder/here" "$platform"
(
  umask 077
  cd "$source"
  node npm/package.js --out "$folder/there" "$platform"
)
cp "$binary" "$folder/here"
cp "$source/$binary" "$folder/there"

differ=0
for file in "$folder"/here/*; do
  for place in here there; do (cd "$folder/$place" && sha256sum "$(basename "$file")" | sed "s/\$/ ($place)/"); done
  cmp "$file" "$folder/there/$(basename "$file")" || differ=1
done
if [ $differ = 1 ]; then
  echo 'What was built twice differs' >&2
  exit 1
fi
