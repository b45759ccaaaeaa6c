#!/usr/bin/env bash
# RabbitMQ 4 with the stream plugin for the tests, on Debian 12 and 13, as root or as any user: the packages of Debian
# 13, unpacked into the user's cache and run from there; nothing is installed on the machine.
#
#   scripts/rabbitmq4.sh prepare      download and unpack, once: 70 MB, then 200 MB on disk
#   scripts/rabbitmq4.sh root         print where it is unpacked
#   scripts/rabbitmq4.sh run NAME     run the broker whose files are in tmp/NAME below that place, as told on standard
#                                     input: start, stop, kill, freeze, thaw; at its end everything ends and is removed
set -euo pipefail

# Counts up when what is unpacked changes, so that an older copy is not taken for this one.
layout=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/eventloader
root=$cache/rabbitmq4-trixie-$layout-$(uname -m)

fail() { echo "rabbitmq4.sh: $*" >&2; exit 1; }

# The mirror this machine has its own Debian from; it has Debian 13 as well.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v name="$codename" '($1 == name || $1 == "stable") && $2 == "main" { print $3; exit }'
}

keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        if [ -e "$file" ]; then echo "$file"; return; fi
    done
    fail "no keyring of Debian's archive: apt-get install debian-archive-keyring"
}

# Downloads into $1 what the broker and the few programs around it need, from Debian 13 alone.
download() {
    local uri apt=$1
    uri=$(mirror)
    [ -n "$uri" ] || fail "no mirror of Debian in apt's sources; RabbitMQ 4 for the tests comes from there"
    mkdir -p "$apt"/{lists/partial,cache/archives/partial}
    echo "deb [signed-by=$(keyring)] $uri trixie main" >"$apt/sources.list"
    # Nothing counts as installed, so that all it depends on comes along.
    : >"$apt/status"
    local options=(
        -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null
        -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache"
        -o APT::Sandbox::User=root -o APT::Default-Release= -o Debug::NoLocking=1
        -o Acquire::Languages=none -o Acquire::Retries=3
    )
    apt-get "${options[@]}" -qq update
    apt-get "${options[@]}" -qq -y --no-install-recommends --download-only install rabbitmq-server base-files dash \
        bash coreutils sed grep mawk util-linux procps hostname findutils >/dev/null
}

# Unpacks the packages in $1 to $2.
unpack() {
    local name package
    mkdir -p "$2"/usr/{bin,lib,sbin,lib64}
    # Before the packages bring directories of these names.
    for name in bin lib sbin lib64; do ln -s "usr/$name" "$2/$name"; done
    for package in "$1"/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$2" --no-same-owner --keep-directory-symlink --exclude='./dev/*'
    done
    mkdir -p "$2"/{proc,dev,tmp,etc}
    echo 'root:x:0:0:root:/:/bin/sh' >"$2/etc/passwd"
    echo 'root:x:0:' >"$2/etc/group"
    echo '127.0.0.1 localhost' >"$2/etc/hosts"
}

prepare() {
    if [ -d "$root" ]; then return; fi
    mkdir -p "$cache"
    exec 9>"$cache/rabbitmq4.lock"
    flock 9
    # What a killed run has left; nobody else is at it while the lock is ours.
    rm -rf -- "$cache"/rabbitmq4-unpacking.*
    if [ -d "$root" ]; then return; fi
    echo "unpacking RabbitMQ 4 into $root" >&2
    local work
    work=$(mktemp -d "$cache/rabbitmq4-unpacking.XXXXXX")
    download "$work/apt"
    unpack "$work/apt/cache/archives" "$work/root"
    chmod 755 "$work/root"
    # Whole, or not there at all.
    mv -T "$work/root" "$root"
    rm -rf -- "$work"
}

# Serves one broker. Runs as root of the machine or of a namespace of its own.
serve() {
    local name=$1 root=$2 broker='' epmd='' command
    # Whatever fails, the end of the input is what ends this.
    set +e
    trap '' HUP INT TERM
    if [ -n "${MOUNTS:-}" ]; then
        mount --rbind /proc "$root/proc"
        mount --rbind /dev "$root/dev"
    else
        # A container that may not mount may make device files, and the broker does without /proc.
        [ -c "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
        [ -c "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
    fi
    local home=/tmp/$name
    local variables=()
    mapfile -t variables <"$root$home/environment"
    inside() {
        exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/usr/sbin LANG=C.UTF-8 HOME="$home" \
            RABBITMQ_MNESIA_BASE="$home/data" RABBITMQ_LOG_BASE="$home/log" RUNNING_UNDER_SYSTEMD=1 \
            RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" \
            RABBITMQ_CONF_ENV_FILE=/dev/null "${variables[@]}" "$@"
    }
    run_in() { (inside "$@") </dev/null >>"$root$home/output" 2>&1 & }
    end_broker() {
        [ -n "$broker" ] || return 0
        kill "-$1" "$broker" 2>/dev/null || true
        wait "$broker" 2>/dev/null || true
        broker=''
    }
    # Here in the foreground; the broker would leave one behind.
    run_in epmd
    epmd=$!
    while read -r command; do
        case $command in
            start) run_in /usr/lib/rabbitmq/bin/rabbitmq-server; broker=$! ;;
            stop) end_broker TERM ;;
            kill) end_broker KILL ;;
            freeze) kill -STOP "$broker" ;;
            thaw) kill -CONT "$broker" ;;
            *) echo "unknown: $command" >&2 ;;
        esac
        echo "$command"
    done
    end_broker KILL
    kill -KILL "$epmd" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf -- "${root:?}${home:?}"
}

run() {
    [ -d "$root" ] || fail "nothing is unpacked; scripts/setup.sh tests does it"
    local as=() self
    self=$(realpath "$0")
    if [ "$(id -u)" = 0 ]; then
        if unshare --mount true 2>/dev/null; then as=(unshare --mount env MOUNTS=1); fi
    elif unshare --map-root-user --mount true 2>/dev/null; then
        as=(unshare --map-root-user --mount env MOUNTS=1)
    else
        as=(sudo -n unshare --mount env MOUNTS=1)
    fi
    exec "${as[@]}" bash "$self" serve "$1" "$root"
}

case ${1:-} in
    prepare) prepare ;;
    root) echo "$root" ;;
    run) run "${2:?the name of the broker}" ;;
    serve) serve "$2" "$3" ;;
    *) sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 2 ;;
esac
