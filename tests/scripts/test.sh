#!/usr/bin/env bash
# Every check and every test. All of them run, whatever fails; the last line says how many.
# `test.sh lint` does only what needs nothing to be run. PACK=starter adds what needs 1.3 GB of models; without it that
# is counted as skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."

passed=0 failed=0 skipped=0 log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

report() { printf -- '--- %s: %s in %d s\n' "$1" "$2" "$3"; }

# One command that counts as one test.
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@"; then passed=$((passed + 1)); report "$name" passed $((SECONDS - start))
    else failed=$((failed + 1)); report "$name" FAILED $((SECONDS - start)); fi
}

# A `cargo test` whose own counts are added. One that could not even start counts as one failure.
suite() {
    local name=$1 start=$SECONDS good bad
    shift
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    read -r good bad < <(awk '/^test result:/ { good += $4; bad += $6 } END { print good + 0, bad + 0 }' "$log")
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + good)) failed=$((failed + bad))
    report "$name" "$good passed, $bad failed" $((SECONDS - start))
}

# A script whose last lines are "N skipped", if any were, and "N passed, N failed".
script() {
    local name=$1 start=$SECONDS good bad left
    shift
    "$@" 2>&1 | tee "$log"
    read -r good bad left < <(awk '/^[0-9]+ passed, [0-9]+ failed$/ { good = $1; bad = $3; told = 1 }
        /^[0-9]+ skipped$/ { left = $1 } END { print good + 0, told ? bad : 1, left + 0 }' "$log")
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
    report "$name" "$good passed, $bad failed, $left skipped" $((SECONDS - start))
}

finish() {
    [ "$skipped" -eq 0 ] || echo "$skipped skipped"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

# One cargo profile and always the whole workspace, so that crates have one set of features: what is tested is what is
# shipped, and nothing is compiled twice. Targets with `test = false` run when they are named.
cargo_test() { cargo test --locked --release --no-fail-fast --workspace "$@"; }

scenarios() { cargo_test --test scenarios -- "$@"; }
# Scenarios that measure times, or log every packet, have the machine for themselves.
measuring=(the_console a_killed_engine a_card_that_dies a_voice_on_the_telephone the_agent_stops_for_a_caller a_killed_daemon an_answer_goes_on logs::)

if [ "${1:-}" != lint ]; then
    check build cargo build --locked --release --workspace --bins
    check models "$CARGO_TARGET_DIR/release/callbox" models pull tiny
    check "models, kokoro" "$CARGO_TARGET_DIR/release/callbox" models pull kokoro-82m
    check "peers of the API" tests/console/setup.sh
fi
check format cargo fmt --all --check
check clippy cargo clippy --locked --release --workspace --all-targets -- -D warnings
check "clippy, the rest" cargo clippy --locked --release --workspace --test scenarios --test mind_qwen -- -D warnings
check documentation env RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps
command -v cargo-deny >/dev/null || cargo install --quiet --locked --root "$CALLBOX_CACHE/tools" cargo-deny
check licences cargo deny --log-level error check licenses bans sources
if [ "${1:-}" = lint ]; then
    suite tidy cargo_test --test tidy
    finish
fi

suite unit cargo_test
if [ "${PACK:-}" = starter ]; then
    check "models, starter" "$CARGO_TARGET_DIR/release/callbox" models pull starter
    suite "unit, starter" cargo_test --test mind_qwen
else skipped=$((skipped + $(grep -c '^#\[test\]$' daemon/engine/tests/mind_qwen.rs))); fi
check "engine for cards" tests/cuda/test.sh
check "package for cards" tests/cuda/package.sh
check "what tries cards" tests/cuda/gpu.sh
suite "end-to-end" scenarios --test-threads=4 "${measuring[@]/#/--skip=}"
# Its machines run side by side, and beside nothing else: callers who wait for an answer, and a compiler, would wait for
# each other.
script packages tests/package/test.sh
suite "end-to-end, times" scenarios --test-threads=1 "${measuring[@]}"
finish
