//! `callbox adapter …`: adapters of the language model. Enters: names, what the daemon says; leaves: a table, JSON.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use crate::calls::text;
use crate::client::{Daemon, escaped};
use crate::printable::printable;

/// See [`crate::Command::Adapter`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Shown {
    #[command(flatten)]
    daemon: Daemon,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the adapters that are on the disk or loaded, and who answers with them.
    List {
        #[command(flatten)]
        shown: Shown,
    },
    /// Loads an adapter as it is on the disk now; agents can answer with it from the next turn on.
    Load {
        #[command(flatten)]
        shown: Shown,
        /// Its folder, in `adapters` beside the models.
        name: String,
    },
    /// Forgets an adapter that no agent names; answers that are under way with it go on.
    Unload {
        #[command(flatten)]
        shown: Shown,
        /// Its name.
        name: String,
    },
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = |name: &str| format!("/api/v1/adapters/{}", escaped(name));
    let (shown, adapters) = match arguments.command {
        Command::List { shown } => {
            let (_, adapters) = shown.daemon.get("/api/v1/adapters", None).await?;
            (shown, adapters)
        }
        Command::Load { shown, name } => {
            let adapters = shown.daemon.order(Method::PUT, &path(&name)).await?;
            (shown, adapters)
        }
        Command::Unload { shown, name } => {
            let adapters = shown.daemon.order(Method::DELETE, &path(&name)).await?;
            (shown, adapters)
        }
    };
    if shown.json {
        println!("{adapters}")
    } else {
        list(&adapters)
    }
    Ok(ExitCode::SUCCESS)
}

fn list(adapters: &Value) {
    println!("{:<20}  {:<7}  {:>4}  {:<12}  {:<20}  BASE MODEL", "ADAPTER", "STATE", "RANK", "SHA-256", "AGENTS");
    for adapter in adapters["adapters"].as_array().into_iter().flatten() {
        let [name, rank] = ["name", "rank"].map(|field| text(&adapter[field]));
        let [base, hash] = ["base", "sha256"].map(|field| adapter[field].as_str().map_or_else(String::new, printable));
        let state = if adapter["loaded"] == true { "loaded" } else { "on disk" };
        let hash: String = hash.chars().take(12).collect();
        let agents: Vec<&str> = adapter["agents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        println!("{name:<20}  {state:<7}  {rank:>4}  {hash:<12}  {:<20}  {base}", agents.join(" "));
    }
}
