//! `callbox models install FILE` and `callbox models rollback PACK`. Enters: an archive with its signature; leaves: the
//! version in it counts, once it has passed its self-test, or everything is as it was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use callbox::config::Config;
use callbox::models::pack::{Unpacked, unpack};
use callbox::models::versions;
use callbox::models::{Machine, Terminal, Trusted};

use super::selftest;
use crate::client;

/// See [`super::Command::Install`].
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The archive, `callbox-PACK-VERSION.tar.zst`, with its `.minisig` beside it.
    file: PathBuf,
    /// Takes an older version than the one that is installed.
    #[arg(long)]
    older: bool,
    /// Trusts this public key, and no other.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    pub(super) machine: super::MachineArgs,
}

pub(super) async fn run(config: &Config, dir: PathBuf, arguments: Arguments) -> Result<ExitCode> {
    let Arguments { file, older, key, .. } = arguments;
    let unpacked = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || -> Result<Unpacked> {
            let trusted = match key {
                Some(key) => Trusted::read(vec![key])?,
                None => Trusted::installed()?,
            };
            let checked = trusted.check(&file)?;
            Ok(unpack(&dir, &checked, older, &Machine::default(), &Terminal::new())?)
        }
    })
    .await??;
    let staged = match unpacked {
        Unpacked::Staged(staged) => staged,
        Unpacked::Already(installed) => {
            let manifest = installed.manifest;
            println!("pack {} {} is installed already; nothing has changed", manifest.pack, manifest.version);
            return Ok(ExitCode::SUCCESS);
        }
    };
    let manifest = staged.installed().manifest.clone();
    let (pack, version) = (&manifest.pack, manifest.version);
    eprintln!("pack {pack} {version}: signed and whole; a self-test call is made with it");
    if let Err(reason) = selftest::apart(config, &[Path::new("--folder"), staged.installed().folder.as_path()]).await {
        bail!("pack {pack} {version} did not pass its self-test, and what was in use still is: {reason:#}");
    }
    staged.switch()?;
    println!("pack {pack} {version} is installed");
    advise(config, pack).await;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn roll_back(config: &Config, dir: PathBuf, pack: String) -> Result<ExitCode> {
    match versions::roll_back(&dir, &pack)? {
        Some(version) => println!("pack {pack} {version} is in use again"),
        None => println!("pack {pack} as it was pulled is in use again"),
    }
    advise(config, &pack).await;
    Ok(ExitCode::SUCCESS)
}

/// What is left to do for a daemon that runs.
async fn advise(config: &Config, pack: &str) {
    if config.models.pack != pack {
        println!("the configuration names another pack: set `pack = {pack:?}` in the section [models] to use it");
    } else if client::is_running(config).await {
        println!("callboxd goes on with what it has loaded; `systemctl restart callbox` loads this, and calls go on");
    }
}
