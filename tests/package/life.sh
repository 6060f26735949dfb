# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: the life of the .deb on a machine: installed, started, upgraded, removed.

# apt as an unattended upgrade calls it: nobody is there to answer.
install() { x env DEBIAN_FRONTEND=noninteractive apt-get -q -y install "${@:-callbox}" </dev/null; }

installs() {
    x sh -c 'install -m 644 /opt/callbox/callbox.asc /etc/apt/keyrings/
        echo "deb [trusted=yes] file:/opt/archive ./" >/etc/apt/sources.list.d/archive.list
        printf "%s\n" "Types: deb" "URIs: file:/opt/callbox/apt" "Suites: stable" "Components: main" \
            "Signed-By: /etc/apt/keyrings/callbox.asc" >/etc/apt/sources.list.d/callbox.sources
        apt-get -q update' >"$work/log" 2>&1
    holds "$suite: installed from the signed repository, without a question" install
    is "$suite: enabled, not started" "$(x systemctl is-enabled callbox.service callbox.socket callbox-backup.timer | xargs) $(x systemctl is-active callbox.service)" \
        "enabled enabled enabled inactive"
    is "$suite: /etc/callbox is the owner's, and empty" "$(x find /etc/callbox -type f)" ""
}

starts() {
    local report
    x mount --bind /opt/models /var/lib/callbox/models
    tiny
    holds "$suite: starts" x systemctl start callbox.service
    report=$(dial)
    is "$suite: a call is answered" "$(answered <<<"$report")" True
    has "$suite: the caller was understood" "$(x callbox call list --json | grep -o '"id":"[^"]*"' | head -n 1 |
        cut -d '"' -f 4 | xargs -I ID "$bed" exec "$machine" callbox call show ID | grep " caller ")" "ow much"
    # A restart finds the engine ready; a stop ends it.
    x systemctl stop callbox.service 2>/dev/null
    is "$suite: stopped: port and folder that systemd holds for it are not missing" "$(x systemctl is-active callbox.socket) $(x callbox check)" \
        "active nothing is wrong"
    holds "$suite: starts again" x systemctl start callbox.service
}

# How long it takes, on a computer that does nothing else. The first start imports the weights; the best of three of the
# others counts.
times() {
    local from call first start gap warm=
    from=$(now)
    installs
    x mount --bind /opt/models /var/lib/callbox/models
    tiny
    first=$(now)
    x systemctl start callbox.service
    first=$(seconds "$first")
    is "$suite: a call is answered" "$(dial | answered)" True
    call=$(seconds "$from")
    for _ in 1 2 3; do
        x systemctl stop callbox.service 2>/dev/null
        start=$(now)
        x systemctl start callbox.service
        start=$(seconds "$start")
        warm=$(awk -v a="$start" -v b="${warm:-$start}" 'BEGIN { print a < b ? a : b }')
    done
    echo "     $suite: installation to first answered call $call s; first start $first s; start to READY $warm s"
    is "$suite: installation to first answered call within 60 s" "$(awk -v s="$call" 'BEGIN { print s <= 60 }')" 1
    is "$suite: start to READY within 3 s" "$(awk -v s="$warm" 'BEGIN { print s <= 3 }')" 1
    stands_still
    if [ -n "${FIGURES:-}" ]; then
        printf '{"install_to_answer_s": %s, "first_start_s": %s, "start_to_ready_s": %s, "kill_gap_p95_s": %s, "suite": "%s"}\n' \
            "$call" "$first" "$warm" "$gap" "$suite" >"$FIGURES"
    fi
}

# A daemon that is killed in twenty calls, three times: how long the audio of its callers stands still. The worst counts as the
# figure; the best must hold, because a computer that has other things to do is slower, and never faster.
stands_still() {
    local streams calm best before watch p95 longest
    scripted
    hum 20 14
    read -r streams calm _ < <(gaps 2)
    is "$suite: audio of twenty calls" "$streams" 20
    gap=0 best=
    for _ in 1 2 3; do
        before=$(show MainPID)
        gaps 4 >"$work/gaps" &
        watch=$!
        sleep 1
        x systemctl kill --signal=KILL --kill-whom=main callbox.service
        wait "$watch"
        waits_for "[ \$(systemctl show -P MainPID callbox.service) != $before ] && callbox health"
        read -r streams p95 longest <"$work/gaps"
        gap=$(awk -v a="$p95" -v b="$gap" 'BEGIN { print (a > b ? a : b) }')
        best=$(awk -v a="$p95" -v b="${best:-$p95}" 'BEGIN { print a < b ? a : b }')
        echo "     $suite: kill -9 in twenty calls: audio of $streams stands still for $p95 s (p95), $longest s; before for $calm s"
    done
    is "$suite: audio of 95 of a hundred calls stands still for 0.3 s at most" "$(awk -v s="$best" 'BEGIN { print s <= 0.3 }')" 1
    hummed "killed three times" 20
}
gaps() { "$bed" net "$machine" python3 tests/package/gaps.py "$1" 16384 32767; }

