#!/usr/bin/env bash
# Starts callboxd on loopback with the example agent, calls it, asks it the questions of config/demo.toml aloud, and
# ends with the status of that call: 0 only if every spoken answer holds the fact that was asked for. KEEP=1 leaves the
# daemon's log and database behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
pack=${1:-starter}

dir=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then kill -TERM "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    if [ -n "${KEEP:-}" ]; then echo "Kept, with the log and the database: $dir"; else rm -rf "$dir"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

# Ports that are free now.
read -r sip http < <(python3 - <<'PYTHON'
import socket
held = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PYTHON
)

cat >"$dir/callbox.toml" <<TOML
[sip]
udp = ["127.0.0.1:$sip"]
tcp = []
[media]
bind = "127.0.0.1"
[http]
listen = "127.0.0.1:$http"
socket = "$dir/control.sock"
[engine]
run = "$dir"
[models]
dir = "$CALLBOX_MODELS"
pack = "$pack"
cache = "$CALLBOX_CACHE/weights"
[storage]
path = "$dir/callbox.db"
[log]
format = "json"
[agents]
paths = ["$PWD/config/agents"]
TOML
mkdir -p "$CALLBOX_CACHE/weights"

echo "Starting callboxd with the pack $pack: it loads and warms up its models first."
callboxd --config "$dir/callbox.toml" >"$dir/log" 2>&1 &
daemon=$!
ready() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' \
        "http://127.0.0.1:$http/health/ready" 2>/dev/null
}
for ((waited = 0; ; waited++)); do
    if ready; then break; fi
    if ! kill -0 "$daemon" 2>/dev/null || [ "$waited" -ge 300 ]; then
        echo "callboxd did not become ready; the end of its log:" >&2
        tail -n 20 "$dir/log" >&2
        exit 1
    fi
    sleep 0.2
done

# The smallest model is there for the plumbing: it gets facts wrong, so only that it answers is looked at.
checks=(); if [ "$pack" = tiny ]; then checks=(--unchecked --transcribe); fi
callbox dial "sip:frontdesk@127.0.0.1:$sip" --config "$dir/callbox.toml" \
    --questions config/demo.toml --watch --record demo.wav "${checks[@]}" && status=0 || status=$?
if [ "$status" -ne 0 ]; then
    echo "The end of callboxd's log:" >&2
    tail -n 20 "$dir/log" >&2
fi
echo "The call, caller left and agent right: demo.wav"
exit "$status"
