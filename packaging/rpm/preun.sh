if [ "$1" -eq 0 ] && [ -x /usr/lib/systemd/systemd-update-helper ]; then
    /usr/lib/systemd/systemd-update-helper remove-system-units callbox.service callbox.socket callbox-backup.timer callbox-healthcheck.service || :
fi
