//! `callbox backup`, `callbox backup list`, `callbox restore FILE`. They work on the files themselves: whether a daemon
//! runs matters to a restore only, which refuses.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use callbox::base::{Clock as _, SystemClock};
use callbox::storage::Timestamp;
use callbox::storage::backup::{self, Listed, Made, Restored};
use clap::{Args, Subcommand};

use crate::{ConfigFile, client};

/// See [`crate::Command::Backup`].
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    /// How many backups to keep there; otherwise `storage.keep_backups`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

#[derive(Subcommand)]
enum Command {
    /// Backups, newest first.
    List(Place),
}

#[derive(Args)]
struct Place {
    #[command(flatten)]
    file: ConfigFile,
    /// Folder of the backups; otherwise `storage.backups`.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// See [`crate::Command::Restore`].
#[derive(Args)]
pub(crate) struct RestoreArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// A backup, `callbox-….db.zst`, with its `.sha256` beside it.
    backup: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Some(Command::List(place)) => list(place),
        None => make(arguments.place, arguments.keep).await,
    }
}

async fn make(place: Place, keep: Option<u16>) -> anyhow::Result<ExitCode> {
    let config = place.file.load()?;
    let knowledge = config.knowledge();
    let folder = place.to.unwrap_or(config.storage.backups);
    let keep = keep.unwrap_or_else(|| config.storage.keep_backups.get()).into();
    let (begun, now) = (SystemClock.now(), Timestamp::from(SystemClock.wall()));
    let making = move || backup::back_up(&config.storage.path, &knowledge, &folder, keep, now);
    let made = tokio::task::spawn_blocking(making).await??;
    if place.json {
        println!("{}", serde_json::to_string(&made)?);
        return Ok(ExitCode::SUCCESS);
    }
    let Made { path, bytes, database_bytes, calls, turns, documents, removed, .. } = made;
    println!(
        "{}: {calls} calls, {turns} turns and {documents} added documents, {} packed into {}, read back and checked in {:.1} s",
        path.display(),
        size(database_bytes),
        size(bytes),
        begun.elapsed().as_secs_f64()
    );
    for path in removed {
        println!("removed {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn list(place: Place) -> anyhow::Result<ExitCode> {
    let folder = match place.to {
        Some(folder) => folder,
        None => place.file.load()?.storage.backups,
    };
    let backups = backup::list(&folder)?;
    if place.json {
        println!("{}", serde_json::to_string(&backups)?);
        return Ok(ExitCode::SUCCESS);
    }
    for Listed { path, made, bytes, has_hash } in &backups {
        let hash = if *has_hash { "" } else { "  (its .sha256 is missing)" };
        println!("{made}  {:>10}  {}{hash}", size(*bytes), path.display());
    }
    if backups.is_empty() {
        println!("no backup in {}; `callbox backup` makes one", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(arguments: RestoreArguments) -> anyhow::Result<ExitCode> {
    let config = arguments.file.load()?;
    if client::is_running(&config).await {
        bail!("a callboxd answers on {}: stop it first, with `systemctl stop callbox`", config.http.socket.display());
    }
    let (begun, now) = (SystemClock.now(), Timestamp::from(SystemClock.wall()));
    let knowledge = config.knowledge();
    let restoring = move || backup::restore(&arguments.backup, &config.storage.path, &knowledge, now);
    let restored = tokio::task::spawn_blocking(restoring).await??;
    if arguments.json {
        println!("{}", serde_json::to_string(&restored)?);
        return Ok(ExitCode::SUCCESS);
    }
    let Restored { path, bytes, calls, turns, documents, moved_aside, documents_aside } = restored;
    println!(
        "{}: {calls} calls, {turns} turns and {} added documents, {}, checked and in place in {:.1} s",
        path.display(),
        documents.unwrap_or(0),
        size(bytes),
        begun.elapsed().as_secs_f64()
    );
    if documents.is_none() {
        println!("the backup is older than documents in backups: those that are here stay");
    }
    if let Some(aside) = documents_aside {
        println!("the documents that were there are {}", aside.display());
    }
    if let Some(aside) = moved_aside {
        println!("the database that was there is {}; remove it when nobody misses it", aside.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let bytes = bytes as f64;
    if bytes < 1e6 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}
