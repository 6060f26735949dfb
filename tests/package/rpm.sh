# shellcheck shell=bash disable=SC2016,SC2154
# Part of test.sh: the .rpm, installed by dnf and upgraded in calls. No distribution of its family is at hand, so the machine is a
# Debian with dnf, and a package stands in for what the .rpm wants of its distribution: names of libraries, systemd-update-helper
# with the triggers that end a transaction as systemd's own package does there, a preset that turns nothing on. Not tried: a
# distribution's own helper, its SELinux policy, its firewalld.

on_rpm_machine() {
    local suite=$1
    machine=$suite-$$
    rm -rf "$work/site"
    cp -r "$packages/now" "$work/site"
    stand_in "$work/site/debian.rpm" || { fail "$suite: a stand-in for the libraries" "$(tail -n 3 "$work/log")"; machine=; return; }
    make_kit "$work/kit"
    if ! turn_on; then
        fail "$suite: a machine boots"
        machine=
        return
    fi
    echo "---- $suite: $(x rpm --version)"
    x sh -c 'echo "deb [trusted=yes] file:/opt/archive ./" >/etc/apt/sources.list.d/archive.list
        apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install espeak-ng
        rpm -i --nosignature /opt/callbox/debian.rpm
        mkdir -p /etc/yum.repos.d
        printf "%s\n" "[callbox]" "name=Callbox" "baseurl=file:///opt/callbox/rpm" "gpgcheck=1" "repo_gpgcheck=1" \
            "gpgkey=file:///opt/callbox/rpm/callbox.asc" >/etc/yum.repos.d/callbox.repo' >"$work/log" 2>&1
    holds "$suite: installed from the signed repository" x dnf -q -y install callbox
    is "$suite: enabled, not started" "$(x systemctl is-enabled callbox.service callbox.socket callbox-backup.timer | xargs) $(x systemctl is-active callbox.service)" \
        "enabled enabled enabled inactive"
    tiny
    x mount --bind /opt/models /var/lib/callbox/models
    holds "$suite: starts" x systemctl start callbox.service
    is "$suite: a call is answered" "$(dial | answered)" True
    cp "$packages"/next/*.rpm "$work/site/"
    holds "$suite: a later version is published" packaging/publish.sh "$work/site"
    in_twenty_calls x dnf -q -y --refresh upgrade callbox
    is "$suite: the later version is there" "$(x rpm -q --queryformat '%{version}' callbox)" 99.0.0
    replicates
    clock_jump
    x sh -c 'cp -r /opt/callbox/rpm /var/tmp/bad && echo "<!-- -->" >>/var/tmp/bad/repodata/repomd.xml
        sed s,file:///opt/callbox/rpm$,file:///var/tmp/bad, -i /etc/yum.repos.d/callbox.repo && dnf -q clean all'
    is "$suite: a tampered repository is refused" "$(x sh -c 'dnf -q -y --refresh reinstall callbox >/dev/null 2>&1 && echo taken || echo refused')" \
        refused
    x umount /var/lib/callbox/models
    holds "$suite: removed" x dnf -q -y remove callbox
    is "$suite: removed: stopped, port closed" "$(x systemctl is-active callbox.service callbox.socket callbox-backup.timer | xargs)" \
        "inactive inactive inactive"
    is "$suite: removed: no file of it is left" "$(x sh -c 'ls -d /usr/lib/callbox /usr/libexec/callbox /usr/sbin/callboxd 2>/dev/null')" ""
}

# A package that offers what the .rpm wants of its distribution, and does what systemd's package does there when units come,
# change and go.
stand_in() {
    local top=$work/rpmbuild
    mkdir -p "$top"
    cat >"$top/helper" <<'SH'
#!/bin/sh
set -e
verb=$1
shift
case $verb in
    install-system-units) systemctl --no-reload preset "$@" ;;
    remove-system-units) systemctl --no-reload disable --now "$@" ;;
    mark-restart-system-units) for unit in "$@"; do systemctl set-property "$unit" Markers=+needs-restart; done ;;
    system-reload) systemctl daemon-reload ;;
    system-restart) systemctl reload-or-restart --marked ;;
esac
SH
    {
        printf '%s\n' 'Name: debian' 'Version: 1' 'Release: 1' 'Summary: stands in' 'License: none' 'BuildArch: noarch'
        rpm -qp --requires "$rpm" 2>/dev/null | grep -v -E '^rpmlib|>=' | sed 's/^/Provides: /'
        printf '%s\n' 'Provides: systemd = 252' '%description' 'Stands in.' '%install' \
            'install -D %{_topdir}/helper %{buildroot}/usr/lib/systemd/systemd-update-helper' \
            'mkdir %{buildroot}/usr/lib/systemd/system-preset' \
            'echo "disable *" >%{buildroot}/usr/lib/systemd/system-preset/99-default.preset' \
            '%transfiletriggerin -P 900900 -- /usr/lib/systemd/system' '/usr/lib/systemd/systemd-update-helper system-reload' \
            '%transfiletriggerpostun -P 1000100 -- /usr/lib/systemd/system' '/usr/lib/systemd/systemd-update-helper system-reload' \
            '%transfiletriggerpostun -P 9999 -- /usr/lib/systemd/system' '/usr/lib/systemd/systemd-update-helper system-restart' \
            '%files' '/usr/lib/systemd/systemd-update-helper' '/usr/lib/systemd/system-preset/99-default.preset'
    } >"$top/debian.spec"
    rpmbuild -bb --quiet --define "_topdir $top" "$top/debian.spec" >"$work/log" 2>&1 && cp "$top"/RPMS/noarch/*.rpm "$1"
}
