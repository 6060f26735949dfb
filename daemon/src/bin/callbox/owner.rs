//! Commands that root starts as the daemon's user, so that nothing of what they write belongs to somebody whom the daemon
//! cannot overwrite, and nothing that the daemon wrote is followed with root's rights.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use callbox::config::Config;
use tokio::process::Command;

/// This program, or what lies in its place now, with other arguments and the same configuration.
pub(crate) fn callbox(program: &Path, config: &Config, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(path) = &config.path {
        command.arg("--config").arg(path);
    }
    command
}

/// If this is root: as whoever owns `path`. False if there is no such file or folder.
pub(crate) fn become_owner_of(path: &Path, command: &mut Command) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    if rustix::process::geteuid().is_root() && meta.uid() != 0 {
        command.uid(meta.uid()).gid(meta.gid());
    }
    true
}

/// What it writes to its standard output; an error is the last line of what it says otherwise.
pub(crate) async fn succeeds(mut command: Command, limit: Duration) -> Result<String> {
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{program} did not end within {} s", limit.as_secs()))?
        .with_context(|| format!("{program} could not be started"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    match last {
        Some(last) => bail!("{}", last.trim_start_matches("callbox: ")),
        None => bail!("{program} ended with {}", output.status),
    }
}
