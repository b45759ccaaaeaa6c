#!/usr/bin/env bash
# Fuzzes one target of fuzz/ with libFuzzer, guided by coverage, on the stable compiler: the pass that counts edges is
# LLVM's own, and the flags that ask for it need no nightly. What crashes stays in fuzz/artifacts/.
# fuzz.sh TARGET SECONDS [libFuzzer's options]; SECONDS 0: build only.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
target=$1 seconds=$2
shift 2
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --release --locked --target "$host" --bin "$target"
[ "$seconds" -gt 0 ] || exit 0
mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
[ -e "$target.dict" ] && set -- -dict="$target.dict" "$@"
exec "target/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=4096 \
    -use_value_profile=1 -artifact_prefix="artifacts/$target/" "$@" "corpus/$target" "seeds/$target"
