# An upgrade restarts the service, at the end of the transaction, and never the socket.
if [ "$1" -ge 1 ] && [ -x /usr/lib/systemd/systemd-update-helper ]; then
    /usr/lib/systemd/systemd-update-helper mark-restart-system-units callbox.service || :
fi
# The packager cannot let a package own folders (cargo-generate-rpm 0.21 fails at them): what is empty goes here.
if [ "$1" -eq 0 ]; then
    rmdir /usr/lib/callbox/agents /usr/lib/callbox/fail2ban /usr/lib/callbox/monitoring /usr/lib/callbox /usr/libexec/callbox /usr/share/doc/callbox/examples /usr/share/doc/callbox \
        /usr/share/licenses/callbox 2>/dev/null || :
fi
