//! `callbox knowledge …`: documents that agents know. Enters: files, what the daemon says; leaves: tables, passages, JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::calls::text;
use crate::client::{Daemon, escaped};

/// Bytes of a document that the daemon takes at once, with room for what JSON makes of them.
const MOST: usize = 48 << 10;

/// See [`crate::Command::Knowledge`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    daemon: Daemon,
    /// Whose documents.
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Adds a document to what an agent knows, or a new text of it. It counts from the next question on.
    Add {
        #[command(flatten)]
        which: Which,
        /// Markdown, plain text or CSV: .md, .txt, .csv.
        file: PathBuf,
    },
    /// Lists documents, with their passages.
    List {
        #[command(flatten)]
        daemon: Daemon,
        /// Only those of this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Shows the passages that a caller's question would find.
    Query {
        #[command(flatten)]
        which: Which,
        /// As a caller may ask.
        question: String,
    },
    /// Takes a document away that was added.
    Remove {
        #[command(flatten)]
        which: Which,
        /// Its name, as the list shows it.
        name: String,
    },
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Add { which, file } => {
            let shown = file.display();
            let text = std::fs::read_to_string(&file).with_context(|| format!("{shown} cannot be read"))?;
            anyhow::ensure!(
                text.len() <= MOST,
                "{shown} has {} bytes: cut it into documents of at most {MOST}, or put it into the agent's own folder",
                text.len()
            );
            let name = file.file_name().with_context(|| format!("{shown} is no file"))?.to_string_lossy();
            let path = format!("/api/v1/knowledge/{}/{}", escaped(&which.agent), escaped(&name));
            let now = which.daemon.order_with(Method::PUT, &path, Some(&json!({ "text": text }))).await?;
            if which.json { println!("{now}") } else { list(&now) }
        }
        Command::List { daemon, agent, json } => {
            let agent = agent.map(|agent| format!("?agent={}", escaped(&agent))).unwrap_or_default();
            let (_, documents) = daemon.get(&format!("/api/v1/knowledge{agent}"), None).await?;
            if json { println!("{documents}") } else { list(&documents) }
        }
        Command::Query { which, question } => {
            let path =
                format!("/api/v1/knowledge/query?agent={}&question={}", escaped(&which.agent), escaped(&question));
            let (_, found) = which.daemon.get(&path, None).await?;
            if which.json { println!("{found}") } else { passages(&found) }
        }
        Command::Remove { which, name } => {
            let path = format!("/api/v1/knowledge/{}/{}", escaped(&which.agent), escaped(&name));
            let gone = which.daemon.order(Method::DELETE, &path).await?;
            if which.json { println!("{gone}") } else { println!("taken away: {name}") }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(documents: &Value) {
    println!("{:<12}  {:<32}  {:<6}  {:>8}  {:>14}", "AGENT", "DOCUMENT", "FROM", "PASSAGES", "WITHOUT VECTOR");
    for document in documents["documents"].as_array().into_iter().flatten() {
        let [agent, name, passages, without] =
            ["agent", "name", "passages", "without_vector"].map(|field| text(&document[field]));
        let from = if document["added"] == true { "added" } else { "folder" };
        println!("{agent:<12}  {name:<32}  {from:<6}  {passages:>8}  {without:>14}");
    }
}

fn passages(found: &Value) {
    let passages = found["passages"].as_array().map(Vec::as_slice).unwrap_or_default();
    if passages.is_empty() {
        println!("no passage speaks of that");
    }
    for passage in passages {
        println!("{:<6} {}", text(&passage["score"]), text(&passage["name"]));
        println!("       {}", text(&passage["text"]));
    }
}
