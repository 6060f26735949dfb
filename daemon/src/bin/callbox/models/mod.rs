//! `callbox models`: which models there are, bringing a pack or one model, hashing what is there, trying whether it works.
//! Works without a daemon.

mod hub;
mod install;
mod pull;
mod selftest;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use callbox::config::Config;
use callbox::models::own::{self, Book, Owned};
use callbox::models::{Catalogue, Model, State, Version, megabytes, pack, state, versions};
use clap::{Args, Subcommand};
use serde::Serialize;

/// List, fetch, verify, install and test model packs.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Folder of the models.
    #[arg(long, global = true, env = "CALLBOX_MODELS", default_value = "/var/lib/callbox/models")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Every model of the catalogue, and whether it is here.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch what a pack still lacks, or one model of the owner's; check it, put it in place; continues where it stopped.
    Pull(pull::Arguments),
    /// Delete a model of the owner's.
    Remove {
        /// Its name.
        name: String,
    },
    /// Install a signed archive of a pack beside what is in use, and switch to it if it passes a self-test call.
    Install(install::Arguments),
    /// Go back to the version of a pack that was in use before; once more: forward again.
    Rollback {
        /// Which pack.
        pack: String,
        #[command(flatten)]
        machine: MachineArgs,
    },
    /// Make a self-test call with a pack in an engine of its own: the voice asks, the ears hear, the mind answers.
    Test {
        /// Which pack, as it is; otherwise what is configured.
        pack: Option<String>,
        /// A version in this folder.
        #[arg(long, value_name = "DIR", hide = true)]
        folder: Option<PathBuf>,
        #[command(flatten)]
        machine: MachineArgs,
    },
    /// Write a pack that is here as an archive for other machines; sign it with `minisign -S`.
    Pack {
        /// `starter` or `tiny`.
        pack: String,
        /// MAJOR.MINOR.PATCH; machines take it if it is later than what they have.
        version: Version,
        /// Folder for the archive.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
    /// Read every byte of what is here and compare it with the catalogue or what was recorded; 1 if anything differs or is missing.
    Verify {
        /// Only the models of this pack, or this model of the catalogue's or the owner's.
        #[arg(value_name = "PACK|NAME")]
        pack: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What a self-test needs of the configuration.
#[derive(Args, Debug)]
struct MachineArgs {
    #[command(flatten)]
    file: crate::ConfigFile,
    /// Folder of imported weights, instead of the configured one.
    #[arg(long, value_name = "DIR", env = "CALLBOX_WEIGHTS")]
    weights: Option<PathBuf>,
}

impl MachineArgs {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = self.file.load()?;
        if let Some(weights) = &self.weights {
            config.models.cache.clone_from(weights);
        }
        Ok(config)
    }
}

/// Stands for the packs of a model that is the owner's.
const OWN: &str = "own";

#[derive(Serialize)]
struct Row {
    model: String,
    role: callbox::models::Use,
    /// Those that hold it; a version that was installed from an archive is written behind its name. `own` for the owner's.
    packs: Vec<String>,
    licence: String,
    about: String,
    bytes: u64,
    path: PathBuf,
    state: State,
    /// Of a model of the owner's: where it came from, what was asked for, what that stood for.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

impl Row {
    fn new(model: &Model, packs: Vec<String>, dir: &Path, hash: bool) -> anyhow::Result<Self> {
        Ok(Self {
            model: model.name.clone(),
            role: model.role,
            packs,
            licence: model.licence.clone(),
            about: model.about.clone(),
            bytes: model.files.iter().map(|file| file.bytes).sum(),
            path: model.path(dir, &model.files[0]),
            state: state(model, dir, hash)?,
            source: None,
            revision: None,
            commit: None,
        })
    }

    fn own(owned: &Owned, dir: &Path, hash: bool) -> anyhow::Result<Self> {
        let row = Self::new(&owned.model(), vec![OWN.to_owned()], &owned.folder(dir), hash)?;
        let (source, revision, commit) = (Some(owned.source.clone()), owned.revision.clone(), owned.commit.clone());
        Ok(Self { source, revision, commit, ..row })
    }
}

/// Runs the subcommand; 1 if a verification fails.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::embedded();
    match arguments.command {
        Command::List { json } => print(&rows(&arguments.dir, None, false)?, json)?,
        Command::Pull(pull) => return pull::run(arguments.dir, pull).await,
        Command::Remove { name } => {
            own::remove(&arguments.dir, &name)?;
            println!("removed: {name}");
        }
        Command::Install(install) => {
            let config = install.machine.config()?;
            return install::run(&config, arguments.dir, install).await;
        }
        Command::Rollback { pack, machine } => {
            return install::roll_back(&machine.config()?, arguments.dir, pack).await;
        }
        Command::Test { pack, folder, machine } => {
            let config = machine.config()?;
            return selftest::run(&config, &arguments.dir, pack.as_deref(), folder.as_deref()).await;
        }
        Command::Pack { pack, version, out } => {
            let written = move || pack::write(catalogue, &pack, version, &arguments.dir, &out);
            println!("{}", tokio::task::spawn_blocking(written).await??.display());
        }
        Command::Verify { pack, json } => {
            let rows = tokio::task::spawn_blocking(move || rows(&arguments.dir, pack.as_deref(), true)).await??;
            print(&rows, json)?;
            if rows.iter().any(|row| row.state != State::Installed) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The models of the catalogue, then those of the versions that were installed, then the owner's. With a pack only what is
/// in use of it.
fn rows(dir: &Path, pack: Option<&str>, hash: bool) -> anyhow::Result<Vec<Row>> {
    let catalogue = Catalogue::embedded();
    let book = Book::read(dir)?;
    let known = |name: &str| catalogue.packs().any(|(pack, _)| pack == name);
    if let Some(owned) = pack.filter(|name| !known(name)).and_then(|name| book.get(name)) {
        return Ok(vec![Row::own(owned, dir, hash)?]);
    }
    let mut rows = Vec::new();
    let pulled = match pack {
        Some(pack) if versions::current(dir, pack)?.is_some() => Vec::new(),
        Some(pack) => catalogue.wanted(pack)?,
        None => catalogue.models().iter().collect(),
    };
    for model in pulled {
        rows.push(Row::new(model, catalogue.packs_of(model).map(str::to_owned).collect(), dir, hash)?);
    }
    let named = pack.map_or_else(|| versions::packs(dir), |pack| vec![pack.to_owned()]);
    for pack in named {
        let Some(installed) = versions::current(dir, &pack)? else { continue };
        let label = format!("{pack} {}", installed.manifest.version);
        for model in &installed.manifest.models {
            rows.push(Row::new(model, vec![label.clone()], &installed.folder, hash)?);
        }
    }
    if pack.is_none() {
        for owned in book.models() {
            rows.push(Row::own(owned, dir, hash)?);
        }
    }
    Ok(rows)
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows).context("a table of plain values")?);
        return Ok(());
    }
    println!("{:20} {:6} {:>10}  {:11} {:10} {:13} about", "model", "role", "size", "licence", "state", "packs");
    for row in rows {
        let state = match row.state {
            State::Installed => "installed",
            State::Missing => "missing",
            State::Damaged => "damaged",
        };
        let (size, packs) = (megabytes(row.bytes), row.packs.join(","));
        println!("{:20} {:6} {size:>10}  {:11} {state:10} {packs:13} {}", row.model, row.role, row.licence, row.about);
    }
    Ok(())
}
