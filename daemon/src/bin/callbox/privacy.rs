//! `callbox privacy show|erase`: what there is of one person, and its end. Enters: a number; leaves: counts. An erasure says
//! first what it would delete, and asks.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use callbox::storage::backup;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::Daemon;

/// See [`crate::Command::Privacy`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what there is of one person: how many calls, since when.
    Show(Person),
    /// Deletes all calls of one person with all that was said, also of those that are up.
    Erase {
        #[command(flatten)]
        person: Person,
        /// Says what would be deleted, and deletes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Deletes without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
}

#[derive(Args)]
struct Person {
    #[command(flatten)]
    daemon: Daemon,
    /// Their number or address, or the hash that `callbox call show` names them by.
    #[arg(long, value_name = "NUMBER")]
    caller: String,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

impl Person {
    async fn ask(&self, what: &str) -> anyhow::Result<Value> {
        let (path, body) = (format!("/api/v1/privacy/{what}"), json!({ "caller": self.caller }));
        self.daemon.order_with(Method::POST, &path, Some(&body)).await
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Show(person) => {
            let found = person.ask("show").await?;
            if person.json { println!("{found}") } else { show(&found) }
        }
        Command::Erase { person, dry_run, yes } => return erase(&person, dry_run, yes).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn erase(person: &Person, dry_run: bool, yes: bool) -> anyhow::Result<ExitCode> {
    let found = person.ask("show").await?;
    if dry_run || !yes {
        if person.json { println!("{found}") } else { show(&found) }
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !agreed()? {
        bail!("nothing was deleted");
    }
    let erased = person.ask("erase").await?;
    if person.json {
        println!("{erased}");
        return Ok(ExitCode::SUCCESS);
    }
    let count = |name: &str| erased[name].as_u64().unwrap_or(0);
    println!(
        "deleted: {} calls with {} turns, {} recordings, {} learned answers",
        count("calls"),
        count("turns"),
        count("recordings"),
        count("learned")
    );
    if erased["log_emptied"] == false {
        println!("somebody reads the database: the write-ahead log is emptied of them when that ends");
    }
    backups(person);
    Ok(ExitCode::SUCCESS)
}

/// What an erasure does not reach.
fn backups(person: &Person) {
    let Ok(config) = person.daemon.config() else { return };
    let kept = backup::list(&config.storage.backups).unwrap_or_default();
    if let (Some(newest), Some(oldest)) = (kept.first(), kept.last()) {
        let (folder, count) = (config.storage.backups.display(), kept.len());
        println!(
            "{count} backups in {folder}, of {} to {}, may still hold them: delete those, or wait until newer ones have \
             taken their places; after a restore, erase again",
            oldest.made, newest.made
        );
    }
}

fn show(found: &Value) {
    let count = |name: &str| found[name].as_array().map_or(0, Vec::len);
    println!("{} calls with {} turns, {} of them up", count("calls"), found["turns"], count("live"));
    if let (Some(first), Some(last)) = (found["first"].as_str(), found["last"].as_str()) {
        println!("from {first} to {last}");
    }
}

/// Asks whoever sits there.
fn agreed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked: say --yes, or --dry-run");
    }
    print!("Delete all of it? There is no way back. Type yes: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
