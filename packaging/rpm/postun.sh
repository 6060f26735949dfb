# An upgrade restarts the service, at the end of the transaction, and never the socket.
if [ "$1" -ge 1 ] && [ -x /usr/lib/systemd/systemd-update-helper ]; then
    /usr/lib/systemd/systemd-update-helper mark-restart-system-units callbox.service || :
fi
