# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: one machine with a real systemd, and what can be done in it. Each is a shell of its own, with a folder
# of its own; machines run side by side, because they mostly wait for people who talk.

x() { "$bed" exec "$machine" "$@"; }
show() { x systemctl show "${2:-callbox.service}" --property="$1" --value; }
status() { x systemctl status --no-pager --full --lines=50 "${1:-callbox.service}"; }
waits_for() { for _ in $(seq 200); do x sh -c "$1" >/dev/null 2>&1 && return; sleep 0.1; done; return 1; }
comes() { if waits_for "$2"; then pass "$1"; else fail "$1" "$(show StatusText); $(status | tail -n 5)"; fi; }
records() { x callbox call list --limit "${1:-200}" --json; }
# The owner's file.
configure() { printf '%s\n' "$@" | x tee /etc/callbox/callbox.toml >/dev/null; }
tiny() { configure '[models]' 'pack = "tiny"'; }

# ---------------------------------------------------------------- one caller who speaks, and an engine that thinks
# Callers are patient: machines beside this one load their models, too.
dial() {
    x callbox dial sip:frontdesk@127.0.0.1 --unchecked --transcribe --json --patience 60000 \
        --weights /var/tmp/weights --say "How much does a double room cost?" 2>"$work/dial.err"
}
answered() { python3 -c 'import json, sys; print(all(a["text"] for a in json.load(sys.stdin)["answers"]) or "nothing")'; }
# A caller who asks three things, through whatever happens to the daemon meanwhile.
talk() {
    x callbox dial sip:frontdesk@127.0.0.1 --unchecked --transcribe --json --weights /var/tmp/weights --patience 60000 \
        --say "How much does a double room cost?" --say "Is there a garden?" --say "When is breakfast?" \
        >"$work/talk" 2>"$work/talk.err" &
    talker=$!
    waits_for "callbox call list --json | grep -q '\"state\":\"listening\"'"
}
talked() {
    wait "$talker"
    is "$suite: $1: a voice followed each of the caller's questions" "$(python3 -c '
import json, sys
answers = json.load(sys.stdin)["answers"]
print(len(answers), all(answer.get("voice_to_voice_ms") for answer in answers) or answers)' <"$work/talk")" "3 True"
    is "$suite: $1: it was one call" "$(records | python3 -c '
import json, sys
call = json.load(sys.stdin)["calls"][0]
print(call["state"], call["turns"] >= 3)')" "ended True"
}

# ---------------------------------------------------------------- many callers who hum, and a script that answers
script='[engine]
kind = "scripted"
script = "/opt/kit/script.toml"
[agents]
paths = ["/opt/kit/agents"]
[sip.limits]
invites_per_second = 1000
burst = 1000'
scripted() {
    configure "$script" "$@"
    x systemctl restart callbox.service || status | tail -n 5
}
make_kit() {
    mkdir -p "$1/agents"
    cat >"$1/script.toml" <<'TOML'
ms_per_character = 40
[[answer]]
heard = "What do you know?"
say = "There is a garden."
TOML
    cat >"$1/agents/desk.toml" <<'TOML'
name = "desk"
numbers = ["*"]
persona = "You are kind."
greeting = "Good day."
goodbye = "Goodbye."
TOML
    python3 - "$1/hum.wav" <<'PYTHON'
import math, struct, sys, wave
with wave.open(sys.argv[1], "wb") as out:
    out.setnchannels(1), out.setsampwidth(2), out.setframerate(8000)
    for n in range(4800):
        out.writeframes(struct.pack("<h", int(6000 * math.sin(math.tau * 400 * n / 8000))))
PYTHON
}
# hum CALLERS QUESTIONS: all at once, in the background; each question takes two seconds and a half.
hum() {
    x callbox dial sip:desk@127.0.0.1 --unchecked --json --calls "$1" --rounds "$2" --play /opt/kit/hum.wav --pause 600 \
        --patience 12000 >"$work/hum" 2>"$work/hum.err" &
    hummers=$!
    waits_for "test \$(callbox call list --limit 200 --json | grep -o '\"state\":\"listening\"' | wc -l) = $1"
}
live() { records | grep -o '"state":"[a-z]*"' | grep -c -v -E 'ended|lost'; }
# hummed WHAT CALLERS: none of them was cut off, and the last question of each was answered.
hummed() {
    wait "$hummers"
    is "$suite: $1: no call was lost, every last question was answered" "$(python3 -c '
import json, sys
report = json.load(sys.stdin)
last = {answer["call"]: answer for answer in report["answers"]}
print(len(last), "calls,", len(report["cut_off"]), "cut off,",
    sum(answer["voice_to_voice_ms"] is None for answer in last.values()), "without the last answer")' <"$work/hum" 2>&1)" \
        "$2 calls, 0 cut off, 0 without the last answer"
}

# ---------------------------------------------------------------- a machine
# The first time a new machine; after `boot.sh stop -k` or `kill` the same one again.
turn_on() {
    "$bed" start -s "$suite" -b "$work/site:/opt/callbox" -b "$models:/opt/models" -b "$work/kit:/opt/kit" "$machine"
}

begin() {
    machine=$suite-$$
    cp -r "$packages/now" "$work/site"
    make_kit "$work/kit"
    if ! turn_on; then
        fail "$suite: a machine boots"
        machine=
        return 1
    fi
    echo "---- $suite: $(x systemctl --version | head -n 1)"
}

on_machine() {
    local suite=$1
    begin || return
    installs
    starts
    obeys
    survives
    # What takes long is shared out among the machines; the one with the .rpm has a part, too.
    case $suite in
        bookworm) gives_up; keeps_to_itself; upgrades; goes_back; recovers ;;
        *) survives_talking; explains; outlasts; upgrades ;;
    esac
    boots
    tampered
    leaves
}

on_times_machine() {
    local suite=$1
    begin && times
}
