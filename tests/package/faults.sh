# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: what is wrong with a box, and what its owner reads in `systemctl status`.

# refuses WHAT SENTENCE [STATUS]: said once, in one sentence, and not tried again and again.
refuses() {
    local what=$1 sentence=$2 code=${3:-78}
    x systemctl restart callbox.service >/dev/null 2>&1
    sleep 0.3
    is "$suite: $what: status $code, no restart" "$(show ExecMainStatus) $(show NRestarts) $(show ActiveState)" "$code 0 failed"
    has "$suite: $what: the status says why" "$(status)" "$sentence"
    x systemctl start callbox-rescue.service
    is "$suite: $what: the rescue lets it be" "$(show ActiveState)" failed
    x systemctl stop callbox-rescue.timer
    x systemctl reset-failed callbox.service callbox.socket
}

explains() {
    local holder
    configure '[media]' 'prots = "1-2"'
    refuses "a wrong key" 'callbox.toml:2: unknown key `prots` in [media]; did you mean `ports`?'
    configure '[engine]' 'kind = "cuda"'
    refuses "an engine that is not there" 'callbox.toml:2: engine.kind: '
    configure '[engine]' 'program = "/usr/libexec/callbox/callbox-engine-cuda"'
    refuses "an engine's program that is not there" 'callbox-engine-cuda is no executable file; install the package callbox or set the key'
    lacks_a_driver
    # Without a file of the owner's the package's counts, and it names the pack `starter`.
    x rm /etc/callbox/callbox.toml
    x umount /var/lib/callbox/models
    refuses "no models" "callbox models pull starter"
    x mount --bind /opt/models /var/lib/callbox/models
    scripted
    x sh -c 'echo nonsense >/etc/callbox/credentials.encrypted/trunk'
    # What the manager says of it is sometimes missing: the journal asks a process that is gone for its unit.
    refuses "a credential that this machine cannot open" "status=243/CREDENTIALS" 243
    x rm /etc/callbox/credentials.encrypted/trunk
    x mv /etc/callbox/credentials /etc/callbox/credentials.away
    refuses "no folder of credentials" "status=243/CREDENTIALS" 243
    x mv /etc/callbox/credentials.away /etc/callbox/credentials
    x systemctl stop callbox.service callbox.socket
    holds_port tcp 8090
    refuses "somebody else has the HTTP port" "http.listen: 127.0.0.1:8090 cannot be used: Address already in use"
    kill "$holder"
    x systemctl stop callbox.socket
    holds_port udp 5060
    refuses "somebody else has port 5060" "udp 0.0.0.0:5060"
    kill "$holder"
    wait "$holder" 2>/dev/null
    holds "$suite: starts once nothing is wrong" x systemctl start callbox.service
    is "$suite: port 5060 belongs to the socket unit again" "$(x systemctl is-active callbox.socket)" active
}

# An engine that cannot start says why, as callbox-engine-cuda does without a driver (tests/cuda); this one says nothing else. The
# daemon waits, because a driver may come late in a boot.
lacks_a_driver() {
    local said="the driver of NVIDIA's cards is missing: libcuda.so.1 was not found; install driver 580 or newer"
    x tee /usr/local/bin/no-driver >/dev/null <<SH
#!/bin/sh
while [ "\$1" != --socket ]; do shift; done
echo "$said" >"\${2%.sock}.why"
exit 1
SH
    x chmod 755 /usr/local/bin/no-driver
    configure '[models]' 'pack = "tiny"' '[engine]' 'program = "/usr/local/bin/no-driver"'
    x systemctl restart --no-block callbox.service
    comes "$suite: a driver that is missing: the status says it" "systemctl status callbox.service | grep -q 'Status: \"calls are refused: .*${said//\'/.}'"
    is "$suite: a driver that is missing: no restart" "$(show NRestarts) $(show ActiveState)" "0 activating"
    x sh -c 'systemctl stop callbox.service; rm /usr/local/bin/no-driver'
}

holds_port() {
    # What the one before has printed must not be taken for its word.
    : >"$work/port"
    "$bed" net "$machine" python3 -c '
import socket, sys, time
kind, port = sys.argv[1], int(sys.argv[2])
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
taken.bind(("0.0.0.0", port))
kind == "udp" or taken.listen()
print("taken", flush=True)
time.sleep(600)' "$1" "$2" >"$work/port" &
    holder=$!
    until grep -q taken "$work/port"; do sleep 0.05; done
}

