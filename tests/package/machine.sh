# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: one machine with a real systemd, from the installation to the purge.

x() { "$bed" exec "$machine" "$@"; }
show() { x systemctl show callbox.service --property="$1" --value; }
# apt as an unattended upgrade calls it: nobody is there to answer.
install() { x env DEBIAN_FRONTEND=noninteractive apt-get -q -y install callbox </dev/null; }
dial() {
    x callbox dial sip:frontdesk@127.0.0.1 --unchecked --transcribe --json \
        --weights /var/tmp/weights --say "How much does a double room cost?" 2>"$work/dial.err"
}
# A caller who asks three things, through whatever happens to the daemon meanwhile.
talk() {
    x callbox dial sip:frontdesk@127.0.0.1 --unchecked --transcribe --json --weights /var/tmp/weights \
        --say "How much does a double room cost?" --say "Is there a garden?" --say "When is breakfast?" \
        >"$work/talk" 2>"$work/talk.err" &
    talker=$!
    waits_for "callbox call list --json | grep -q '\"state\":\"listening\"'"
}
talked() {
    wait "$talker"
    is "$suite: $1: the caller's last question was answered" "$(python3 -c '
import json, sys
answers = json.load(sys.stdin)["answers"]
print(len(answers), bool(answers[-1]["text"]))' <"$work/talk")" "3 True"
    is "$suite: $1: it was one call" "$(x callbox call list --json | python3 -c '
import json, sys
call = json.load(sys.stdin)["calls"][0]
print(call["state"], call["turns"] >= 3)')" "ended True"
}
answered() { python3 -c 'import json, sys; print(all(a["text"] for a in json.load(sys.stdin)["answers"]) or "nothing")'; }
waits_for() { for _ in $(seq 100); do x sh -c "$1" >/dev/null 2>&1 && return; sleep 0.1; done; return 1; }

on_machine() {
    local suite=$1 from
    machine=package-$suite
    rm -rf "$work/site"
    cp -r "$work/now" "$work/site"
    if ! "$bed" start -s "$suite" -b "$work/site:/opt/callbox" -b "$models:/opt/models" "$machine"; then
        fail "$suite: a machine boots"
        machine=
        return
    fi
    echo "--- $suite, $(x systemctl --version | head -n 1)"
    from=$(now)
    installs
    starts "$from"
    obeys
    survives
    explains
    upgrades
    leaves
    "$bed" stop "$machine"
    machine=
}

installs() {
    x sh -c 'install -m 644 /opt/callbox/callbox.asc /etc/apt/keyrings/
        echo "deb [trusted=yes] file:/opt/archive ./" >/etc/apt/sources.list.d/archive.list
        printf "%s\n" "Types: deb" "URIs: file:/opt/callbox/apt" "Suites: stable" "Components: main" \
            "Signed-By: /etc/apt/keyrings/callbox.asc" >/etc/apt/sources.list.d/callbox.sources
        apt-get -q update' >"$work/log" 2>&1
    holds "$suite: installed from the signed repository, without a question" install
    is "$suite: enabled, not started" "$(x systemctl is-enabled callbox.service callbox.socket | xargs) $(x systemctl is-active callbox.service)" \
        "enabled enabled inactive"
    is "$suite: /etc/callbox is the owner's, and empty" "$(x find /etc/callbox -type f)" ""
}

# The owner's file: two lines.
configure() { printf '%s\n' "$@" | x tee /etc/callbox/callbox.toml >/dev/null; }

