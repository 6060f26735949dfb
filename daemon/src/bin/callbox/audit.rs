//! `callbox audit`: who has looked at callers, and who has changed something, newest first.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::calls::text;
use crate::client::Daemon;
use crate::report::span;

/// See [`crate::Command::Audit`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// How many, at most 500.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Goes on where an earlier list ended: its `next`.
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// How far back: 90m, 24h, 7d, 4w; all there is unless said.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    since: Option<Duration>,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { daemon, limit, before, since, json } = arguments;
    let before = before.map(|number| format!("&before={number}")).unwrap_or_default();
    let since = since.map(|span| format!("&since_s={}", span.as_secs())).unwrap_or_default();
    let (_, page) = daemon.get(&format!("/api/v1/audit?limit={limit}{before}{since}"), None).await?;
    if json {
        println!("{page}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24}  {:<20}  {:<6}  {:<36}  OBJECT", "AT", "WHO", "RESULT", "ACTION");
    for entry in page["entries"].as_array().into_iter().flatten() {
        let [at, who, result, action, object] =
            ["at", "who", "result", "action", "object"].map(|field| text(&entry[field]));
        println!("{at:<24}  {who:<20}  {result:<6}  {action:<36}  {object}");
    }
    if let Some(next) = page["next"].as_i64() {
        println!("more: --before {next}");
    }
    Ok(ExitCode::SUCCESS)
}
