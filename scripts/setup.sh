#!/usr/bin/env bash
# Makes .venv and installs the project into it, with the versions of constraints.txt.
#
#   scripts/setup.sh             what the server needs
#   scripts/setup.sh --opens2s   also torch and what else OpenS2S needs (the CPU build where there is no GPU)
#   scripts/setup.sh --sip       also what telephone calls need, Kamailio and rtpengine among it
#   scripts/setup.sh --test      also the dev tools, Chromium and promtool
#
# Running it again does nothing, at once and without network, until pyproject.toml, constraints.txt, this file
# or the Python version changes.
#
#   PYTHON=...                        the interpreter to use (3.11 to 3.13)
#   RTC_SERVER_ALLOW_CUDA_TORCH=1     install torch's CUDA build (about 3 GB) where no CPU build can be had
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
CPU_INDEX=https://download.pytorch.org/whl/cpu

mode=run
[[ "${1:-}" == "--test" ]] && mode=test
[[ "${1:-}" == "--opens2s" ]] && mode=opens2s
[[ "${1:-}" == "--sip" ]] && mode=sip

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# --- Debian packages: libopus for the media path, libgomp for llama.cpp, Chromium and Node.js for the tests' clients

debian_packages() {
    local wanted=(libopus0 libgomp1) missing=() package
    if [[ $mode == test ]] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
        wanted+=(chromium)
    fi
    if [[ $mode == test ]] && ! command -v npm >/dev/null; then
        wanted+=(nodejs npm) # native WebRTC clients for the load test and the client tests
    fi
    local known=${#wanted[@]} # without what only Debian's packages bring
    if [[ $mode == test ]]; then
        wanted+=(coturn faketime) # what the fault tests do to a server: a TURN server that goes, a clock that steps
    fi
    if [[ $mode == test || $mode == sip ]]; then
        wanted+=(kamailio kamailio-tls-modules kamailio-extra-modules rtpengine-daemon) # the telephone edge
    fi
    if [[ $mode == test ]]; then
        # Telephones for the edge's tests; machines in a box to put them in; a TLS store for Chromium.
        wanted+=(sip-tester baresip-core iproute2 tcpdump libnss3-tools)
    fi
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        [[ $mode == test && $known -gt 2 ]] && say "Chromium or npm was not found; tests with those clients need them."
        [[ $mode == sip ]] && say "Debian's packages are not to be had here; please install Kamailio 5.6 and rtpengine 10.5 or later."
        return 0
    fi
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    install_debian "${missing[@]}" || say "some packages could not be installed; going on without: ${missing[*]}"
    # Debian starts the proxy and the relay that it installs, with a configuration that nobody asked for.
    if [[ " ${missing[*]} " == *" kamailio "* && -d /run/systemd/system && $(id -u) -eq 0 ]]; then
        systemctl disable --quiet --now kamailio rtpengine-daemon || say "kamailio or rtpengine-daemon could not be stopped"
    fi
}

install_debian() {
    [[ $# -eq 0 ]] && return 0
    if [[ $(id -u) -ne 0 ]]; then
        say "please run: sudo apt-get install -y $*"
        return 0
    fi
    say "installing $*"
    local quiet=(-qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0)
    export DEBIAN_FRONTEND=noninteractive
    apt-get update "${quiet[@]}" >/dev/null || say "apt-get update failed; trying with the lists that are here"
    apt-get install "${quiet[@]}" -y --no-install-recommends "$@" </dev/null >/dev/null
}

# --- Python

VERSION_CHECK='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

is_supported() { "$1" -c "$VERSION_CHECK" >/dev/null 2>&1; } # runs it: version managers leave shims that do not work

can_make_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

find_python() {
    local candidate supported=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        is_supported "$candidate" || continue
        supported=$candidate
        can_make_venv "$candidate" && { echo "$candidate"; return 0; }
    done
    [[ -z $supported ]] && fail "no Python 3.11, 3.12 or 3.13 was found; install one, or name it: PYTHON=/path/to/python make setup"
    # Debian ships ensurepip in a package of its own.
    local version
    version=$("$supported" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if command -v apt-get >/dev/null; then
        install_debian "python$version-venv" || true
    fi
    can_make_venv "$supported" || fail "$supported cannot make virtual environments; install its venv module (python$version-venv)"
    echo "$supported"
}

make_venv() {
    local python
    is_supported "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return 0
    python=$(find_python)
    say "making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    # Progress and retries of downloads are better in newer pips; an old one serves too.
    "$VENV/bin/python" -m pip install --quiet --upgrade pip >/dev/null 2>&1 || say "pip could not be upgraded; going on with the one that is here"
}

# --- torch: the CPU build on machines without a GPU

has_gpu() { [[ -e /dev/nvidia0 ]] || { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }; }

can_reach() {
    "$VENV/bin/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)' "$1" >/dev/null 2>&1
}

install_torch() {
    local version index=()
    [[ $(uname -s) != Linux ]] && return 0 # elsewhere the ordinary build is the CPU build
    has_gpu && return 0
    version=$(sed -nE 's/^torch==([0-9.]+).*/\1/p' constraints.txt)
    can_reach "$CPU_INDEX/torch/" && index=(--extra-index-url "$CPU_INDEX")
    pip_install "${index[@]}" "torch==$version+cpu" && return 0
    [[ "${RTC_SERVER_ALLOW_CUDA_TORCH:-}" == 1 || $(uname -m) != x86_64 ]] && return 0
    fail "there is no CPU build of torch $version for this Python here, and no GPU. Use Python 3.11 to 3.13 with access to $CPU_INDEX, or install the CUDA build (about 3 GB) with RTC_SERVER_ALLOW_CUDA_TORCH=1"
}

# --- the project

pip_install() {
    local volume=--quiet
    [[ -t 1 ]] && volume=--progress-bar=on # somebody is watching
    "$VENV/bin/python" -m pip install "$volume" --disable-pip-version-check --no-input --prefer-binary \
        --constraint constraints.txt "$@"
}

# --- Prometheus for the tests of monitoring/: taken out of Debian's package, because installing that starts one here

prometheus_tools() {
    [[ $mode == test ]] || return 0
    command -v promtool >/dev/null && command -v prometheus >/dev/null && return 0
    [[ -x $VENV/prometheus/promtool && -x $VENV/prometheus/prometheus ]] && return 0
    local folder
    folder=$(mktemp -d)
    say "getting promtool and prometheus"
    if download_debian prometheus "$folder" && dpkg-deb --extract "$folder"/prometheus_*.deb "$folder/package"; then
        mkdir -p "$VENV/prometheus"
        mv "$folder"/package/usr/bin/{promtool,prometheus} "$VENV/prometheus/"
    else
        say "promtool could not be had; tests that need it are skipped. To run them, install Prometheus."
    fi
    rm -rf "$folder"
}

download_debian() { # NAME FOLDER
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    (cd "$2" && apt-get download -qq "$1" >/dev/null 2>&1) && return 0
    [[ $(id -u) -eq 0 ]] || return 1
    apt-get update -qq >/dev/null 2>&1 # the lists may be missing or old
    (cd "$2" && apt-get download -qq "$1" >/dev/null 2>&1)
}

fingerprint() {
    { cat pyproject.toml constraints.txt scripts/setup.sh; "$VENV/bin/python" --version; pwd; } | cksum
}

debian_packages
make_venv
prometheus_tools
stamp="$VENV/.setup-$mode"
if [[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]]; then
    exit 0
fi
started=$SECONDS
if [[ $mode == test ]]; then
    say "installing the server, the dev tools and torch; a few minutes the first time"
    install_torch
    pip_install --editable '.[dev,opens2s,cluster,tracing,sip,cleaning]'
elif [[ $mode == opens2s ]]; then
    say "installing the server and torch; a few minutes the first time"
    install_torch
    pip_install --editable '.[opens2s]'
elif [[ $mode == sip ]]; then
    say "installing the server with what telephone calls need; about a minute the first time"
    pip_install --editable '.[sip,cleaning]'
else
    say "installing the server; about a minute the first time"
    pip_install --editable .
fi
fingerprint >"$stamp"
if [[ $mode == test ]]; then # what a larger set-up installs, a smaller one need not
    fingerprint | tee "$VENV/.setup-opens2s" >"$VENV/.setup-sip"
fi
[[ $mode != run ]] && fingerprint >"$VENV/.setup-run"
say "done in $((SECONDS - started)) s"