starts() {
    local first warm report
    x mount --bind /opt/models /var/lib/callbox/models
    configure '[models]' 'pack = "tiny"'
    first=$(now)
    holds "$suite: starts" x systemctl start callbox.service
    first=$(seconds "$first")
    report=$(dial)
    is "$suite: a call is answered" "$(answered <<<"$report")" True
    call=$(seconds "$1")
    has "$suite: the caller was understood" "$(x callbox call list --json | grep -o '"id":"[^"]*"' | head -n 1 |
        cut -d '"' -f 4 | xargs -I ID "$bed" exec "$machine" callbox call show ID | grep " caller ")" "ouble r"
    # A restart finds the engine ready; a stop ends it.
    x systemctl stop callbox.service
    warm=$(now)
    holds "$suite: starts again" x systemctl start callbox.service
    warm=$(seconds "$warm")
    echo "     installation to first answered call $call s; first start $first s; start to READY $warm s"
    if [ -n "${FIGURES:-}" ] && [ "$suite" = "${suites[0]}" ]; then
        printf '{"install_to_answer_s": %s, "first_start_s": %s, "start_to_ready_s": %s, "suite": "%s"}\n' \
            "$call" "$first" "$warm" "$suite" >"$FIGURES"
    fi
    is "$suite: installation to first answered call within 60 s" "$(awk -v s="$call" 'BEGIN { print s <= 60 }')" 1
    is "$suite: start to READY within 3 s" "$(awk -v s="$warm" 'BEGIN { print s <= 3 }')" 1
}

obeys() {
    local newer="RestartMode|RestartSteps|RestartMaxDelaySec|FileDescriptorStorePreserve"
    is "$suite: the units verify" "$(x systemd-analyze verify --man=no callbox.service callbox-rescue.timer 2>&1 |
        grep -v -E "252|Unknown key( name)? '($newer)'" | cat)" ""
    holds "$suite: exposure is at most 1.5" x systemd-analyze security --no-pager --threshold=15 callbox.service
    is "$suite: nobody but callbox" "$(x sh -c 'stat -c %U /proc/$(systemctl show -P MainPID callbox.service)')" callbox
    is "$suite: port 5060 belongs to the socket unit" "$(x systemctl is-active callbox.socket)" active
    is "$suite: nothing in the journal but information" "$(x journalctl _SYSTEMD_UNIT=callbox.service --priority=warning --quiet --output=cat)" ""
    x sh -c 'printf secret >/etc/callbox/credentials/trunk && systemctl restart callbox.service'
    is "$suite: a secret reaches the service" "$(x sh -c 'cat /run/credentials/callbox.service/secret_trunk')" secret
    x sh -c 'printf hidden | systemd-creds encrypt --with-key=host --name=sealed_trunk - /etc/callbox/credentials.encrypted/trunk 2>/dev/null
        systemctl restart callbox.service'
    is "$suite: an encrypted secret reaches the service" "$(x sh -c 'cat /run/credentials/callbox.service/sealed_trunk')" hidden
    x sh -c 'rm /etc/callbox/credentials/trunk /etc/callbox/credentials.encrypted/trunk'
}

survives() {
    local before
    before=$(show MainPID)
    x systemctl kill --signal=KILL --kill-whom=main callbox.service
    if waits_for "[ \$(systemctl show -P MainPID callbox.service) != $before ] && callbox health"; then pass "$suite: back after kill -9"
    else fail "$suite: back after kill -9" "$(x systemctl status --no-pager callbox.service | tail -n 5)"; fi
    is "$suite: the next call is answered" "$(dial | answered)" True
    talk
    x systemctl kill --signal=KILL --kill-whom=main callbox.service
    talked "kill -9 in a call"
    x sh -c 'systemctl stop callbox.service callbox.socket && systemctl start callbox-rescue.service'
    is "$suite: the rescue starts what gave up" "$(show ActiveState)" active
}

# What is wrong is said once, in one sentence, and not tried again and again.
refuses() {
    local what=$1 sentence=$2
    x systemctl restart callbox.service >/dev/null 2>&1
    sleep 1
    is "$suite: $what: status 78, no restart" "$(show ExecMainStatus) $(show NRestarts) $(show ActiveState)" "78 0 failed"
    has "$suite: $what: the status says why" "$(x systemctl status --no-pager --full callbox.service)" "$sentence"
    x systemctl start callbox-rescue.service
    is "$suite: $what: the rescue lets it be" "$(show ActiveState)" failed
    x systemctl stop callbox-rescue.timer
    x systemctl reset-failed callbox.service callbox.socket
}