# A disk that takes nothing: calls go on. It is larger than the write-ahead log, which may grow to 4 MB.
outlasts() {
    local disk=/var/lib/callbox
    x systemctl stop callbox.service 2>/dev/null
    x sh -c "umount $disk/models && mount -t tmpfs -o size=16m,mode=750,uid=\$(id -u callbox),gid=\$(id -g callbox) small $disk"
    scripted
    full_disk
    read_only_disk
    x systemctl stop callbox.service 2>/dev/null
    x sh -c "umount $disk && mount --bind /opt/models $disk/models"
    scripted
}

fault='the database cannot be written'
has_fault() { comes "$suite: $1: the status names the fault" "systemctl status callbox.service | grep -q 'Status:.*calls are answered.*$fault'"; }
has_none() { comes "$suite: $1: it recovers by itself" "systemctl status callbox.service | grep 'Status:.*calls are answered' | grep -v -q '$fault'"; }
lost() { x sh -c "callbox health --json | grep -o '\"records_lost\":[0-9]*' | cut -d : -f 2"; }
since() { x journalctl --unit=callbox.service --output=cat --priority=err "_PID=$(show MainPID)"; }

full_disk() {
    local before
    hum 5 6
    x sh -c "cat /dev/zero >$disk/fill 2>/dev/null"
    has_fault "full disk"
    is "$suite: full disk: one line about it" "$(since | grep -c "$fault")" 1
    is "$suite: full disk: lost records are counted" "$([ "$(lost)" -gt 0 ] && echo counted)" counted
    # Also a daemon that starts on a full disk goes on with the calls.
    before=$(show MainPID)
    x systemctl kill --signal=KILL --kill-whom=main callbox.service
    comes "$suite: full disk: a daemon starts" "[ \$(systemctl show -P MainPID callbox.service) != $before ] && callbox health"
    x rm "$disk/fill"
    has_none "full disk"
    hummed "full disk" 5
    is "$suite: full disk: the ends of the calls are recorded" "$(records 5 | grep -o caller_hangup | wc -l)" 5
}

read_only_disk() {
    hum 5 4
    drop_in remount '[Service]' "ExecStartPre=+mount -o remount,ro $disk"
    x systemctl restart callbox.service
    has_fault "read-only state"
    is "$suite: read-only state: one line about it" "$(since | grep -c "$fault.*Read-only file system.*mount its disk for writing")" 1
    x mount -o remount,rw "$disk"
    has_none "read-only state"
    hummed "read-only state" 5
    x rm -r /etc/systemd/system/callbox.service.d
    x systemctl daemon-reload
}

# The machine shares the host's clock, which stays as it is: the daemon alone is shown another one.
clock_jump() {
    local before
    holds "$suite: a clock for the daemon alone" install libfaketime
    x sh -c 'echo +0 >/run/fake && chmod 644 /run/fake'
    drop_in clock '[Service]' 'Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME_NO_CACHE=1' \
        'Environment=FAKETIME_TIMESTAMP_FILE=/run/fake FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1'
    scripted
    before=$(show MainPID)
    jumps "a clock that jumps five hours ahead" +5h 0
    jumps "a clock that is set back by seven" -2h 5
    is "$suite: a clock that jumps: nothing was restarted" "$(show MainPID) $(show NRestarts)" "$before 0"
    # Calls of the future would be the newest ones for whoever comes next.
    x sh -c 'systemctl stop callbox.service 2>/dev/null; rm /var/lib/callbox/callbox.db*
        rm -r /etc/systemd/system/callbox.service.d; systemctl daemon-reload'
}

# jumps WHAT TO FROM: hours ahead of the machine's clock.
jumps() {
    hum 5 3
    x sh -c "echo $2 >/run/fake"
    hummed "$1" 5
    is "$suite: $1: each call began at the clock's time, and lasted as long as it did" "$(records 5 | python3 -c '
import datetime, json, sys
calls = json.load(sys.stdin)["calls"]
time = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
lasted = [(time(c["ended"]) - time(c["started"])).total_seconds() for c in calls]
now = datetime.datetime.now(datetime.timezone.utc)
print({round((time(c["started"]) - now).total_seconds() / 3600) for c in calls}, all(2 < s < 60 for s in lasted))' 2>&1)" \
        "{$3} True"
}
