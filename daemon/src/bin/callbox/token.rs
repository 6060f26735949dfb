//! `callbox token`: who may use the control API over TCP. Enters: a name and a scope; leaves: a token on standard output,
//! once. Never here: a token in a log or a file.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;

use crate::calls::text;
use crate::client::{Daemon, escaped};
use crate::report;

/// See [`crate::Command::Token`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scope {
    /// Looks; is shown callers only with `http.show_callers`.
    Viewer,
    /// Sees callers, and acts on calls.
    Operator,
    /// Changes the daemon, and reads the audit.
    Admin,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a token and prints it, this once.
    Create {
        #[command(flatten)]
        daemon: Daemon,
        /// Whose it is, for the audit.
        name: String,
        /// What it is good for.
        #[arg(long, value_enum, default_value_t = Scope::Viewer)]
        scope: Scope,
        /// How long it is good: 12h, 90d, 52w; ten years at most.
        #[arg(long, value_name = "SPAN", default_value = "90d", value_parser = report::span)]
        expires: Duration,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// Tokens, without themselves.
    List {
        #[command(flatten)]
        daemon: Daemon,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
    /// From now on a token is worth nothing.
    Revoke {
        #[command(flatten)]
        daemon: Daemon,
        /// Whose.
        name: String,
        /// Prints what the daemon says, as it says it.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Create { daemon, name, scope, expires, json } => {
            let scope = match scope {
                Scope::Viewer => "viewer",
                Scope::Operator => "operator",
                Scope::Admin => "admin",
            };
            let order = serde_json::json!({ "name": name, "scope": scope, "expires_s": expires.as_secs() });
            let drawn = daemon.order_with(Method::POST, "/api/v1/tokens", Some(&order)).await?;
            if json { println!("{drawn}") } else { println!("{}", text(&drawn["token"])) }
        }
        Command::List { daemon, json } => {
            let (_, known) = daemon.get("/api/v1/tokens", None).await?;
            if json {
                println!("{known}");
                return Ok(ExitCode::SUCCESS);
            }
            println!("{:<24}  {:<8}  {:<24}  {:<24}  ID", "NAME", "SCOPE", "CREATED", "EXPIRES");
            for token in known["tokens"].as_array().into_iter().flatten() {
                let [name, scope, created, expires, id] =
                    ["name", "scope", "created", "expires", "id"].map(|field| text(&token[field]));
                let over = if token["expired"] == true { "  (expired)" } else { "" };
                println!("{name:<24}  {scope:<8}  {created:<24}  {expires:<24}  {id}{over}");
            }
        }
        Command::Revoke { daemon, name, json } => {
            let path = format!("/api/v1/tokens/{}", escaped(&name));
            let gone = daemon.order(Method::DELETE, &path).await?;
            if json { println!("{gone}") } else { println!("revoked: {}", text(&gone["name"])) }
        }
    }
    Ok(ExitCode::SUCCESS)
}