explains() {
    configure '[media]' 'prots = "1-2"'
    refuses "a wrong key" 'callbox.toml:2: unknown key `prots` in [media]; did you mean `ports`?'
    # Without a file of the owner's the package's counts, and it names the pack `starter`.
    x rm /etc/callbox/callbox.toml
    x umount /var/lib/callbox/models
    refuses "no models" "callbox models pull starter"
    x mount --bind /opt/models /var/lib/callbox/models
    configure '[models]' 'pack = "tiny"'
    holds "$suite: starts once it is right" x systemctl start callbox.service
}

upgrades() {
    local since port peer
    cp "$work"/next/*.deb "$work/site/"
    holds "$suite: a later version is published" packaging/publish.sh "$work/site"
    since=$(show MainPID)
    port=$(x systemctl show callbox.socket --property=ActiveEnterTimestampMonotonic --value)
    x apt-get -q update >/dev/null 2>&1
    "$bed" net "$machine" python3 tests/package/requests.py 8 >"$work/requests" 2>&1 &
    peer=$!
    talk
    holds "$suite: upgraded without a question" install
    talked "an upgrade in a call"
    wait "$peer"
    echo "     SIP requests during the upgrade: $(cat "$work/requests")"
    has "$suite: every SIP request of the upgrade was answered" "$(cat "$work/requests")" " 0 unanswered"
    is "$suite: the later version is there" "$(x dpkg-query --show --showformat '${Version}' callbox)" 99.0.0-1
    is "$suite: the service was started anew" "$([ "$(show MainPID)" != "$since" ] && show ActiveState)" active
    is "$suite: the socket stayed" "$(x systemctl show callbox.socket --property=ActiveEnterTimestampMonotonic --value)" "$port"
    is "$suite: the owner's file stayed" "$(x grep -c tiny /etc/callbox/callbox.toml)" 1
    is "$suite: a call is answered after the upgrade" "$(dial | answered)" True
    x sh -c 'cp -r /opt/callbox/apt /var/tmp/bad && sed -i s/99.0.0-1/99.0.0-2/ /var/tmp/bad/dists/stable/main/binary-amd64/Packages
        rm /var/tmp/bad/dists/stable/main/binary-amd64/Packages.gz
        sed s,/opt/callbox/apt,/var/tmp/bad, -i /etc/apt/sources.list.d/callbox.sources'
    is "$suite: a tampered index is refused" "$(x sh -c 'apt-get -q update >/dev/null 2>&1 && echo taken || echo refused')" refused
    x sed -i s/Suite:.*/Suite:testing/ /var/tmp/bad/dists/stable/InRelease
    is "$suite: a tampered signature is refused" "$(x sh -c 'apt-get -q update >/dev/null 2>&1 && echo taken || echo refused')" refused
}

leaves() {
    holds "$suite: removed" x env DEBIAN_FRONTEND=noninteractive apt-get -q -y remove callbox
    is "$suite: removed: stopped, port closed, the database kept" \
        "$(x systemctl is-active callbox.service callbox.socket | xargs) $(x sh -c 'test -s /var/lib/callbox/callbox.db && echo kept')" \
        "inactive inactive kept"
    x umount /var/lib/callbox/models
    holds "$suite: purged" x env DEBIAN_FRONTEND=noninteractive apt-get -q -y purge callbox
    is "$suite: purged: nothing is left" "$(x find / -xdev \( -path /proc -o -path /opt -o -path /tmp -o -path /var/tmp \) -prune \
        -o -name '*callbox*' -print | grep -v -E '^/etc/apt/|^/var/lib/apt/lists/')" ""
}
