//! Kamailio, with the configuration that `docs/examples` gives to operators. Enters: boxes; leaves: an address that calls
//! are sent on from.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::Command;

use super::process::tail;
use super::{Process, eventually, free_port};

const CONFIG: &str = include_str!("../../../docs/examples/kamailio.cfg");

/// A proxy that knows a password.
const KNOWING: &str = include_str!("../../peers/kamailio-uac.cfg");

/// A provider whom everybody registers with.
const REGISTRAR: &str = include_str!("../../peers/kamailio-registrar.cfg");

/// A running Kamailio; it ends when dropped.
pub struct Kamailio {
    process: Process,
    _dir: TempDir,
    address: SocketAddr,
}

impl Kamailio {
    /// Starts one in front of these boxes.
    ///
    /// # Errors
    /// If it does not start; the error holds what it said.
    pub async fn start(boxes: &[SocketAddr]) -> anyhow::Result<Self> {
        let (dir, address) = (TempDir::new()?, SocketAddr::from(([127, 0, 0, 1], free_port())));
        let list = dir.path().join("dispatcher.list");
        let mut lines = String::new();
        for address in boxes {
            writeln!(lines, "1 sip:{address}")?;
        }
        fs::write(&list, lines)?;
        let text = CONFIG
            .replace("192.0.2.1:5060", &address.to_string())
            .replace("/etc/kamailio/dispatcher.list", &list.display().to_string());
        ensure!(text.matches(&address.to_string()).count() == 2, "docs/examples/kamailio.cfg listens elsewhere");
        Self::run(dir, address, &text).await
    }

    /// Starts one that sends calls to this box, and answers its challenges.
    ///
    /// # Errors
    /// As [`Kamailio::start`].
    pub async fn knowing(to: SocketAddr, name: &str, password: &str) -> anyhow::Result<Self> {
        let (dir, address) = (TempDir::new()?, SocketAddr::from(([127, 0, 0, 1], free_port())));
        let text = KNOWING
            .replace("LISTEN", &address.to_string())
            .replace("BOX", &to.to_string())
            .replace("USERNAME", name)
            .replace("PASSWORD", password);
        Self::run(dir, address, &text).await
    }

    /// Starts a provider; all its customers have this password.
    ///
    /// # Errors
    /// As [`Kamailio::start`].
    pub async fn registrar(password: &str) -> anyhow::Result<Self> {
        let (dir, address) = (TempDir::new()?, SocketAddr::from(([127, 0, 0, 1], free_port())));
        let text = REGISTRAR.replace("LISTEN", &address.to_string()).replace("PASSWORD", password);
        Self::run(dir, address, &text).await
    }

    async fn run(dir: TempDir, address: SocketAddr, text: &str) -> anyhow::Result<Self> {
        let config = dir.path().join("kamailio.cfg");
        fs::write(&config, text)?;
        let mut command = Command::new("kamailio");
        // In the foreground, its log on standard error, little memory.
        command
            .args(["-DD", "-E", "-m", "32", "-M", "4", "-f"])
            .arg(&config)
            .arg("-Y")
            .arg(dir.path())
            .process_group(0);
        let process = Process::start("kamailio", &mut command, &dir.path().join("log"))?;
        let mut kamailio = Self { process, _dir: dir, address };
        answers(address, &address.to_string()).await.with_context(|| tail(&kamailio.process.log()))?;
        ensure!(kamailio.process.runs(), "kamailio ended: {}", tail(&kamailio.process.log()));
        Ok(kamailio)
    }

    /// Waits until a customer is registered: then OPTIONS reach their telephone.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn knows(&self, user: &str) -> anyhow::Result<()> {
        answers(self.address, &format!("{user}@{}", self.address)).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Asks a proxy with OPTIONS until whoever is meant says 200.
async fn answers(proxy: SocketAddr, whom: &str) -> anyhow::Result<()> {
    let probe = &tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let from = probe.local_addr()?;
    let mut number = 0;
    let asked = || {
        number += 1;
        let options = format!(
            "OPTIONS sip:{whom} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK-{number}\r\nFrom: <sip:test@{from}>;tag=1\r\n\
             To: <sip:{whom}>\r\nCall-ID: up@{from}\r\nCSeq: {number} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        async move {
            probe.send_to(options.as_bytes(), proxy).await.ok()?;
            let mut buffer = [0; 2048];
            let answer = tokio::time::timeout(Duration::from_millis(200), probe.recv(&mut buffer)).await;
            answer.ok()?.ok().filter(|_| buffer.starts_with(b"SIP/2.0 200")).map(drop)
        }
    };
    eventually(&format!("an answer of {whom}"), Duration::from_secs(10), asked).await
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // Its workers would outlive it.
        if let Some(pid) = self.process.pid() {
            kill_process_group(pid, Signal::KILL).unwrap_or_default();
        }
    }
}
