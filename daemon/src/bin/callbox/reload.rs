//! `callbox reload`: what has changed in the files counts from the next call on. A wrong file changes nothing: exit
//! status 78.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::client::Daemon;

/// See [`crate::Command::Reload`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let reloaded = arguments.daemon.order(Method::POST, "/api/v1/reload").await?;
    if arguments.json {
        println!("{reloaded}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut nothing = true;
    for (field, words) in [
        ("changed", "changed"),
        ("agents_added", "new agent"),
        ("agents_changed", "changed agent, from the next call on"),
        ("agents_removed", "agent that takes no further call"),
        ("needs_restart", "needs a restart"),
    ] {
        for name in reloaded[field].as_array().into_iter().flatten().filter_map(Value::as_str) {
            println!("{words}: {name}");
            nothing = false;
        }
    }
    if nothing {
        println!("nothing has changed");
    }
    Ok(ExitCode::SUCCESS)
}
