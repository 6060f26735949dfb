//! `callbox health`: 0 if calls are answered, 1 if not.

use std::process::ExitCode;

use clap::Args;
use hyper::StatusCode;

use crate::client::Daemon;

/// See [`crate::Command::Health`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (status, health) = arguments.daemon.get("/health", Some(StatusCode::SERVICE_UNAVAILABLE)).await?;
    if arguments.json {
        println!("{health}");
    } else {
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!(
            "callboxd {}: {}, {} calls, up {} s",
            text(&health["version"]),
            text(&health["status"]),
            health["calls"],
            health["uptime_seconds"]
        );
        for (part, status) in health["parts"].as_object().into_iter().flatten() {
            println!("  {part:<14} {}", text(status));
        }
        if let Some(fault) = health["storage"]["fault"].as_str() {
            println!("  {fault}; {} records lost", health["storage"]["records_lost"]);
        }
    }
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
