if command -v systemd-tmpfiles >/dev/null 2>&1; then systemd-tmpfiles --create callbox.conf || :; fi
if [ "$1" -eq 1 ] && [ -x /usr/lib/systemd/systemd-update-helper ]; then
    /usr/lib/systemd/systemd-update-helper install-system-units callbox.service callbox.socket callbox-backup.timer || :
fi
