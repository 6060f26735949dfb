#!/usr/bin/env bash
# The card at hand: is what it computes right (test), is it fast enough (bench). Enters: the sources, or where there is no compiler the
# archive; leaves: dist/callbox-gpu.tar.gz, all that a machine with a card needs beside its driver and CUDA's libraries, and where
# there is a card benches/results/CARD-test.json or CARD-bench.json. Ends as callbox-gpu does: with 3 where there is no card.
#   packaging/cuda/gpu.sh test|bench [OPTION...]        options of callbox-gpu
# CALLBOX_CUDA_ARCHS: the compute capability of the card, if it is no H200 (90).
set -euo pipefail
cd "$(dirname "$0")/../.."

what=${1:?test or bench}
shift
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
models=${CALLBOX_MODELS:-$cache/models}
export CALLBOX_CUDA_ARCHS=${CALLBOX_CUDA_ARCHS:-90}
archive=dist/callbox-gpu.tar.gz
# Models travel apart.
most=$((60 << 20))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

libraries=${LD_LIBRARY_PATH:-}
if command -v cargo >/dev/null; then
    engine=$cache/engine-cuda-${CALLBOX_CUDA_ARCHS// /-}
    program=$(dirname "$(packaging/cuda/build.sh "$engine")")/callbox-gpu
    kokoro=$models/kokoro-82m/kokoro-v1.0.int8.onnx
    if [ ! -e "$kokoro" ]; then echo "$what-gpu: $kokoro is missing: run make models PACK=kokoro-82m" >&2; exit 1; fi
    mkdir -p "$work/callbox-gpu/hollow" dist
    strip -o "$work/callbox-gpu/callbox-gpu" "$program"
    # A graph without its weights: those are drawn where it runs.
    "$program" hollow "$kokoro" "$work/callbox-gpu/hollow/${kokoro##*/}"
    cp packaging/cuda/run.sh "$work/callbox-gpu/"
    git describe --always --dirty --abbrev=12 >"$work/callbox-gpu/commit"
    # gzip, because a machine with nothing but a card has it.
    tar -C "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c callbox-gpu | gzip -6n >"$archive.$$"
    mv "$archive.$$" "$archive"
    if [ "$(stat --format %s "$archive")" -ge "$most" ]; then echo "$what-gpu: $archive is larger than $most bytes" >&2; exit 1; fi
    rm -rf "$work/callbox-gpu"
    libraries=${libraries:+$libraries:}$engine/lib/callbox/cuda
elif [ ! -e "$archive" ]; then
    echo "$what-gpu: there is no compiler here, and no $archive: make it where there is one" >&2
    exit 1
fi

tar -C "$work" -xzf "$archive"
status=0
LD_LIBRARY_PATH=$libraries "$work/callbox-gpu/run.sh" "$what" --threads "$(nproc)" --out "$work/result.json" "$@" || status=$?
if [ "$status" = 3 ]; then
    echo "$what-gpu: nothing was run: unpack $archive where there is a card of NVIDIA's, and run callbox-gpu/run.sh $what there" >&2
elif [ -e "$work/result.json" ]; then
    card=$(python3 -c 'import json, sys
name = json.load(open(sys.argv[1]))["machine"].get("card", {}).get("name", "processor")
print("-".join(name.lower().removeprefix("nvidia ").split()))' "$work/result.json")
    mkdir -p benches/results
    cp "$work/result.json" "benches/results/$card-$what.json"
    echo "benches/results/$card-$what.json"
fi
exit "$status"
