//! What systemd holds ready for a service that does not run. Enters: what `systemctl show` says; leaves: the addresses that
//! `callbox.socket` has, the folders that a start makes. Nothing where there is no systemd, or no such unit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use callbox::config::Held;
use tokio::process::Command;

use crate::owner;

const ASK: Duration = Duration::from_secs(5);

pub(crate) async fn held() -> Held {
    let mut command = Command::new("systemctl");
    command.args(["show", "callbox.socket", "callbox.service", "--property=ActiveState,Listen,RuntimeDirectory"]);
    read(&owner::succeeds(command, ASK).await.unwrap_or_default())
}

/// Of two blocks of lines: those of the socket, those of the service.
fn read(told: &str) -> Held {
    let (socket, service) = told.split_once("\n\n").unwrap_or((told, ""));
    let listens = |kind: &str| -> Vec<SocketAddr> {
        let own = |line: &str| line.strip_prefix("Listen=")?.strip_suffix(kind)?.trim_end().parse().ok();
        if socket.lines().any(|line| line == "ActiveState=active") {
            socket.lines().filter_map(own).collect()
        } else {
            Vec::new()
        }
    };
    let folders = service.lines().find_map(|line| line.strip_prefix("RuntimeDirectory=")).unwrap_or_default();
    let folders = folders.split_whitespace().map(|name| PathBuf::from("/run").join(name)).collect();
    Held { udp: listens("(Datagram)"), tcp: listens("(Stream)"), folders }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_socket_holds_its_addresses_and_a_stopped_one_none() {
        let told = "RuntimeDirectory=\nListen=0.0.0.0:5060 (Datagram)\nListen=[::]:5061 (Stream)\nListen=/run/x (Stream)\n\
            ActiveState=active\n\nRuntimeDirectory=callbox other\nActiveState=inactive\n";
        let held = read(told);
        assert_eq!(held.udp, ["0.0.0.0:5060".parse().expect("an address")]);
        assert_eq!(held.tcp, ["[::]:5061".parse().expect("an address")]);
        assert_eq!(held.folders, [PathBuf::from("/run/callbox"), PathBuf::from("/run/other")]);
        let stopped = read(&told.replacen("ActiveState=active", "ActiveState=inactive", 1));
        assert_eq!((stopped.udp.len(), stopped.tcp.len(), stopped.folders.len()), (0, 0, 2));
        assert_eq!(read(""), Held::default());
    }
}
