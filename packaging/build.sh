#!/usr/bin/env bash
# The packages. Enters: the executables of `make build`; leaves: callbox_VERSION-1_amd64.deb and
# callbox-VERSION-1.x86_64.rpm in a folder (dist). The same executables, commit and public key (sign.sh) give the same
# bytes. Nothing is compiled or signed here. FAST=1 packs loosely, for tests.
#   packaging/build.sh [-v VERSION] [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ "${1:-}" = -v ]; then version=$2; shift 2; fi
out=${1:-dist}
mkdir -p "$out"
out=$(realpath "$out")

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022

cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
. packaging/packagers.sh

# One tree for both: what lies where on the machine.
stage=dist/stage doc=dist/stage/usr/share/doc/callbox
rm -rf "$stage"
mkdir -p "$stage"/usr/{bin,sbin,lib/callbox,libexec/callbox} "$stage"/usr/share/{man/man{1,5,8},bash-completion/completions} \
    "$stage"/usr/share/{zsh/vendor-completions,fish/vendor_completions.d} "$doc"
built=${CARGO_TARGET_DIR:-$cache/target}/release
strip -o "$stage/usr/sbin/callboxd" "$built/callboxd"
strip -o "$stage/usr/bin/callbox" "$built/callbox"
strip -o "$stage/usr/libexec/callbox/callbox-engine" "$built/callbox-engine"

# Who may send this machine packages and model packs without a repository.
install -m 644 "$(packaging/sign.sh --public)" "$stage/usr/lib/callbox/callbox.pub"

words=$(mktemp -d)
trap 'rm -rf "$words"' EXIT
"$built/callbox" generate "$words"
packaging/monitoring/dashboards.py "$stage/usr/lib/callbox/monitoring"
cp "$words"/*.1 "$stage/usr/share/man/man1/"
cp packaging/man/*.5 "$stage/usr/share/man/man5/"
cp packaging/man/*.8 "$stage/usr/share/man/man8/"
gzip -9n "$stage"/usr/share/man/man*/*
cp "$words/callbox.bash" "$stage/usr/share/bash-completion/completions/callbox"
cp "$words/_callbox" "$stage/usr/share/zsh/vendor-completions/"
cp "$words/callbox.fish" "$stage/usr/share/fish/vendor_completions.d/"

python3 packaging/inventory.py "$doc/THIRD-PARTY" "$doc/callbox.cdx.json" "$version"
cp docs/*.md "$doc/"
cp CHANGELOG.md "$doc/NEWS.md"
gzip -9n "$doc"/{THIRD-PARTY,NEWS.md}
# Debian's own changelog says only which build this is.
cat >dist/stage/changelog <<TEXT
callbox ($version-1) stable; urgency=medium

  * What has changed for operators: /usr/share/doc/callbox/NEWS.md.gz

 -- The Callbox authors <packages@callbox.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT

deb=$out/callbox_${version}-1_amd64.deb
rpm=$out/callbox-${version}-1.x86_64.rpm
cargo deb ${FAST:+--fast} --quiet --locked --no-build --no-strip --package callbox --deb-version "$version-1" --output "$deb"
cargo generate-rpm ${FAST:+--payload-compress gzip} --package daemon --set-metadata "version = \"$version\"" --output "$rpm"
rm -rf "$stage"
ls "$deb" "$rpm"
