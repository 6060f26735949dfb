//! `callbox upgrade --offline FILE...` and `callbox rollback`. Enters: signed packages; leaves: their version is installed and
//! answers calls, or the version from before is and does. The package managers do the installing; what is added is the
//! signature, the way back, and the call that decides. Never here: a network, unless the way back has to be fetched.

mod kept;
mod package;
mod service;
mod set;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use callbox::config::Config;
use callbox::models::Trusted;
use tempfile::NamedTempFile;

use self::kept::Kept;
use self::package::{Format, Package};
use self::service::Service;
use crate::{ConfigFile, owner};

/// The name of the daemon's package.
const NAME: &str = "callbox";

/// All packages of ours; those that are installed are of one version.
const NAMES: [&str; 2] = [NAME, "callbox-engine-cuda"];

/// The backup that is made before anything is changed.
const BACKUP: Duration = Duration::from_secs(1800);

/// See [`crate::Command::Upgrade`].
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The package, a .deb or .rpm, with its `.minisig` beside it; that of callbox-engine-cuda, too, if it is installed here.
    /// Or the folder that they are in.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    offline: Vec<PathBuf>,
    /// The packages of the version that runs now, likewise signed, if neither this command nor the package manager has them. Or
    /// their folder.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    previous: Vec<PathBuf>,
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
    let (format, files) = files(&offline).await?;
    let now = format.installed().await?;
    let incoming = incoming(&kept, &trusted, format, &files, &now).await?;
    let next: Vec<Package> = incoming.iter().map(|(package, _)| package.clone()).collect();
    let (was, will) = (set::shown(&now), set::shown(&next));
    if now.iter().zip(&next).all(|(now, next)| now.version == next.version) {
        println!("{was} is installed already; nothing has changed");
        return Ok(ExitCode::SUCCESS);
    }
    let way_back = way_back(&kept, &trusted, format, &now, &previous).await?;
    let place = |(package, copy)| kept.place(copy, &format.file_name(&package));
    let files: Vec<PathBuf> = incoming.into_iter().map(place).collect::<Result<_>>()?;
    let mut service = Service::look(&config).await?;
    let backup = back_up(&config, &service).await?;
    let before = kept.previous();
    // Before the installation: after a power cut in the middle of it `callbox rollback` knows the way.
    kept.set_previous(way_back.first().map(PathBuf::as_path))?;

    let version = &next.first().context("nothing to install")?.version;
    println!("{was} is in use and kept; installing {version}");
    let Err(reason) = replace(format, &files, false, &mut service, limit.duration()).await else {
        kept.prune(&[&way_back[..], &files].concat())?;
        println!("{will} is installed{}", service.verdict());
        println!("`callbox rollback` goes back to {was}");
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("callbox: {version} does not do: {reason:#}; going back to {was}");
    replace(format, &way_back, true, &mut service, limit.duration()).await.with_context(|| {
        format!(
            "{version} does not do ({reason:#}), and going back to {was} failed, too; the database as it was is {backup}"
        )
    })?;
    kept.set_previous(before.as_deref())?;
    let mut stay = way_back;
    if let Some(before) = before {
        stay.extend(companions(&kept, format, &before, &now).await?);
    }
    kept.prune(&stay)?;
    bail!("{version} was not taken: {reason:#}; {was} is installed again{}", service.verdict())
}

pub(crate) async fn roll_back(arguments: RollbackArguments) -> Result<ExitCode> {
    let RollbackArguments { limit } = arguments;
    let (config, kept) = begin(&limit)?;
    let nothing = "no earlier version is kept here; `callbox upgrade --offline FILE` keeps the one that it replaces";
    let target = kept.previous().context(nothing)?;
    let format = Format::of(&target)?;
    let now = format.installed().await?;
    let (earlier, was) = (format.read(&target).await?, set::shown(&now));
    ensure!(now.iter().any(|now| earlier.version != now.version), "{was} is in use already; {nothing}");
    let files = companions(&kept, format, &target, &now).await?;
    ensure!(
        files.len() == now.len(),
        "{} is installed here, and its package {} is not kept: remove it first, or give all packages of that version to \
         `callbox upgrade --offline`",
        now.last().map_or(NAME, |package| package.name.as_str()),
        earlier.version
    );
    let mut service = Service::look(&config).await?;
    println!("going back from {was} to {}", earlier.version);
    replace(format, &files, true, &mut service, limit.duration()).await?;
    // Once more leads forward again, if the package of the later version is here.
    let later = now.first().and_then(|now| kept.file(&format.file_name(now)));
    kept.set_previous(later.as_deref())?;
    println!("{} is installed{}", set::shown(&format.installed().await?), service.verdict());
    Ok(ExitCode::SUCCESS)
}

