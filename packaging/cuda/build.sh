#!/usr/bin/env bash
# callbox-engine-cuda. Enters: the sources; leaves, in a folder laid out like /usr, libexec/callbox/callbox-engine-cuda, beside it
# callbox-gpu, which tries cards, and, in lib/callbox/cuda, the libraries of NVIDIA's that both need. Nothing is asked of the
# machine: no card, no driver, no toolkit.
#   packaging/cuda/build.sh [DIR]           DIR: engine-cuda in the cache
#   packaging/cuda/build.sh --lint          only what clippy has to say of it
# CALLBOX_CUDA_ARCHS: the compute capabilities to compile for, oldest first, in place of those in archs; each takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
out=${1:-$cache/engine-cuda}
export CALLBOX_CUDA_ARCHS=${CALLBOX_CUDA_ARCHS:-$(<packaging/cuda/archs)}
cuda=$(packaging/cuda/toolkit.sh)
renew() { cmp --quiet "$1" "$2" || { cp "$1" "$2.$$"; mv "$2.$$" "$2"; }; }
renew packaging/cuda/nvcc "$cuda/bin/nvcc-archs"

# The calls are those that cudarc, the crate below candle, knows of this version.
bindings=$(cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu --features callbox-engine/cuda |
    python3 -c 'import json, os, sys
print(*[os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"])')
driver=$cuda/driver-$(cat packaging/cuda/driver.c "$bindings/Cargo.toml" | sha256sum | head -c 8)
if [ ! -e "$driver" ]; then
    part=$(mktemp -d "$driver.XXXX")
    grep -o '^pub unsafe fn cu[A-Z][A-Za-z0-9_]*' "$bindings/src/driver/sys/mod.rs" | sort -u | sed 's/.* \(.*\)/CALL(\1)/' >"$part/calls.h"
    cc -O2 -fPIC -Wall -Wextra -Werror -I "$part" -c packaging/cuda/driver.c -o "$part/driver.o"
    ar rcsD "$part/libcuda.a" "$part/driver.o"
    chmod 755 "$part"
    mv -T "$part" "$driver" 2>/dev/null || rm -rf "$part"
fi

# candle's build does not know for which cards nvcc-archs compiles: so each list of them, and each nvcc-archs, has a folder of its own.
target=$cuda/target-${CALLBOX_CUDA_ARCHS// /-}-$(sha256sum <packaging/cuda/nvcc | head -c 8)
export CARGO_TARGET_DIR=$target NVCC=$cuda/bin/nvcc-archs PATH=$cuda/bin:$PATH
export CUDA_HOME=$cuda CUDA_PATH=$cuda CUDA_ROOT=$cuda CUDA_TOOLKIT_ROOT_DIR=$cuda
CUDAFORGE_THREADS=$(nproc)
export CUDAFORGE_THREADS CUDA_COMPUTE_CAP=80
engine=(--locked --release --package callbox-engine --features cuda)
if [ "${1:-}" = --lint ]; then exec cargo clippy "${engine[@]}" --all-targets -- -D warnings; fi
for program in callbox-engine callbox-gpu; do
    cargo rustc "${engine[@]}" --bin "$program" -- \
        -L "native=$driver" -C "link-arg=-Wl,-rpath,\$ORIGIN/../../lib/callbox/cuda"
done

part=$out.$$
mkdir -p "$part/libexec/callbox" "$part/lib/callbox/cuda"
cp "$target/release/callbox-engine" "$part/libexec/callbox/callbox-engine-cuda"
cp "$target/release/callbox-gpu" "$part/libexec/callbox/callbox-gpu"
for library in libcublas.so.13 libcublasLt.so.13 libcudart.so.13 libcurand.so.10; do
    ln -s "$cuda/lib/$library" "$part/lib/callbox/cuda/$library"
done
cp "$cuda"/../../nvidia_cublas-*.dist-info/licenses/License.txt "$part/NVIDIA-EULA"
echo "$CALLBOX_CUDA_ARCHS" >"$part/archs"
rm -rf "$out"
mv "$part" "$out"
echo "$out/libexec/callbox/callbox-engine-cuda"
