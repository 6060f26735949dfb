//! `callbox drain`: no new calls; waits until those that are up have ended. Ending the command does not end the drain.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::client::Daemon;

/// How often the daemon is asked how far it is.
const PAUSE: Duration = Duration::from_millis(250);

/// See [`crate::Command::Drain`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// How long calls that are up go on before their agents say goodbye; otherwise `sip.limits.drain_s`.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    limit: Option<u32>,
    /// Takes calls again instead.
    #[arg(long, conflicts_with = "limit")]
    cancel: bool,
    /// One JSON object for each step.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { daemon, limit, cancel, json } = arguments;
    let show = |status: &Value| if json { println!("{status}") } else { println!("{}", sentence(status)) };
    if cancel {
        show(&daemon.order(Method::DELETE, "/api/v1/drain").await?);
        return Ok(ExitCode::SUCCESS);
    }
    let limit = limit.map(|seconds| format!("?limit_s={seconds}")).unwrap_or_default();
    let mut status = daemon.order(Method::POST, &format!("/api/v1/drain{limit}")).await?;
    let mut shown = Value::Null;
    loop {
        // The seconds alone are no news, but for every tenth.
        let news = (status["state"].clone(), status["calls"].clone(), status["seconds_left"].as_u64().map(|s| s / 10));
        let news = serde_json::json!([news.0, news.1, news.2]);
        if news != shown {
            show(&status);
            shown = news;
        }
        match status["state"].as_str() {
            Some("drained") => return Ok(ExitCode::SUCCESS),
            // Somebody else has cancelled it.
            Some("open") => return Ok(ExitCode::FAILURE),
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
        (_, status) = daemon.get("/api/v1/drain", None).await?;
    }
}

fn sentence(status: &Value) -> String {
    let calls = match status["calls"].as_u64() {
        Some(1) => "1 call is up".to_owned(),
        count => format!("{} calls are up", count.unwrap_or(0)),
    };
    match status["state"].as_str() {
        Some("waiting") => format!("draining: {calls}, goodbye in {} s at the latest", status["seconds_left"]),
        Some("goodbye") => format!("draining: {calls}, their agents are saying goodbye"),
        Some("drained") => "drained: no call is up; `callbox drain --cancel` takes calls again".to_owned(),
        _ => format!("open: calls are taken; {calls}"),
    }
}
