#!/usr/bin/env bash
# Writes the pages of docs/ that the program prints. A page is replaced only when all of it was printed.
set -euo pipefail
cd "$(dirname "$0")/.."

eventloader=${CARGO_TARGET_DIR:-target}/debug/eventloader
write() {
    "$eventloader" "${@:2}" >"docs/$1.new"
    mv "docs/$1.new" "docs/$1"
}
write configuration.md config schema --markdown
write check.md check --explain