/// What both need: root, a configuration that is right, the folder of packages, and nobody else at work.
fn begin(limit: &Limit) -> Result<(Config, Kept)> {
    ensure!(rustix::process::geteuid().is_root(), "installing packages is for root: use sudo");
    // A daemon that does not start because of its configuration would be blamed on the package.
    let config = limit.file.load()?;
    Ok((config, Kept::open()?))
}

/// The files that were named, and those in folders that were.
async fn files(named: &[PathBuf]) -> Result<(Format, Vec<PathBuf>)> {
    let mut files = Vec::new();
    for path in named {
        if path.is_dir() {
            files.extend(Format::of_this_machine().await.found_in(path)?);
        } else {
            files.push(path.clone());
        }
    }
    let first = files.first().context("no package was given")?;
    let format = Format::of(first)?;
    for file in &files {
        ensure!(Format::of(file)? == format, "{} is of another kind than {}", file.display(), first.display());
    }
    Ok((format, files))
}

/// Copies of the packages to install, checked: they fit each other and what is installed.
async fn incoming(
    kept: &Kept,
    trusted: &Trusted,
    format: Format,
    files: &[PathBuf],
    now: &[Package],
) -> Result<Vec<(Package, NamedTempFile)>> {
    let (mut packages, mut copies) = (Vec::new(), Vec::new());
    for file in files {
        let copy = kept.copy(&trusted.check(file)?)?;
        let package = format.read(copy.path()).await.with_context(|| format!("{} is no package", file.display()))?;
        ensure!(
            NAMES.contains(&package.name.as_str()),
            "{} is the package {}, not {NAME}",
            file.display(),
            package.name
        );
        packages.push(package);
        copies.push(Some(copy));
    }
    let wanted = set::fit(now, &packages)?;
    for left in packages.iter().filter(|package| now.iter().all(|now| now.name != package.name)) {
        println!("{} is not installed here, and is left out", left.name);
    }
    let taken = wanted.into_iter().filter_map(|at| Some((packages.get(at)?.clone(), copies.get_mut(at)?.take()?)));
    Ok(taken.collect())
}

/// The packages of the version that is in use, in its order.
async fn way_back(
    kept: &Kept,
    trusted: &Trusted,
    format: Format,
    now: &[Package],
    given: &[PathBuf],
) -> Result<Vec<PathBuf>> {
    let within = |given: &PathBuf| {
        let files = now.iter().map(|now| given.join(format.file_name(now))).filter(|file| file.exists());
        if given.is_dir() { files.collect() } else { vec![given.clone()] }
    };
    for file in given.iter().flat_map(within) {
        let copy = kept.copy(&trusted.check(&file)?)?;
        let found = format.read(copy.path()).await?;
        ensure!(
            now.contains(&found),
            "{} is {} {}, and {} is in use",
            file.display(),
            found.name,
            found.version,
            set::shown(now)
        );
        kept.place(copy, &format.file_name(&found))?;
    }
    let mut paths = Vec::new();
    for package in now {
        paths.push(match kept.file(&format.file_name(package)) {
            Some(path) => path,
            None => format.fetch_installed(package, &kept.folder).await.with_context(|| {
                format!(
                    "there would be no way back: the package of {} {}, which is in use, is not at hand; give it with \
                     --previous FILE",
                    package.name, package.version
                )
            })?,
        });
    }
    Ok(paths)
}

/// A kept package of the daemon, and those of the same version of what else is installed, as far as they are kept.
async fn companions(kept: &Kept, format: Format, file: &Path, now: &[Package]) -> Result<Vec<PathBuf>> {
    let of = format.read(file).await?;
    let same = |now: &Package| kept.file(&format.file_name(&now.of_version(&of.version)));
    Ok(now.iter().filter_map(same).collect())
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
async fn replace(format: Format, files: &[PathBuf], back: bool, service: &mut Service, limit: Duration) -> Result<()> {
    format.install(files, back).await?;
    service.renew().await?;
    service.answers(limit).await
}
