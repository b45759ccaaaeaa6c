#!/usr/bin/env bash
# Installs what building and running need and this Debian machine lacks: C and C++ compilers, PostgreSQL's programs, Rust; with
# `tests` as its argument, also the programs of MariaDB, PgBouncer and Redis, libfaketime, Prometheus, Chromium with its
# driver, and RabbitMQ 4 in the user's cache; with `deny`, cargo-deny.
# As root, or as a user with sudo. Does nothing where all is there.
set -euo pipefail

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

has_postgres() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

# Debian's packages start what they install; nobody needs that here. A policy that somebody else made is left alone.
policy=/usr/sbin/policy-rc.d
ours='exit 101 # while eventloader is set up'
without_services() {
    [ -e "$policy" ] && return
    printf '#!/bin/sh\n%s\n' "$ours" | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
    trap with_services EXIT
}
with_services() {
    if [ -e "$policy" ] && grep -qF "$ours" "$policy"; then as_root rm -f "$policy"; fi
}

# The Rust that Cargo.toml asks for, or a later one.
has_rust() {
    command -v cargo >/dev/null || return 1
    local have want
    have=$(cargo --version | awk '{print $2}')
    want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
    [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]
}

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
# The configure script of librdkafka asks for a C++ compiler.
command -v c++ >/dev/null || packages+=(g++)
command -v make >/dev/null || packages+=(make)
if ! has_postgres; then
    packages+=(postgresql)
    # Debian would start a server of its own on port 5432; nobody needs it here.
    as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
if [ "${1:-}" = tests ]; then
    command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || packages+=(mariadb-server)
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || packages+=(pgbouncer)
    command -v redis-server >/dev/null || packages+=(redis-server)
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || packages+=(libfaketime)
    command -v prometheus >/dev/null || packages+=(prometheus)
    # Of the same version, so both or none.
    command -v chromedriver >/dev/null || packages+=(chromium chromium-driver)
fi
has_rust || packages+=(curl ca-certificates)
if [ ${#packages[@]} -gt 0 ]; then
    echo "installing ${packages[*]}" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    without_services
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    with_services
    # Nor are they to come with the next boot.
    for service in mariadb pgbouncer redis-server prometheus; do
        if [[ " ${packages[*]} " = *" $service"* ]] && command -v systemctl >/dev/null; then
            as_root systemctl disable --quiet "$service" || true
        fi
    done
fi

if ! has_rust; then
    echo "installing Rust with rustup, for this user" >&2
    if command -v rustup >/dev/null; then
        rustup toolchain install stable --profile minimal --component clippy,rustfmt
    else
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal --component clippy --component rustfmt
    fi
fi

if [ "${1:-}" = tests ]; then "$(dirname "$0")/rabbitmq4.sh" prepare; fi

# Not optimised: a check takes a second either way, and compiling it half the time.
deny=0.20.2
if [ "${1:-}" = deny ] && ! cargo deny --version >/dev/null 2>&1; then
    echo "compiling cargo-deny $deny, once, for this user" >&2
    cargo install --quiet --locked --debug "cargo-deny@$deny"
fi
