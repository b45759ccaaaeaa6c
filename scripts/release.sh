#!/usr/bin/env bash
# Builds a release into dist/: the binary, what is in it (SBOM), and their checksums. The same commit, toolchain and
# builder image give the same bytes, in whatever directory: docs/release.md says how far that holds.
# release.sh [FEATURES]: cargo features beside the usual ones, as `otel`.
set -euo pipefail
cd "$(dirname "$0")/.."
features=${1:-}
dist=dist

# What differs between machines: the time, the locale, and the directories that end up in messages of panics and in C's
# __FILE__.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
export RUSTFLAGS="--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$sysroot=/rust \
--remap-path-prefix=$PWD=/src"
prefixes="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$PWD=/src"
export CFLAGS="$prefixes" CXXFLAGS="$prefixes"

[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "warning: what is built is not what is committed" >&2

# With cargo-auditable the list of crates is in the binary as well, for scanners of images.
build=build
command -v cargo-auditable >/dev/null && build="auditable build"
# shellcheck disable=SC2086
cargo $build --release --locked --features "$features" --bin eventloader
mkdir -p "$dist"
cp "${CARGO_TARGET_DIR:-target}/release/eventloader" "$dist/eventloader"
rustc -vV >"$dist/toolchain.txt"

if command -v cargo-cyclonedx >/dev/null; then
    # It writes beside Cargo.toml.
    cargo cyclonedx --format json --spec-version 1.5 --features "$features" --override-filename eventloader.cdx
    mv eventloader.cdx.json "$dist/"
else
    echo "no SBOM: cargo-cyclonedx is missing; cargo install --locked cargo-cyclonedx" >&2
fi
(cd "$dist" && sha256sum eventloader toolchain.txt $([ -e eventloader.cdx.json ] && echo eventloader.cdx.json) | tee SHA256SUMS)
