//! The service while it is replaced. Enters: what systemd and the daemon say; leaves: whether it answers calls, or one
//! sentence about why not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use callbox::base::{Clock as _, SystemClock};
use callbox::config::Config;
use serde_json::Value;
use tokio::process::Command;

use crate::dial::selftest::TURNED_AWAY;
use crate::{client, owner};

const UNIT: &str = "callbox.service";
const SOCKET: &str = "callbox.socket";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// One look, one order.
const ASK: Duration = Duration::from_secs(60);

/// So many restarts by systemd, and the version is given up.
const CRASHES: u32 = 4;

/// So many self-test calls that were taken and failed.
const CALLS: u32 = 2;

/// The service as it was before.
pub(super) struct Service {
    config: Config,
    /// This program; later versions of it lie in the same place.
    program: PathBuf,
    /// What is to be replaced; nothing if it did not run.
    pid: Option<u32>,
}

struct Look {
    state: String,
    pid: u32,
    restarts: u32,
}

impl Service {
    pub(super) async fn look(config: &Config) -> Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        let look = look().await?;
        let pid = (look.state == "active").then_some(look.pid);
        Ok(Self { config: config.clone(), program, pid })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// For the end of a sentence.
    pub(super) fn verdict(&self) -> &'static str {
        if self.pid.is_some() { " and answers calls" } else { "; the service did not run, so no call was tried" }
    }

    /// Has systemd start what is installed now, if it ran before, and forget what became of the last one.
    pub(super) async fn renew(&mut self) -> Result<()> {
        if self.pid.is_none() {
            return Ok(());
        }
        self.pid = Some(look().await?.pid);
        systemctl(&["reset-failed", SOCKET, UNIT]).await?;
        systemctl(&["start", "--no-block", SOCKET]).await?;
        systemctl(&["restart", "--no-block", UNIT]).await.map(drop)
    }

    /// Waits until the daemon says that it is ready, and has answered a call.
    pub(super) async fn answers(&self, limit: Duration) -> Result<()> {
        let Some(old) = self.pid else { return Ok(()) };
        let begun = SystemClock.now();
        let (mut why, mut calls) = ("it was not ready".to_owned(), 0);
        loop {
            let look = look().await?;
            if look.state == "failed" || look.restarts >= CRASHES {
                bail!("{UNIT} does not stay up: {}", last_words().await);
            }
            let renewed = look.state == "active" && look.pid != old;
            match client::read::<Value>(&self.config.http.socket, "/health").await {
                Ok(health) if renewed && health["status"] == "ready" => match self.call().await {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        why = format!("a self-test call failed: {error:#}");
                        // A box that has all of its calls refuses one more, and is well.
                        calls += u32::from(!why.contains(TURNED_AWAY));
                        if calls >= CALLS {
                            bail!(why);
                        }
                    }
                },
                Ok(_) => {}
                Err(error) => why = format!("{error:#}"),
            }
            if begun.elapsed() > limit {
                bail!("within {} s {why}", limit.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// With the program that is installed now.
    async fn call(&self) -> Result<()> {
        let mut command = owner::callbox(&self.program, &self.config, &["selftest"]);
        owner::become_owner_of(&self.config.models.cache, &mut command);
        owner::succeeds(command, Duration::from_secs(180)).await.map(drop)
    }
}

async fn systemctl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    owner::succeeds(command, ASK).await
}

async fn look() -> Result<Look> {
    let told = systemctl(&["show", UNIT, "--property=ActiveState,MainPID,NRestarts"]).await?;
    let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
    Ok(Look {
        state: field("ActiveState").to_owned(),
        pid: field("MainPID").parse().unwrap_or(0),
        restarts: field("NRestarts").parse().unwrap_or(0),
    })
}

/// What the service said last.
async fn last_words() -> String {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--output=cat", "--lines=1"]).arg(format!("_SYSTEMD_UNIT={UNIT}"));
    let said = owner::succeeds(command, ASK).await.unwrap_or_default();
    match said.trim() {
        "" => "it said nothing; `systemctl status callbox` has the rest".to_owned(),
        said => said.to_owned(),
    }
}
