#!/usr/bin/env bash
# The packages, as a person meets them: from a signed repository into a clean machine with a real systemd, started, called,
# killed, upgraded, removed. Enters: the executables of `make build`, the pack `tiny`; leaves: a line for each thing that
# must hold, and last "N passed, N failed". What this computer cannot do is counted as skipped, never as passed.
#   tests/package/test.sh [SUITE]...     default: bookworm trixie bookworm-rpm trixie-updates bookworm-times
# The suite that measures times runs last and alone. FIGURES=FILE writes its times there as JSON.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
bed=$PWD/tests/package/boot.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/callbox
models=${CALLBOX_MODELS:-$cache/models}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export QUIET=1
suites=("$@")
[ $# -gt 0 ] || suites=(bookworm trixie bookworm-rpm trixie-updates bookworm-times)

passed=0 failed=0 skipped=0
packages=$(mktemp -d)
work=$packages
chmod 755 "$work"
declare -A running=()
# shellcheck disable=SC2317
finish() {
    [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null
    wait
    rm -rf "$packages"
}
trap finish EXIT
trap 'exit 130' INT TERM

pass() { passed=$((passed + 1)); echo "PASS $1"; }
fail() { failed=$((failed + 1)); echo "FAIL $1${2:+: $2}"; }
skip() { skipped=$((skipped + 1)); echo "SKIP $1: $2"; }
is() { if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "wanted '$3', got '$2'"; fi; }
has() { case $2 in *"$3"*) pass "$1" ;; *) fail "$1" "'$3' is not in '$2'" ;; esac; }
holds() { local what=$1; shift; if "$@" >"$work/log" 2>&1; then pass "$what"; else fail "$what" "$(tail -n 5 "$work/log")"; fi; }
now() { date +%s%N; }
seconds() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.2f", (to - from) / 1e9 }'; }
ended() {
    [ "$skipped" -eq 0 ] || echo "$skipped skipped"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

for part in files machine life survival faults egress boots rpm litestream updates; do . "tests/package/$part.sh"; done

# One machine, in a shell of its own: its lines come as they are, its counts at the end.
machine_of() {
    local suite=$1
    passed=0 failed=0 skipped=0 machine= work=$packages/$suite
    running=()
    mkdir "$work"
    # shellcheck disable=SC2317
    stop() {
        if [ "$failed" -gt 0 ] && [ -n "$machine" ]; then
            echo "     $suite: what its journal warns of, last:"
            x journalctl --unit=callbox.service --priority=warning --quiet --no-pager --output=short-monotonic | tail -n 20
        fi
        [ -z "$machine" ] || "$bed" stop "$machine"
        echo "$passed $failed $skipped" >"$packages/$suite.counts"
    }
    trap stop EXIT
    case $suite in
        *-rpm) on_rpm_machine "$suite" ;;
        *-updates) on_update_machine "${suite%-updates}" ;;
        *-times) on_times_machine "${suite%-times}" ;;
        *) on_machine "$suite" ;;
    esac
}

begin_on() {
    machine_of "$1" &
    running[$1]=$!
}
end_on() {
    local good bad left
    wait "${running[$1]}"
    unset "running[$1]"
    read -r good bad left <"$packages/$1.counts" || { fail "$1: the machine ends"; return; }
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
}

if ! make_packages; then ended; fi
if why=$("$bed" check); then
    for suite in "${suites[@]}"; do
        [[ $suite == *-times ]] || begin_on "$suite"
    done
    check_packages
    for suite in "${suites[@]}"; do
        [[ $suite == *-times ]] || end_on "$suite"
    done
    for suite in "${suites[@]}"; do
        [[ $suite == *-times ]] || continue
        begin_on "$suite"
        end_on "$suite"
    done
else
    check_packages
    skip "packages under a real systemd" "$why"
fi
ended
