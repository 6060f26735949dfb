#!/usr/bin/env bash
# The package for NVIDIA's cards. Enters: what `make engine-cuda` has left in the cache, brought up to date first; leaves:
# callbox-engine-cuda_VERSION-1_amd64.deb and callbox-engine-cuda-VERSION-1.x86_64.rpm in a folder (dist). Without an engine there
# is no package, and that is said. NVIDIA's libraries travel with it, unchanged: Attachment A of their licence, which lies in the
# package, allows that for these four. FAST=1 packs loosely, for tests.
#   packaging/cuda/package.sh [-e ENGINE] [DIR]         ENGINE: the folder that build.sh left, taken as it is
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
engine=$cache/engine-cuda
if [ "${1:-}" = -e ]; then
    engine=$2
    shift 2
elif [ ! -e "$engine" ]; then
    echo "packages: callbox-engine-cuda is left out: \`make engine-cuda\` builds it first" >&2
    exit 0
else
    CALLBOX_CUDA_ARCHS=$(<"$engine/archs") packaging/cuda/build.sh "$engine" >&2
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
out=${1:-dist}
mkdir -p "$out"
out=$(realpath "$out")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022
. packaging/packagers.sh

stage=dist/stage-cuda doc=dist/stage-cuda/usr/share/doc/callbox-engine-cuda
rm -rf "$stage"
mkdir -p "$stage"/usr/{libexec/callbox,lib/callbox/cuda,share/man/man8} "$doc"
strip -o "$stage/usr/libexec/callbox/callbox-engine-cuda" "$engine/libexec/callbox/callbox-engine-cuda"
for library in "$engine"/lib/callbox/cuda/*; do
    install -m 644 "$(realpath "$library")" "$stage/usr/lib/callbox/cuda/${library##*/}"
done
cp packaging/cuda/callbox-engine-cuda.8 "$stage/usr/share/man/man8/"
python3 packaging/inventory.py "$doc/THIRD-PARTY" "$doc/callbox-engine-cuda.cdx.json" "$version" cuda
install -m 644 "$engine/NVIDIA-EULA" "$doc/"
gzip -9n "$stage"/usr/share/man/man8/* "$doc"/{THIRD-PARTY,NVIDIA-EULA}
cat >"$stage/changelog" <<TEXT
callbox-engine-cuda ($version-1) stable; urgency=medium

  * What has changed for operators: /usr/share/doc/callbox/NEWS.md.gz

 -- The Callbox authors <packages@callbox.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT

deb=$out/callbox-engine-cuda_${version}-1_amd64.deb
rpm=$out/callbox-engine-cuda-${version}-1.x86_64.rpm
cargo deb ${FAST:+--fast} --quiet --locked --no-build --no-strip --package callbox-engine --deb-version "$version-1" --output "$deb"
cargo generate-rpm ${FAST:+--payload-compress gzip} --package daemon/engine --set-metadata "version = \"$version\"" --output "$rpm"
rm -rf "$stage"
ls "$deb" "$rpm"
