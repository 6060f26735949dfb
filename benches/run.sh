#!/usr/bin/env bash
# Every bench, one after another on an otherwise idle machine, each into benches/results/NAME.json; then the table of
# SPECIFICATION.md and a status that says whether every bar was met. `run.sh stt media` runs only these.
set -uo pipefail
cd "$(dirname "$0")/.."
export CALLBOX_CACHE=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CALLBOX_CACHE/target}
export CALLBOX_MODELS=${CALLBOX_MODELS:-$CALLBOX_CACHE/models}
results=benches/results built=$CARGO_TARGET_DIR/release peers=$CALLBOX_CACHE/peers
threads=$(nproc)

benches/peers/setup.sh || exit
cargo build --locked --release --workspace --bins --examples || exit
for models in starter tiny kokoro-82m; do "$built/callbox" models pull "$models" || exit; done

wanted=("$@")
failed=()
bench() {
    local name=$1
    shift
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
    echo "--- $name: $*"
    # A figure of yesterday must not stand for a bench that failed today.
    rm -f "$results/$name.json"
    "$@" || failed+=("$name")
    # One that missed its own bar has a result all the same.
    if [ -e "$results/$name.json" ]; then benches/collect.py --stamp "$results/$name.json" -- "$@"; fi
}

bench stt "$peers/stt/bin/python" benches/peers/stt.py --ours "$built/examples/bench_stt" --threads "$threads" \
    --out "$results/stt.json"
bench forms python3 benches/forms.py --ours "$built/examples/bench_stt" --threads "$threads" --out "$results/forms.json"
bench llm "$peers/llm/bin/python" benches/peers/llm.py "$built/examples/bench_llm" "$CALLBOX_MODELS" \
    "$CALLBOX_CACHE/weights" "$results/llm.json" --threads "$threads"
bench batch "$built/examples/bench_batch" "$CALLBOX_MODELS/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf" \
    "$CALLBOX_CACHE/weights" "$results/batch.json"
bench tts "$peers/tts/bin/python" benches/peers/tts.py "$built/examples/bench_tts" \
    "$CALLBOX_MODELS/piper-joe/en_US-joe-medium.onnx" --threads "$threads" --out "$results/tts.json"
bench roundtrip "$peers/stt/bin/python" benches/roundtrip.py --bin "$built" --out "$results/roundtrip.json"
bench kokoro "$peers/tts/bin/python" benches/peers/kokoro.py "$built/examples/bench_tts" \
    "$CALLBOX_MODELS/kokoro-82m/af_heart.bin" --threads "$threads" --out "$results/kokoro.json"
bench kokoro-heard "$peers/stt/bin/python" benches/roundtrip.py --bin "$built" --voice af_heart \
    --out "$results/kokoro-heard.json"
bench audio "$peers/audio/bin/python" benches/audio.py --bin "$built" --out "$results/audio.json"
bench media "$built/media"
bench load "$built/load" --out "$results/load.json"
bench backup python3 benches/backup.py --bin "$built" --out "$results/backup.json"
bench records "$built/records" --out "$results/records.json"
bench api python3 benches/api.py --bin "$built" --out "$results/api.json"
bench flood "$built/flood" --out "$results/flood.json"
bench kills "$built/kills" --out "$results/kills.json"
bench calls python3 benches/calls.py --bin "$built" --out "$results/calls.json"
bench cache "$built/cache" --out "$results/cache.json"
bench cached python3 benches/cached.py --bin "$built" --out "$results/cached.json"
bench package env "FIGURES=$results/package.json" tests/package/test.sh bookworm-times

benches/collect.py --write
status=$?
if [ ${#failed[@]} -gt 0 ]; then echo "benches that failed: ${failed[*]}" >&2; exit 1; fi
exit $status
