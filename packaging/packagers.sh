# shellcheck shell=bash
# Part of build.sh and cuda/package.sh: the two packagers, in versions that these were tried with. Enters: the cache; leaves: both on
# PATH.
tools=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}/tools
export PATH=$tools/bin:$PATH
for tool in cargo-deb@3.8.0 cargo-generate-rpm@0.21.1; do
    command -v "${tool%@*}" >/dev/null || cargo install --quiet --locked --root "$tools" "$tool"
done
