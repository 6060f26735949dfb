# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: what docs/recovery.md says of Litestream, done as it stands there: its file, its unit, its commands. Enters: the
# page, Litestream itself (litestream.txt); leaves: a line for each thing that must hold.

replicates() {
    local tool=$cache/litestream-0.5.17 then earlier all
    if [ ! -x "$tool/bin/litestream" ] && ! python3 -m pip install --quiet --disable-pip-version-check \
        --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes --target "$tool" \
        --requirement tests/package/litestream.txt >"$work/log" 2>&1; then
        rm -rf "$tool"
        skip "$suite: Litestream" "pip cannot fetch it: $(tail -n 1 "$work/log")"
        return
    fi
    cp "$tool/bin/litestream" "$work/kit/"
    x install -m 755 /opt/kit/litestream /usr/local/bin/litestream
    for file in /etc/litestream.yml /etc/systemd/system/callbox-litestream.service; do
        page "# $file" | x tee "$file" >/dev/null
    done
    scripted
    holds "$suite: Litestream: set up as the page says" x env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec "$(page '# turn it on')"
    hum 20 1
    hummed "Litestream beside it" 20
    replicated
    then=$(date -u +%FT%T.%3NZ)
    earlier=$(records | ids)
    hum 5 1
    hummed "Litestream, later" 5
    all=$(records | ids)
    # The box is gone, the daemon and Litestream with it.
    replicated
    x sh -c 'systemctl kill --signal=KILL callbox-litestream.service callbox.service; systemctl stop callbox.socket callbox.service callbox-litestream.service
        rm /var/lib/callbox/callbox.db*' 2>/dev/null
    holds "$suite: Litestream: restored as the page says" x env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec "$(page '# the last transaction')"
    is "$suite: Litestream: every record is back" "$(records | ids)" "$all"
    holds "$suite: Litestream: what is back is whole" x callbox backup
    is "$suite: Litestream: it goes on beside the restored one" "$(x systemctl is-active callbox.service callbox-litestream.service | xargs)" "active active"
    holds "$suite: Litestream: a moment, as the page says" x env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec "$(page '# a moment' | sed "s/2026-11-22T10:00:00Z/$then/")"
    is "$suite: Litestream: the records of that moment, and no other" "$(records | ids)" "$earlier"
    is "$suite: Litestream: its unit verifies" "$(x systemd-analyze verify --man=no callbox-litestream.service 2>&1)" ""
    x sh -c 'systemctl disable --now callbox-litestream.service; rm -r /etc/litestream.yml /etc/systemd/system/callbox-litestream.service \
        /usr/local/bin/litestream /mnt/elsewhere; systemctl daemon-reload' 2>/dev/null
}

# Until everything that was committed has reached the replica.
replicated() {
    waits_for 'find /mnt/elsewhere/callbox -type f -newer /var/lib/callbox/callbox.db-wal | grep -q .'
}