obeys() {
    # The pages are not there: the machine's dpkg leaves them out.
    is "$suite: the units verify: nothing is said" "$(x sh -c 'cd /usr/lib/systemd/system && systemd-analyze verify --man=no callbox*.*' 2>&1)" ""
    is "$suite: the manager has nothing to say of them either" "$(x journalctl _PID=1 --quiet --output=cat --priority=warning | grep -i callbox)" ""
    is "$suite: what only systemd 254 and later know, counts there" "$(show RestartMode) $(show RestartSteps) $(show FileDescriptorStorePreserve)" \
        "$(if [ "$(x systemctl --version | cut -d ' ' -f 2 | head -n 1)" -ge 254 ]; then echo direct 10 yes; else echo "  "; fi)"
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

upgrades() {
    cp "$packages"/next/*.deb "$work/site/"
    holds "$suite: a later version is published" packaging/publish.sh "$work/site"
    x apt-get -q update >/dev/null 2>&1
    in_twenty_calls install
    is "$suite: the later version is there" "$(x dpkg-query --show --showformat '${Version}' callbox)" 99.0.0-1
}

# in_twenty_calls CMD...: which upgrades the package, while a peer asks 20 times a second.
in_twenty_calls() {
    local since port peer
    scripted
    since=$(show MainPID)
    port=$(show ActiveEnterTimestampMonotonic callbox.socket)
    "$bed" net "$machine" python3 tests/package/requests.py 8 >"$work/requests" 2>&1 &
    peer=$!
    hum 20 12
    holds "$suite: upgraded without a question" "$@"
    comes "$suite: an upgrade in twenty calls: another daemon answers" \
        "[ \$(systemctl show -P MainPID callbox.service) != $since ] && callbox health"
    is "$suite: an upgrade in twenty calls: they go on" "$(live)" 20
    hummed "an upgrade in twenty calls" 20
    wait "$peer"
    echo "     $suite: SIP requests during the upgrade: $(cat "$work/requests")"
    has "$suite: every SIP request of the upgrade was answered" "$(cat "$work/requests")" " 0 unanswered"
    is "$suite: the socket stayed" "$(show ActiveEnterTimestampMonotonic callbox.socket)" "$port"
    is "$suite: the owner's file stayed" "$(x grep -c scripted /etc/callbox/callbox.toml)" 1
}

# A later version is not for ever; with a real engine, which is replaced as well.
goes_back() {
    local version
    version=$(dpkg-deb --field "$deb" Version)
    tiny
    x systemctl restart callbox.service
    talk
    holds "$suite: back to the version before" install --allow-downgrades "callbox=$version"
    talked "another version in a call, with a real engine"
    is "$suite: the version before is there" "$(x dpkg-query --show --showformat '${Version}' callbox)" "$version"
}

# The drill of docs/recovery.md, on a box that has lost everything but what the page says to keep.
recovers() {
    local before from took copy
    tiny
    x sh -c 'systemctl restart callbox.service; echo "# Hours
From nine." >/run/hours.md; callbox knowledge add --agent frontdesk /run/hours.md' >/dev/null
    # As many as are on a page behind the calls to come.
    before=$(records 100 | ids)
    holds "$suite: the drill: kept as the page says" x sh -ec "$(page '# on the box that lives')"
    x sh -c 'cp /var/lib/callbox/backups/* /var/tmp/; umount /var/lib/callbox/models
        DEBIAN_FRONTEND=noninteractive apt-get -q -y purge callbox' >/dev/null 2>&1
    copy=$(x sh -c 'ls /var/tmp/callbox-2*.zst | tail -n 1')
    from=$(now)
    holds "$suite: the drill: another box" install
    x mount --bind /opt/models /var/lib/callbox/models
    holds "$suite: the drill: done as the page says" x sh -ec "$(page '# on the new one, with packages and models as in install.md, and the three files in /var/tmp' |
        sed "s,/var/tmp/callbox-2.*zst,$copy,")"
    took=$(seconds "$from")
    echo "     $suite: from the packages at hand to a self-test call that is answered $took s"
    is "$suite: the drill: no call is missing" "$(comm -23 <(tr ' ' '\n' <<<"$before") <(records | ids | tr ' ' '\n'))" ""
    has "$suite: the drill: what operators have added is known" "$(x callbox knowledge list)" hours.md
    is "$suite: the drill: nothing in the daemon's folder is root's" "$(x find /var/lib/callbox /var/cache/callbox -xdev ! -user callbox ! -path '*/models*')" ""
}

ids() { grep -o '"id":"[^"]*"' | sort | xargs; }
# The block of docs/recovery.md that begins with this line, without it.
page() { awk -v first="$1" '$0 == first { on = 1; next } /^```/ { on = 0 } on' docs/recovery.md; }

tampered() {
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
        -o -name '*callbox*' -print | grep -v -E '^/etc/apt/|^/var/lib/apt/lists/')$(x sh -c 'ls -d /run/callbox /run/systemd/*/callbox* 2>/dev/null')" ""
}
