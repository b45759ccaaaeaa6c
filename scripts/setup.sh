#!/usr/bin/env bash
# Installs what building and testing need and this Debian machine lacks: a C compiler, PostgreSQL's programs, PgBouncer,
# Rust.
# As root, or as a user with sudo. Does nothing where all is there.
set -euo pipefail

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

has_postgres() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

has_pgbouncer() { command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; }

# Packages start their services at once, unless this file says no.
start_no_services() {
    local policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || return 0
    trap "as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
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
command -v make >/dev/null || packages+=(make)
if ! has_postgres; then
    packages+=(postgresql)
    # Debian would start a server of its own on port 5432; nobody needs it here.
    as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
has_pgbouncer || packages+=(pgbouncer)
has_rust || packages+=(curl ca-certificates)
if [ ${#packages[@]} -gt 0 ]; then
    echo "installing ${packages[*]}" >&2
    start_no_services
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    # The tests start their own; nor is it to come with the next boot.
    if [[ " ${packages[*]} " = *" pgbouncer "* ]] && command -v systemctl >/dev/null; then
        as_root systemctl disable --quiet pgbouncer
    fi
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
