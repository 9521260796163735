#!/bin/sh
# The steps that put the server onto a Debian 12 machine. deploy/docker/Dockerfile runs them, scripts/clean_root.sh runs
# them in an empty Debian, and so can you on a machine of your own (as root):
#
#   install.sh packages [MORE]   what the server needs to run: Python, libopus, libgomp, certificate authorities
#   install.sh build-packages    what only building the virtual environment needs
#   install.sh venv [EXTRAS]     the server in /opt/rtc-server, with the versions of constraints.txt; EXTRAS such as
#                                "opens2s" or "opens2s,cluster". Wheels only, so no compiler.
#   install.sh user              the user rtc-server, its folders, and /etc/rtc-server for settings and keys
set -eu

PREFIX=/opt/rtc-server
HOME_DIR=/var/lib/rtc-server
CONFIG_DIR=/etc/rtc-server
UID_GID=10001 # numeric in the image too, so that Kubernetes can tell that it is not root
BUILD_BACKEND='hatchling==1.33.0' # builds our own wheel; not part of the result

SOURCE=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'install: %s\n' "$*" >&2; }

# Not pinned: Debian keeps only the newest version of each package, so a pin breaks the build at every security fix.
# The release is pinned by the image it starts from.
apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >/dev/null
    rm -rf /var/lib/apt/lists/*
}

make_venv() {
    extras=${1:-}
    constraints=$(mktemp)
    cat "$SOURCE/constraints.txt" >"$constraints"
    printf '%s\n' "$BUILD_BACKEND" >>"$constraints"
    export PIP_CONSTRAINT="$constraints" # by the environment, so that it holds for the build of our wheel too
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
    python3 -m venv "$PREFIX"
    "$PREFIX/bin/python" -m pip install --quiet --only-binary :all: "$SOURCE${extras:+[$extras]}"
    "$PREFIX/bin/python" -m pip freeze --exclude rtc-server >"$PREFIX/packages.txt" # what a scanner reads, and a person
    "$PREFIX/bin/python" -m pip uninstall --quiet --yes setuptools # pip stays: `rtc-server models fetch` uses it
    rm -f "$constraints"
    say "$(wc -l <"$PREFIX/packages.txt") packages in $PREFIX"
}

make_user() {
    if ! id rtc-server >/dev/null 2>&1; then
        groupadd --gid "$UID_GID" rtc-server
        useradd --no-log-init --no-create-home --uid "$UID_GID" --gid "$UID_GID" --home-dir "$HOME_DIR" --shell /usr/sbin/nologin rtc-server
    fi
    for folder in "$HOME_DIR" "$HOME_DIR/certs" "$HOME_DIR/models" "$HOME_DIR/recordings" "$HOME_DIR/sip"; do
        install -d -o rtc-server -g rtc-server -m 0750 "$folder"
    done
    install -d -o root -g rtc-server -m 0750 "$CONFIG_DIR"
    # The server looks for config/server.toml and config/keys in the folder that it runs in.
    [ -e "$HOME_DIR/config" ] || ln -s "$CONFIG_DIR" "$HOME_DIR/config"
}

case "${1:-}" in
packages)
    shift
    apt_install python3 libopus0 libgomp1 ca-certificates "$@" # libgomp: of llama.cpp
    ;;
build-packages) apt_install python3-venv ca-certificates ;;
venv) make_venv "${2:-}" ;;
user) make_user ;;
*)
    say "usage: install.sh packages [MORE] | build-packages | venv [EXTRAS] | user"
    exit 2
    ;;
esac
