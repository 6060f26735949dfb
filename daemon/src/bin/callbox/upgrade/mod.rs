//! `callbox upgrade --offline FILE` and `callbox rollback`. Enters: a signed package; leaves: its version is installed and
//! answers calls, or the version from before is and does. The package managers do the installing; what is added is the
//! signature, the way back, and the call that decides. Never here: a network, unless the way back has to be fetched.

mod kept;
mod package;
mod service;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use callbox::config::Config;
use callbox::models::Trusted;

use self::kept::Kept;
use self::package::{Format, Package};
use self::service::Service;
use crate::{ConfigFile, owner};

/// The name of the package.
const NAME: &str = "callbox";

/// The backup that is made before anything is changed.
const BACKUP: Duration = Duration::from_secs(1800);

/// See [`crate::Command::Upgrade`].
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The package, a .deb or .rpm, with its `.minisig` beside it.
    #[arg(long, value_name = "FILE")]
    offline: PathBuf,
    /// The package of the version that runs now, likewise signed, if neither this command nor the package manager has it.
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// Trusts this public key, and no other.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    limit: Limit,
}

/// See [`crate::Command::Rollback`].
#[derive(clap::Args)]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    limit: Limit,
}

#[derive(clap::Args)]
struct Limit {
    #[command(flatten)]
    file: ConfigFile,
    /// How long the new version may take until it answers calls.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
}

impl Limit {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.limit.into())
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { offline, previous, key, limit } = arguments;
    let (config, kept) = begin(&limit)?;
    let trusted = match key {
        Some(key) => Trusted::read(vec![key])?,
        None => Trusted::installed()?,
    };
    let format = Format::of(&offline)?;
    let incoming = kept.copy(&trusted.check(&offline)?)?;
    let next = format.read(incoming.path()).await.with_context(|| format!("{} is no package", offline.display()))?;
    ensure!(next.name == NAME, "{} is the package {}, not {NAME}", offline.display(), next.name);
    let now = format.installed().await?;
    if now.version == next.version {
        println!("{NAME} {} is installed already; nothing has changed", now.version);
        return Ok(ExitCode::SUCCESS);
    }
    let way_back = way_back(&kept, &trusted, format, &now, previous.as_deref()).await?;
    let file = kept.place(incoming, &format.file_name(&next))?;
    let mut service = Service::look(&config).await?;
    let backup = back_up(&config, &service).await?;
    let before = kept.previous();
    // Before the installation: after a power cut in the middle of it `callbox rollback` knows the way.
    kept.set_previous(Some(&way_back))?;

    println!("{NAME} {} is in use and kept; installing {}", now.version, next.version);
    let Err(reason) = replace(format, &file, false, &mut service, limit.duration()).await else {
        kept.prune(&[&way_back, &file])?;
        println!("{NAME} {} is installed{}", next.version, service.verdict());
        println!("`callbox rollback` goes back to {}", now.version);
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("callbox: {} does not do: {reason:#}; going back to {}", next.version, now.version);
    replace(format, &way_back, true, &mut service, limit.duration()).await.with_context(|| {
        format!(
            "{} does not do ({reason:#}), and going back to {} failed, too; the database as it was is {backup}",
            next.version, now.version
        )
    })?;
    kept.set_previous(before.as_deref())?;
    kept.prune(&[&way_back, before.as_deref().unwrap_or(&way_back)])?;
    bail!("{} was not taken: {reason:#}; {} is installed again{}", next.version, now.version, service.verdict())
}

pub(crate) async fn roll_back(arguments: RollbackArguments) -> Result<ExitCode> {
    let RollbackArguments { limit } = arguments;
    let (config, kept) = begin(&limit)?;
    let nothing = "no earlier version is kept here; `callbox upgrade --offline FILE` keeps the one that it replaces";
    let target = kept.previous().context(nothing)?;
    let format = Format::of(&target)?;
    let now = format.installed().await?;
    let earlier = format.read(&target).await?;
    ensure!(earlier.version != now.version, "{NAME} {} is in use already; {nothing}", now.version);
    let mut service = Service::look(&config).await?;
    println!("going back from {NAME} {} to {}", now.version, earlier.version);
    replace(format, &target, true, &mut service, limit.duration()).await?;
    // Once more leads forward again, if the package of the later version is here.
    let later = kept.file(&format.file_name(&now)).filter(|path| path.exists());
    kept.set_previous(later.as_deref())?;
    println!("{NAME} {} is installed{}", earlier.version, service.verdict());
    Ok(ExitCode::SUCCESS)
}

/// What both need: root, a configuration that is right, the folder of packages, and nobody else at work.
fn begin(limit: &Limit) -> Result<(Config, Kept)> {
    ensure!(rustix::process::geteuid().is_root(), "installing packages is for root: use sudo");
    // A daemon that does not start because of its configuration would be blamed on the package.
    let config = limit.file.load()?;
    Ok((config, Kept::open()?))
}

/// The package of the version that is in use.
async fn way_back(
    kept: &Kept,
    trusted: &Trusted,
    format: Format,
    now: &Package,
    given: Option<&Path>,
) -> Result<PathBuf> {
    let name = format.file_name(now);
    if let Some(given) = given {
        let copy = kept.copy(&trusted.check(given)?)?;
        let found = format.read(copy.path()).await?;
        ensure!(
            found.name == NAME && found.version == now.version,
            "{} is {} {}, and {} is in use",
            given.display(),
            found.name,
            found.version,
            now.version
        );
        return kept.place(copy, &name);
    }
    if let Some(path) = kept.file(&name).filter(|path| path.exists()) {
        return Ok(path);
    }
    format.fetch_installed(now, &kept.folder).await.with_context(|| {
        format!(
            "there would be no way back: the package of {NAME} {}, which is in use, is not at hand; give it with --previous FILE",
            now.version
        )
    })
}

/// The database as it is now; a later version may change its form.
async fn back_up(config: &Config, service: &Service) -> Result<String> {
    if !config.storage.path.exists() {
        return Ok("none".to_owned());
    }
    let mut command = owner::callbox(service.program(), config, &["backup", "--json"]);
    owner::become_owner_of(&config.storage.path, &mut command);
    let made = owner::succeeds(command, BACKUP).await.context("nothing was changed, because no backup can be made")?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    Ok(made["path"].as_str().unwrap_or_default().to_owned())
}

/// Installs a version and waits until it answers calls.
async fn replace(format: Format, file: &Path, back: bool, service: &mut Service, limit: Duration) -> Result<()> {
    format.install(file, back).await?;
    service.renew().await?;
    service.answers(limit).await
}
