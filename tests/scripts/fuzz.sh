#!/usr/bin/env bash
# Coverage-guided fuzzing of everything that reads bytes from outside: `fuzz.sh SECONDS [TARGET…]`.
# What it learns stays in the cache, so that the next run goes on from there. Ends with 1 if a target failed.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=$1
shift
cache=$CALLBOX_CACHE
export CARGO_TARGET_DIR="$cache/fuzz/target"
# The instrumentation is a flag that only a nightly compiler takes, or a stable one that is told to.
export RUSTC_BOOTSTRAP=1
command -v cargo-fuzz >/dev/null || cargo install --locked --root "$cache/tools" cargo-fuzz

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then mapfile -t targets < <(basename -s .rs fuzz_targets/*.rs); fi
for target in "${targets[@]}"; do
    corpus="$cache/fuzz/corpus/$target"
    mkdir -p "$corpus" "$cache/fuzz/failures"
    echo "--- $target: $seconds s"
    # The corpus of the repository is where every machine begins; what is learnt beyond it stays in the cache.
    cargo fuzz run --release "$target" "$corpus" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=1024 -timeout=5 -print_final_stats=1 \
        -artifact_prefix="$cache/fuzz/failures/$target-"
done
