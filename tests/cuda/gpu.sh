#!/usr/bin/env bash
# What tries a card, without one. Enters: the engine that test.sh has built; leaves: nothing. Everything is run on the processor in
# small shapes, and its results are read; without a card it says so and does not count as passed. Ends with 1 at the first thing
# that does not hold.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
models=${CALLBOX_MODELS:-$cache/models}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

is() { [ "$2" = "$3" ] || { echo "FAIL $1: wanted '$3', got '$2'"; exit 1; }; }
has() { case $2 in *"$3"*) ;; *) echo "FAIL $1: '$3' is not in '$2'"; exit 1 ;; esac; }

# Not even where a driver is installed is this one loaded.
mkdir "$work/none" && : >"$work/none/libcuda.so.1"
no_card() {
    local said status=0
    said=$(LD_LIBRARY_PATH=$work/none:$2 packaging/cuda/gpu.sh "$1" 2>&1) || status=$?
    is "no card, $1: status" "$status" 3
    has "no card, $1" "$said" "the driver of NVIDIA's cards is missing"
    has "no card, $1" "$said" "nothing was run: unpack dist/callbox-gpu.tar.gz where there is a card"
}
libraries=$cache/engine-cuda-90/lib/callbox/cuda
no_card test ""
# And where there is no compiler, as on the machines that it is for.
PATH=/usr/sbin:/usr/bin:/sbin:/bin no_card bench "$libraries"

tar -C "$work" -xzf dist/callbox-gpu.tar.gz
run() { LD_LIBRARY_PATH=$work/none:$1 "$work/callbox-gpu/run.sh" "${@:2}" 2>&1; }
if ! /sbin/ldconfig -p | grep -q libcublas.so.13; then
    said=$(CUDA_HOME=$work run "$work" test --device cpu) && status=0 || status=$?
    is "no library: status" "$status" 1
    has "no library" "$said" "libcublas.so.13 libcublasLt.so.13 libcurand.so.10 not found: install"
fi
# Once with the models that are there, once with none.
run "$libraries" test --device cpu --quick --models "$models" --out "$work/test.json" >"$work/log" || { cat "$work/log"; exit 1; }
run "$libraries" test --device cpu --quick --seed 2 --out "$work/drawn.json" >"$work/log" || { cat "$work/log"; exit 1; }
run "$libraries" bench --device cpu --quick --out "$work/bench.json" >"$work/log" || { cat "$work/log"; exit 1; }
python3 - "$work" <<'PYTHON'
import json, math, sys

test, drawn, bench = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("test", "drawn", "bench"))
for result in (test, drawn, bench):
    assert result["quick"] and result["failed"] == 0 and result["stamp"] and "card" not in result["machine"], result
    assert result["note"].startswith("computed by the processor"), result["note"]
for rows in (test["rows"], drawn["rows"]):
    assert len(rows) >= 30 and all(row["met"] is True for row in rows.values()), rows
real = [row["weights"] for key, row in test["rows"].items() if key.startswith(("Whisper", "MiniLM", "Kokoro"))]
assert real == ["real"] * 6 and {row["weights"] for row in drawn["rows"].values()} == {"random"}, real
rows = bench["rows"]
wanted = {"copy", "decode_1", "decode_16", "decode_64", "adapters", "talking", "whisper_tiny", "whisper_turbo",
          "kokoro_1", "kokoro_32", "kokoro_32_batch"}
assert rows.keys() == wanted, rows.keys()
for key, row in rows.items():
    # Nothing is judged here.
    assert row["met"] is None and math.isfinite(row["figure"]) and row["figure"] > 0, (key, row)
# What only a card can do says so.
assert rows["decode_16"]["more"]["kernels_of_ours"] is False and rows["decode_16"]["more"]["bound_ms"] > 0
assert {rows[key]["more"]["tokens_per_segment"] for key in ("whisper_tiny", "whisper_turbo")} == {10.0}, rows
print(f"callbox-gpu: {len(test['rows'])} tests and {len(rows)} benches ran on the processor")
PYTHON
echo "callbox-gpu: $(stat --format %s dist/callbox-gpu.tar.gz) bytes to carry"
