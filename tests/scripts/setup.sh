#!/usr/bin/env bash
# Installs the Debian packages that are missing for what is named: build, run, test, packages, bench.
# Says which; asks for root only to install them, and not at all when nothing is missing.
set -euo pipefail

# program or file to look for : Debian package that brings it
declare -A wanted=(
    [build]="cc:build-essential c++:build-essential cmake:cmake"
    [run]="espeak-ng:espeak-ng python3:python3 pip:python3-pip"
    [test]="sipp:sip-tester openssl:openssl baresip:baresip-core sox:sox opusinfo:opus-tools minisign:minisign kamailio:kamailio dnsmasq:dnsmasq-base
        mecab:mecab /var/lib/mecab/dic/ipadic-utf8:mecab-ipadic-utf8
        fail2ban-regex:fail2ban tshark:tshark linphonec:linphone-cli prometheus:prometheus promtool:prometheus
        chromium:chromium curl:curl node:nodejs npm:npm venv:python3-venv
        /usr/share/asterisk/sounds/en_US_f_Allison:asterisk-core-sounds-en-wav"
    [packages]="dpkg-shlibdeps:dpkg-dev minisign:minisign rpmbuild:rpm apt-ftparchive:apt-utils gpg:gpg rpmsign:rpm createrepo_c:createrepo-c
        lintian:lintian rpmlint:rpmlint mmdebstrap:mmdebstrap systemd-nspawn:systemd-container pgrep:procps ip:iproute2"
    [bench]="venv:python3-venv cmake:cmake c++:build-essential"
)

is_here() {
    case $1 in
        /*) [ -e "$1" ] ;;
        venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        pip) command -v pip >/dev/null || python3 -m pip --version >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

if ! command -v cargo >/dev/null; then
    echo "setup: cargo was not found: install Rust 1.90 or newer (rustup.rs)" >&2
    exit 1
fi

missing=()
for purpose in "$@"; do
    for pair in ${wanted[$purpose]}; do
        is_here "${pair%%:*}" || missing+=("${pair##*:}")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

echo "setup: missing Debian packages: ${missing[*]}" >&2
if ! command -v apt-get >/dev/null; then
    echo "setup: this is no Debian: install what they hold by the means of your system, then run this again" >&2
    exit 1
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    root=(sudo)
fi
install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}")
"${install[@]}" || { "${root[@]}" apt-get update -qq && "${install[@]}"; }
