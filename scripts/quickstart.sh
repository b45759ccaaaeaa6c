#!/usr/bin/env bash
# Runs eventloader on examples/quickstart.toml, with the HTTP API it asks started beside it. Ctrl-C stops both.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}/debug
port=${ORDERS_PORT:-8099}
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
"$target/examples/event_server" "$port" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
# The loader drains on a signal by itself; this script only has to live until it is done.
trap '' INT
trap 'kill -TERM "$loader" 2>/dev/null || true' TERM
ORDERS_PORT=$port "$target/eventloader" run --config examples/quickstart.toml --log-format text "$@" &
loader=$!
status=0
while kill -0 "$loader" 2>/dev/null; do wait "$loader" && status=0 || status=$?; done
exit "$status"
