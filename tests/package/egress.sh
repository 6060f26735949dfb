# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: what a box sends, and to whom. The machine gets a network of its own: a trunk at 192.0.2.10, a stranger at
# 192.0.2.66, and a router to everywhere else, so that whatever wants to leave does leave, and is seen.

keeps_to_itself() {
    local box=192.0.2.1 trunk=192.0.2.10 stranger=192.0.2.66 peer sent seen
    wired || { fail "$suite: a network for the machine"; return; }
    scripted
    # The watcher sees what leaves: a datagram, a connection, a question to a resolver, and IPv6.
    watch "$box" "$trunk"
    x bash -c 'echo >/dev/udp/198.51.100.9/9; timeout 0.1 bash -c "echo >/dev/tcp/198.51.100.10/80"
        echo >/dev/udp/2001:db8:1::9/9; timeout 0.2 getent hosts callbox.example' 2>/dev/null
    watched
    for target in 198.51.100.9 198.51.100.10 2001:db8:1::9 198.51.100.53; do
        has "$suite: the watcher sees a packet to $target" "$seen" " to $target,"
    done

    watch "$box" "$trunk"
    x systemctl restart callbox.service
    from_trunk 50 4
    x sh -c 'callbox reload; callbox drain --limit 0; callbox drain --cancel; callbox backup; callbox health; callbox logs' >/dev/null
    x systemctl stop callbox.service 2>/dev/null
    tiny
    x systemctl start callbox.service
    holds "$suite: with a real engine, too" on_trunk callbox dial "sip:frontdesk@$box" --unchecked --say "Is there a garden?"
    watched
    echo "     $suite: packets: $(head -n 1 <<<"$seen")"
    has "$suite: a day's calls: no packet to anybody but the peers" "$seen" "allowed, 0 elsewhere, 0 unseen"
    is "$suite: a day's calls: all of them were seen" "$([ "${seen%% *}" -ge 20000 ] && echo many)" many

    scripted
    has "$suite: a stranger is answered" "$(asks "$stranger")" " 0 unanswered"
    # As docs/hardening.md says, with other addresses.
    x sh -c "mkdir -p /etc/systemd/system/callbox.slice.d
        sed -e '/^IPAddressAllow=[0-9]/d' /usr/lib/callbox/callbox-no-egress.conf >/etc/systemd/system/callbox.slice.d/no-egress.conf
        echo IPAddressAllow=$trunk >>/etc/systemd/system/callbox.slice.d/no-egress.conf
        systemctl daemon-reload && systemctl restart callbox.service"
    watch "$box" "$trunk" "$stranger"
    from_trunk 10 1
    has "$suite: no egress: the trunk is answered" "$(asks "$trunk")" " 0 unanswered"
    has "$suite: no egress: the command line works" "$(x callbox health)" "ready"
    sent=$(asks "$stranger")
    is "$suite: no egress: a stranger gets no answer" "${sent#* sent, }" "${sent%% *} unanswered, longest wait 0.00 s"
    is "$suite: no egress: the kernel stops the daemon's own processes" "$(x bash -c '
        echo $$ >/sys/fs/cgroup/callbox.slice/callbox.service/cgroup.procs
        for to in udp/198.51.100.9/9 udp/198.51.100.53/53 udp/2001:db8:1::9/9; do
            (echo >/dev/$to) 2>/dev/null && echo sent || echo refused
        done' | xargs)" "refused refused refused"
    watched
    has "$suite: no egress: no packet left" "$seen" "allowed, 0 elsewhere, 0 unseen"
    x sh -c 'rm -r /etc/systemd/system/callbox.slice.d && systemctl daemon-reload'
    kill "$peer"
    scripted
}

wired() {
    unshare --net sleep 600 &
    peer=$!
    until [ "$(readlink "/proc/$peer/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
    "$bed" net "$machine" ip link add trunk type veth peer name box netns "$peer" &&
        "$bed" net "$machine" sh -ec "
            echo 0 >/proc/sys/net/ipv6/conf/trunk/router_solicitations
            ip address add $box/24 dev trunk
            ip address add 2001:db8::1/64 dev trunk nodad
            ip link set trunk up
            ip route add default via 192.0.2.254
            ip route add default via 2001:db8::fe" &&
        outside_it sh -ec "
            ip link set lo up
            for a in $trunk $stranger 192.0.2.254; do ip address add \$a/24 dev box; done
            ip address add 2001:db8::fe/64 dev box nodad
            ip link set box up
            ip route add default via $box" &&
        x sh -c 'echo nameserver 198.51.100.53 >/etc/resolv.conf' || return
    # Until both routers are known, so that a packet to far away leaves at once.
    for _ in $(seq 100); do
        x bash -c 'echo >/dev/udp/192.0.2.254/9; echo >/dev/udp/2001:db8::fe/9' 2>/dev/null
        [ "$("$bed" net "$machine" ip neighbour show dev trunk | grep -c -E '^(192.0.2.254|2001:db8::fe) .*(REACHABLE|DELAY|STALE)')" = 2 ] && return
        sleep 0.1
    done
    return 1
}

outside_it() { nsenter -t "$peer" -n "$@"; }
on_trunk() { outside_it "$@"; }
asks() { outside_it python3 tests/package/requests.py 1 "$1" "$box" 2; }

# from_trunk CALLERS TIMES
from_trunk() {
    local time
    for time in $(seq "$2"); do
        on_trunk callbox dial "sip:desk@$box" --unchecked --json --calls "$1" --play "$work/kit/hum.wav" --pause 300 \
            >"$work/day.$time" 2>&1 || break
    done
    is "$suite: $(($1 * $2)) calls from the trunk, each with an answer" "$(cat "$work"/day.* 2>/dev/null |
        grep -o '"voice_to_voice_ms":[0-9]' | wc -l)" $(($1 * $2))
    rm -f "$work"/day.*
}

# watch ADDRESS... ; watched: between the two every packet is judged; what came of it is in $seen.
watch() {
    rm -f "$work/watch"
    mkfifo "$work/watch"
    "$bed" net "$machine" python3 tests/package/egress.py "$@" <"$work/watch" >"$work/packets" &
    watcher=$!
    exec 8>"$work/watch"
    until grep -q watching "$work/packets"; do sleep 0.05; done
}
watched() {
    exec 8>&-
    wait "$watcher"
    seen=$(sed 1d "$work/packets")
}
