//! `callbox health`: 0 if calls are answered, 1 if not, now or after a while.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::client::Daemon;

/// See [`crate::Command::Health`].
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    /// Prints what the daemon says, as it says it.
    #[arg(long)]
    json: bool,
    /// Waits until calls are answered, at most so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
}

/// Between two looks while waiting.
const AGAIN: Duration = Duration::from_millis(200);

async fn look(arguments: &Arguments) -> anyhow::Result<(StatusCode, Value)> {
    arguments.daemon.get("/health", Some(StatusCode::SERVICE_UNAVAILABLE)).await
}

async fn wait(arguments: &Arguments) -> (StatusCode, Value) {
    loop {
        match look(arguments).await {
            Ok((StatusCode::OK, health)) => return (StatusCode::OK, health),
            _ => sleep(AGAIN).await,
        }
    }
}

/// A card in a line: what it is, how it is, what is wrong with it.
fn gpu(card: &Value) -> String {
    let gibibytes = |key: &str| card[key].as_f64().map(|bytes| bytes / f64::from(1 << 30));
    let mut parts = vec![card["name"].as_str().unwrap_or("unknown").to_owned()];
    if let (Some(used), Some(all)) = (gibibytes("memory_used_bytes"), gibibytes("memory_bytes")) {
        parts.push(format!("{used:.1} of {all:.1} GiB"));
    }
    parts.extend(card["temperature_celsius"].as_u64().map(|celsius| format!("{celsius} °C")));
    parts.extend(card["power_watts"].as_f64().map(|watts| format!("{watts:.0} W")));
    parts.extend(card["utilization"].as_f64().map(|share| format!("busy {:.0} %", share * 100.0)));
    let faults: Vec<&str> = card["faults"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let state = if faults.is_empty() { "ready".to_owned() } else { faults.join("; ") };
    format!("{state} ({})", parts.join(", "))
}

/// An engine in a line: how it is, for how many calls, and what it does.
fn engine(engine: &Value) -> String {
    let text = |key: &str| engine[key].as_str().unwrap_or_default();
    let roles: Vec<&str> = engine["roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let state = if engine["why"].is_null() { text("state").to_owned() } else { format!("lost: {}", text("why")) };
    let place = if engine["card"].is_null() { "the processor" } else { text("card") };
    format!("{state} ({} on {place}, {} calls)", roles.join(" "), engine["calls"])
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let limit = Duration::from_secs(arguments.wait.into());
    let (status, health) = match timeout(limit, wait(&arguments)).await {
        Ok(well) => well,
        // As it is now, or why it cannot be asked.
        Err(_) => look(&arguments).await?,
    };
    if arguments.json {
        println!("{health}");
    } else {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
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
        for one in health["engines"].as_array().into_iter().flatten() {
            let name = one["name"].as_str().unwrap_or_default();
            println!("  {:<14} {}", format!("engine:{name}"), engine(one));
        }
        for card in health["gpus"]["cards"].as_array().into_iter().flatten() {
            let slice = card["slice"].as_u64().map_or_else(String::new, |slice| format!(":{slice}"));
            println!("  {:<14} {}", format!("gpu:{}{slice}", card["index"]), gpu(card));
        }
        if let Some(fault) = health["storage"]["fault"].as_str() {
            println!("  {fault}; {} records lost", health["storage"]["records_lost"]);
        }
    }
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
