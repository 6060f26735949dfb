//! A name server of the test's own: dnsmasq, which knows a table and asks nobody. Enters: records; leaves: its address.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::process::Command;

use super::{Process, free_port};

/// A running name server; it ends when dropped.
pub struct Names {
    _process: Process,
    _dir: TempDir,
    address: SocketAddr,
}

impl Names {
    /// Starts one with these options of dnsmasq, such as `--srv-host=_sip._udp.carrier.test,a.test,5060,10,1`.
    ///
    /// # Errors
    /// If dnsmasq is not installed.
    pub fn start(records: &[String]) -> anyhow::Result<Self> {
        let (dir, address) = (TempDir::new()?, SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = Command::new("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--listen-address=127.0.0.1", "--local=/test/", "--user=root", "--pid-file", "--log-facility=-"])
            .arg(format!("--port={}", address.port()))
            .args(records);
        let process = Process::start("dnsmasq", &mut command, &dir.path().join("log"))?;
        Ok(Self { _process: process, _dir: dir, address })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
