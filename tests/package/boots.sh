# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: a box that boots: after a reboot, with a bad configuration, after a power cut.

boots() {
    local start
    x sh -c 'umount /var/lib/callbox/models
        echo "/opt/models /var/lib/callbox/models none bind 0 0" >>/etc/fstab
        systemctl add-requires boot-complete.target callbox-healthcheck.service 2>/dev/null
        systemctl add-wants multi-user.target boot-complete.target 2>/dev/null'
    tiny
    "$bed" stop -k "$machine"
    turn_on
    is "$suite: a boot: calls are answered, the boot counts" \
        "$(x systemctl is-active callbox.service callbox.socket callbox-healthcheck.service boot-complete.target callbox-backup.timer | xargs)" \
        "active active active active active"
    holds "$suite: a backup under systemd" x systemctl start callbox-backup.service
    has "$suite: a backup under systemd: it is there" "$(x callbox backup list)" callbox-20

    scripted
    hum 1 1
    hummed "before a power cut" 1
    hum 5 20
    "$bed" kill "$machine"
    wait "$hummers"
    start=$(now)
    turn_on
    comes "$suite: after a power cut: calls are answered" "callbox health"
    echo "     $suite: from the power's return to calls that are answered $(seconds "$start") s, a scripted engine"
    is "$suite: after a power cut: it answers by itself" "$(x systemctl is-active callbox.service callbox.socket | xargs)" "active active"
    is "$suite: after a power cut: no record is missing, and those that were up are told lost" \
        "$(records 6 | grep -o '"state":"[a-z]*"' | cut -d '"' -f 4 | xargs)" "lost lost lost lost lost ended"
    holds "$suite: after a power cut: the database is intact" x callbox backup
    hum 1 1
    hummed "after a power cut" 1

    configure '[media]' 'prots = "1-2"'
    "$bed" stop -k "$machine"
    turn_on 2>/dev/null
    is "$suite: a boot without Callbox does not count" "$(x systemctl is-active callbox.service boot-complete.target | xargs)" "failed inactive"
    scripted
    x sh -c 'rm /etc/systemd/system/multi-user.target.wants/boot-complete.target' 2>/dev/null
}
