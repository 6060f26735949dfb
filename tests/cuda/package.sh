#!/usr/bin/env bash
# The package for NVIDIA's cards, as files. Enters: the engine that test.sh has built; empty libraries stand in for NVIDIA's, which are
# 0.7 GB and packed as they are. Ends with 1 at the first thing that does not hold.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

is() { [ "$2" = "$3" ] || { echo "FAIL $1: wanted '$3', got '$2'"; exit 1; }; }

engine=$work/engine
mkdir -p "$engine/lib/callbox/cuda" "$work/tree"
ln -s "$cache"/engine-cuda-90/{libexec,NVIDIA-EULA} "$engine/"
for library in "$cache"/engine-cuda-90/lib/callbox/cuda/*; do
    name=${library##*/}
    cc -shared -s -x c -Wl,--no-as-needed "-Wl,-soname,$name" -o "$engine/lib/callbox/cuda/$name" /dev/null
done
FAST=1 packaging/cuda/package.sh -e "$engine" "$work/now" >/dev/null
FAST=1 packaging/cuda/package.sh -e "$engine" "$work/again" >/dev/null
deb=$(echo "$work"/now/*.deb) rpm=$(echo "$work"/now/*.rpm)
cmp "$deb" "$work/again/${deb##*/}"
cmp "$rpm" "$work/again/${rpm##*/}"
lintian --fail-on error,warning "$deb"
rpmlint --strict --config packaging/rpmlint.toml "$rpm" >"$work/log" || { cat "$work/log"; exit 1; }

# Without what one family of distributions has and the other has not.
common() { grep -v -E '/lintian/|/doc/callbox-engine-cuda/(copyright|changelog)|/share/licenses/' | sort; }
is "both packages hold the same files" "$(rpm -qlp "$rpm" 2>/dev/null | common)" \
    "$(dpkg-deb --contents "$deb" | awk '!/^d/ { print substr($6, 2) }' | common)"
dpkg-deb --extract "$deb" "$work/tree"
# Three, because the fourth is asked for by the first.
is "it uses the libraries that come with it" \
    "$(env -u LD_LIBRARY_PATH ldd "$work/tree/usr/libexec/callbox/callbox-engine-cuda" | grep -c " => $work/tree/usr/libexec/callbox/../../lib/callbox/cuda/lib")" 3
is "NVIDIA's licence is in it" "$(zgrep -c '^2.6. Attachment A' "$work/tree/usr/share/doc/callbox-engine-cuda/NVIDIA-EULA.gz")" 1
