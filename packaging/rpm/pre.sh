if command -v systemd-sysusers >/dev/null 2>&1; then
    systemd-sysusers --replace=/usr/lib/sysusers.d/callbox.conf - <<SYSUSERS || :
u callbox - "Callbox" /var/lib/callbox
SYSUSERS
fi
