#!/usr/bin/env bash
# NVIDIA's compiler, without a card, a driver or root. Enters: requirements.txt; leaves: a folder of the cache, whose path is
# printed, with bin, include and lib as CUDA has them. Wheels are unpacked, and only if they are what requirements.txt says.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "engine-cuda: the compiler is pinned for Linux on x86_64, and this is $(uname -sm)" >&2
    exit 1
fi
kit=$cache/cuda-13.0-$(sha256sum <"$here/requirements.txt" | head -c 8)
mkdir -p "$cache"
exec 9>"$cache/cuda.lock"
flock 9
if [ ! -e "$kit" ]; then
    echo "engine-cuda: fetching NVIDIA's compiler, 0.7 GB, into $kit" >&2
    rm -rf "$kit.part"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-deps --no-compile \
        --only-binary=:all: --require-hashes --target "$kit.part" --requirement "$here/requirements.txt"
    # The linker looks for names without a version.
    for library in "$kit.part"/nvidia/cu13/lib/lib*.so.[0-9]*; do
        name=${library##*/}
        ln -s "$name" "${library%/*}/${name%%.so.*}.so"
    done
    mv "$kit.part" "$kit"
fi
echo "$kit/nvidia/cu13"
