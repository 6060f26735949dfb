#!/usr/bin/env bash
# The engine for NVIDIA's cards, where there is none: it is compiled and linked for one kind of card; what the file holds and needs
# is read from it; what it says where the driver, or a card that it can use, is missing is heard from it. Never here: a card.
# Ends with 1 at the first thing that does not hold. The first run compiles for minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
models=${CALLBOX_MODELS:-$cache/models}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

is() { [ "$2" = "$3" ] || { echo "FAIL $1: wanted '$3', got '$2'"; exit 1; }; }
has() { case $2 in *"$3"*) ;; *) echo "FAIL $1: '$3' is not in '$2'"; exit 1 ;; esac; }

CALLBOX_CUDA_ARCHS=90 packaging/cuda/build.sh --lint
engine=$(CALLBOX_CUDA_ARCHS=90 packaging/cuda/build.sh "$cache/engine-cuda-90")
cuda=$(packaging/cuda/toolkit.sh)

# ---------------------------------------------------------------- what is in the file
holds() { "$cuda/bin/cuobjdump" "--list-$1" "$2" | grep -o "sm_[0-9a-z]*" | sort -u | xargs; }
is "machine code for" "$(holds elf "$engine")" sm_90
is "PTX for" "$(holds ptx "$engine")" sm_90
is "candle's own kernels, as PTX, are for the oldest card" "$(grep -a -o '^\.target sm_[0-9a-z]*' "$engine" | sort -u)" ".target sm_80"
kernels=$(find "$cuda"/target-90-*/release/build -name kernels.fatbin -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
is "machine code of the engine's own kernels" "$(holds elf "$kernels")" sm_90
is "PTX of them" "$(holds ptx "$kernels")" sm_90
archs=$(<packaging/cuda/archs)
CALLBOX_CUDA_ARCHS=$archs "$cuda/bin/nvcc-archs" -gencode=arch=compute_80,code=sm_80 -c -o "$work/kernel.o" tests/cuda/kernel.cu
is "machine code of what is shipped" "$(holds elf "$work/kernel.o")" "sm_${archs// / sm_}"
is "PTX of what is shipped" "$(holds ptx "$work/kernel.o")" "sm_${archs##* }"

# ---------------------------------------------------------------- what the file needs
needed=$(readelf --dynamic --wide "$engine" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | xargs)
is "libraries" "$needed" "ld-linux-x86-64.so.2 libc.so.6 libcublas.so.13 libcudart.so.13 libcurand.so.10 libgcc_s.so.1 libm.so.6 libstdc++.so.6"
missing=$(env -u LD_LIBRARY_PATH ldd "$engine" | grep -c 'not found' || true)
is "libraries that are not found beside it" "$missing" 0

# ---------------------------------------------------------------- what it says
says() { LD_LIBRARY_PATH=$1 "$engine" --socket "$work/socket" --cache "$work/cache" --embed "$models/minilm-l6-v2/model.safetensors" 2>&1 || echo "status $?"; }
# Not even where a driver is installed is this one loaded.
mkdir "$work/none" && : >"$work/none/libcuda.so.1"
has "no driver" "$(says "$work/none")" "the driver of NVIDIA's cards is missing: libcuda.so.1 was not found; install driver 580 or newer"
has "no driver: status" "$(says "$work/none" | tail -n 1)" "status 1"
while read -r name version cards capability sentence; do
    mkdir "$work/$name"
    cc -shared -fPIC -Wall -Werror "-DVERSION=$version" "-DCARDS=$cards" "-DCAPABILITY=$capability" \
        -o "$work/$name/libcuda.so.1" tests/cuda/driver.c
    has "$name" "$(says "$work/$name")" "$sentence"
    has "$name, for the daemon" "$(<"$work/socket.why")" "$sentence"
done <<'CASES'
old-driver 12080 1 90 the driver of NVIDIA's cards is too old: it is for CUDA 12.8, this engine for CUDA 13.0; install driver 580 or newer
no-card 13000 0 90 the driver shows no card of NVIDIA's
old-card 13000 1 75 the card Stand-in has compute capability 7.5, and nothing in this engine runs on it: it was built for 9.0
other-card 13000 1 89 the card Stand-in has compute capability 8.9, and nothing in this engine runs on it: it was built for 9.0
half-a-driver 13000 1 90 CUDA_ERROR_NOT_SUPPORTED
CASES

# ---------------------------------------------------------------- what it computes without a card
coproc ENGINE { LD_LIBRARY_PATH=$work/none exec "$engine" --socket "$work/socket" --cache "$work/cache" --guard-stdin --device cpu \
    --embed "$models/minilm-l6-v2/model.safetensors" 2>&1; }
pid=$ENGINE_PID
while read -r line <&"${ENGINE[0]}"; do case $line in *'"message":"ready"'*) break ;; esac; done
has "on the processor" "${line:-it ended}" '"message":"ready"'
eval "exec ${ENGINE[1]}>&-"
wait "$pid"
echo "callbox-engine-cuda: machine code for 9.0, PTX for 8.0 and 9.0, $(stat --format %s "$engine") bytes"
