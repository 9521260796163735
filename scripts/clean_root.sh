#!/usr/bin/env bash
# Does the image work? Without a Docker engine: makes an empty Debian, runs the image's own steps in it (deploy/install.sh),
# starts its entry point as the image would (process 1, not root, no capabilities, root file system read-only), calls it
# from outside, and stops it with SIGTERM. Needs root, debootstrap and a network; takes a few minutes and 2 GB for a while.
#
#   scripts/clean_root.sh                    the embedded models, fetched into an empty volume at first start
#   BACKEND=echo scripts/clean_root.sh       another backend
#   KEEP=/some/folder scripts/clean_root.sh  keeps the root there, and uses it again the next time
#
# The last line of the output is JSON with what each step took.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RELEASE=bookworm # as the image's base
MIRROR=${MIRROR:-http://deb.debian.org/debian}
BACKEND=${BACKEND:-cascade}
START_SECONDS=300 # to the first /readyz: 160 MB of models and loading them
STOP_SECONDS=60

say() { printf 'clean root: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[[ $(id -u) -eq 0 ]] || fail "this needs root (chroot, mounts)"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
[[ -x .venv/bin/rtc-server ]] || fail "the caller is the one of .venv: make setup-test"

work=$(mktemp -d)
root=${KEEP:-$work/root}
state=$work/state # the volumes: all that the server may write
server=""         # pid of unshare, whose only child is process 1 of the container

clean_up() {
    local status=$?
    set +e
    [[ -n $server ]] && kill -KILL "$server" 2>/dev/null && wait "$server" 2>/dev/null # --kill-child ends the rest
    if [[ $status -ne 0 && -f $work/server.log ]]; then tail -n 40 "$work/server.log" >&2; fi
    # Mounts were made in the mount namespace of the server or are undone here, before anything is deleted.
    mountpoint -q "$root/proc" && umount "$root/proc"
    if mountpoint -q "$root/proc"; then say "$root/proc is still mounted; not deleting $work"; else
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

declare -A took
timed() {
    local name=$1 from=$EPOCHREALTIME
    shift
    say "$name"
    "$@"
    took[$name]=$(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}

inside() { chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "${pip[@]}" "$@"; }

# --- the base image

bootstrap() {
    [[ -d $root/usr ]] && return 0
    mkdir -p "$root"
    debootstrap --variant=minbase "$RELEASE" "$root" "$MIRROR" >"$work/debootstrap.log" 2>&1 || {
        tail -n 5 "$work/debootstrap.log" >&2
        fail "debootstrap failed"
    }
}

# What a build machine gives every container: names, and, where it has its own, certificates and package index.
lend_network() {
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$root/usr/local/share/build-machine.pem"
    pip=(PIP_CERT=/usr/local/share/build-machine.pem SSL_CERT_FILE=/usr/local/share/build-machine.pem)
    [[ -n ${PIP_INDEX_URL:-} ]] && pip+=(PIP_INDEX_URL="$PIP_INDEX_URL")
    return 0
}

# --- the steps of the Dockerfile

copy_sources() {
    rm -rf "$root/src" "$root/opt/rtc-server"
    mkdir -p "$root/src"
    # Exactly what Dockerfile.dockerignore lets through.
    sed -n 's/^!//p' deploy/docker/Dockerfile.dockerignore |
        tar --create --exclude __pycache__ --files-from - | tar --extract --no-same-owner --directory "$root/src"
    install -m 0755 deploy/docker/entrypoint.sh "$root/usr/local/bin/rtc-server-entrypoint"
}

install_server() {
    mount -t proc proc "$root/proc"
    inside /src/deploy/install.sh packages
    inside /src/deploy/install.sh build-packages
    inside /src/deploy/install.sh venv
    inside /src/deploy/install.sh user
    umount "$root/proc"
}

# --- the container

free_port() { .venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# In namespaces of its own, so that every mount and process is gone with it. The network is this machine's, as with
# `docker run --network host`.
start() {
    local folder
    for folder in certs models recordings; do install -d -o 10001 -g 10001 -m 0750 "$state/$folder"; done
    install -d -m 0755 "$state/etc"
    cp deploy/docker/server.toml "$state/etc/"
    RTC_SERVER_API_KEY=$(.venv/bin/rtc-server keys add clean-root --file "$state/etc/keys" 2>/dev/null)
    export RTC_SERVER_API_KEY
    chmod 0644 "$state/etc/"*
    port=$(free_port)
    # shellcheck disable=SC2016 # the inner shell has them in its environment
    ROOT=$root STATE=$state PORT=$port BACKEND=$BACKEND unshare --mount --pid --ipc --uts --fork --kill-child=SIGKILL \
        --propagation private bash -euc '
        mount --bind "$ROOT" "$ROOT"
        mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc"
        mount -t tmpfs -o nosuid,size=1m,mode=755 tmpfs "$ROOT/dev"
        for device in null zero random urandom; do
            touch "$ROOT/dev/$device"
            mount --bind "/dev/$device" "$ROOT/dev/$device"
        done
        mkdir -m 1777 "$ROOT/dev/shm"
        mount -t tmpfs -o nosuid,nodev,noexec,size=64m tmpfs "$ROOT/dev/shm"
        mount -t tmpfs -o nosuid,nodev,size=64m,mode=1777 tmpfs "$ROOT/tmp"
        for folder in certs models recordings; do
            mount --bind "$STATE/$folder" "$ROOT/var/lib/rtc-server/$folder"
        done
        mount --bind "$STATE/etc" "$ROOT/etc/rtc-server"
        mount -o remount,bind,ro "$ROOT/etc/rtc-server"
        mount -o remount,bind,ro "$ROOT"
        cd "$ROOT"
        exec chroot . /usr/bin/setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all \
            --bounding-set=-all env -i -C /var/lib/rtc-server HOME=/var/lib/rtc-server \
            PATH=/opt/rtc-server/bin:/usr/local/bin:/usr/bin:/bin PIP_CERT=/usr/local/share/build-machine.pem \
            ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} SSL_CERT_FILE=/usr/local/share/build-machine.pem \
            PYTHONUNBUFFERED=1 \
            rtc-server-entrypoint serve --host 127.0.0.1 --http-port "$PORT" --https-port 0 --realtime-port 0 \
            --backend "$BACKEND"
    ' >"$work/server.log" 2>&1 </dev/null &
    server=$!
    wait_ready
}

wait_ready() {
    local deadline=$((SECONDS + START_SECONDS))
    until curl --silent --fail --output /dev/null --max-time 2 "http://127.0.0.1:$port/readyz"; do
        kill -0 "$server" 2>/dev/null || fail "the server has ended"
        ((SECONDS < deadline)) || fail "not ready after $START_SECONDS s"
        sleep 0.5
    done
}

check_confinement() {
    local main
    main=$(pgrep --parent "$server")
    grep -q '^Uid:[[:space:]]10001[[:space:]]10001' "/proc/$main/status" || fail "process 1 is not user 10001"
    grep -q '^CapEff:[[:space:]]0*$' "/proc/$main/status" || fail "process 1 has capabilities"
    grep -q '^NoNewPrivs:[[:space:]]1$' "/proc/$main/status" || fail "process 1 may gain privileges"
    grep -q '^NSpid:.*[[:space:]]1$' "/proc/$main/status" || fail "the server is not process 1 of its container"
    [[ $(tr '\0' ' ' <"/proc/$main/cmdline") == *rtc-server* ]] || fail "process 1 is not the server"
    if nsenter --target "$main" --mount --pid --root --wd sh -c 'echo x >/opt/rtc-server/written' 2>/dev/null; then
        fail "the root file system is writable"
    fi
}

call() {
    .venv/bin/rtc-server call --url "http://127.0.0.1:$port" --say tests/data/speech/go_forward_ten_meters.wav --json >"$work/call.out" ||
        fail "the call was not answered"
    tail -n 1 "$work/call.out" >"$work/call.json"
}

# SIGTERM to process 1, as `docker stop` sends it; unshare ends with its exit code.
stop() {
    local main deadline=$((SECONDS + STOP_SECONDS)) status=0
    main=$(pgrep --parent "$server")
    kill -TERM "$main"
    while kill -0 "$main" 2>/dev/null; do
        ((SECONDS < deadline)) || fail "still there $STOP_SECONDS s after SIGTERM"
        sleep 0.1
    done
    wait "$server" || status=$?
    server=""
    [[ $status -eq 0 ]] || fail "exit code $status after SIGTERM"
}

timed bootstrap bootstrap
lend_network
copy_sources
timed install install_server
timed start start
check_confinement
timed call call
timed stop stop

packages=$(wc -l <"$root/opt/rtc-server/packages.txt")
mb() { du --summarize --block-size=1M --one-file-system "$1" | cut -f 1; }
printf '{"release": "%s", "backend": "%s", "bootstrap_s": %s, "install_s": %s, "start_s": %s, "call_s": %s, "stop_s": %s, ' \
    "$RELEASE" "$BACKEND" "${took[bootstrap]}" "${took[install]}" "${took[start]}" "${took[call]}" "${took[stop]}"
printf '"packages": %s, "root_mb": %s, "venv_mb": %s, "models_mb": %s, "call": %s}\n' \
    "$packages" "$(mb "$root")" "$(mb "$root/opt/rtc-server")" "$(mb "$state/models")" "$(cat "$work/call.json")"
