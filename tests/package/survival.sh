# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: calls that are up while the daemon is killed, hangs, runs out of memory, is restarted, gives up.

# With a real engine, which outlives the daemon.
survives_talking() {
    tiny
    x systemctl restart callbox.service
    talk
    x systemctl kill --signal=KILL --kill-whom=main callbox.service
    talked "kill -9 in a call"
}

survives() {
    # A daemon that hangs is noticed sooner than in production, so that the callers need not wait for it.
    drop_in watchdog '[Service]' WatchdogSec=3s
    scripted
    hum 20 12
    ends_and_goes_on "kill -9" x systemctl kill --signal=KILL --kill-whom=main callbox.service
    ends_and_goes_on "a restart" x systemctl restart callbox.service
    if memory=$(memory_controller); then
        ends_and_goes_on "out of memory" out_of_memory
        has "$suite: out of memory: systemd says what it saw" "$(x journalctl --unit=callbox.service --lines=120)" \
            "Main process exited, code=killed, status=9/KILL"
    else skip "$suite: out of memory" "this computer has no memory controller (cgroup v1) to set a limit with"; fi
    ends_and_goes_on "a daemon that hangs" x systemctl kill --signal=STOP --kill-whom=main callbox.service
    has "$suite: a daemon that hangs: the watchdog ended it" "$(x journalctl --unit=callbox.service --lines=120)" "Watchdog timeout"
    hummed "killed, restarted, out of memory, hung" 20
    is "$suite: twenty records of twenty calls, ended by the callers" "$(records 20 | python3 -c '
import json, sys
calls = json.load(sys.stdin)["calls"]
print(len({c["id"] for c in calls}), {c["end_reason"] for c in calls})')" "20 {'caller_hangup'}"
    is "$suite: systemd keeps nothing of calls that are over" "$(show NFileDescriptorStore)" 0
    x rm -r /etc/systemd/system/callbox.service.d
    x systemctl daemon-reload
}

drop_in() { # NAME LINE...
    local name=$1 unit=${unit:-callbox.service}
    shift
    x mkdir -p "/etc/systemd/system/$unit.d"
    printf '%s\n' "$@" | x tee "/etc/systemd/system/$unit.d/$name.conf" >/dev/null
    x systemctl daemon-reload
}

# ends_and_goes_on WHAT CMD...: another daemon answers, and has all twenty calls.
ends_and_goes_on() {
    local what=$1 before
    before=$(show MainPID)
    shift
    "$@"
    comes "$suite: $what: another daemon answers" "[ \$(systemctl show -P MainPID callbox.service) != $before ] && callbox health"
    is "$suite: $what: the calls go on" "$(live)" 20
}

# Where a limit of memory can be set for one process, without the host's other processes.
memory_controller() { awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; found = 1; exit } END { exit !found }' /proc/mounts; }

# The daemon alone comes into a group that may have nothing more: the kernel ends it at the next page that it touches.
out_of_memory() {
    local group=$memory/tb-$machine pid
    pid=$(outside "$(show MainPID)") || return
    mkdir -p "$group"
    echo 0 >"$group/memory.limit_in_bytes"
    echo "$pid" >"$group/cgroup.procs"
    for _ in $(seq 100); do
        [ -d "/proc/$pid" ] || break
        sleep 0.1
    done
    rmdir "$group"
}

# The number that this computer has for a process of the machine.
outside() {
    local status
    for status in $(grep -l "^NSpid:.*[[:space:]]$1$" /proc/[0-9]*/status 2>/dev/null); do
        if grep -q "/tb-$machine/" "${status%status}cgroup"; then
            echo "${status//[!0-9]/}"
            return
        fi
    done
    return 1
}

# systemd before 254 has no growing waits: it gives up, and the timer tries again.
gives_up() {
    local gate=/run/gate
    unit=callbox-rescue.timer drop_in sooner '[Timer]' OnActiveSec= OnActiveSec=2s
    drop_in gate '[Service]' ExecCondition= ExecStart= "ExecStart=sh -c 'test -e $gate && exec /usr/sbin/callboxd; exit 1'"
    x systemctl restart callbox.service 2>/dev/null
    comes "$suite: a daemon that cannot start is given up" "systemctl is-failed callbox.service"
    is "$suite: given up after the limit of starts" "$(show Result) $(x systemctl is-active callbox-rescue.timer)" "exit-code active"
    x touch "$gate"
    comes "$suite: the rescue starts it once it can" "systemctl is-active callbox.service callbox.socket && callbox health"
    x sh -c 'rm -r /etc/systemd/system/callbox.service.d /etc/systemd/system/callbox-rescue.timer.d && systemctl daemon-reload'
}
