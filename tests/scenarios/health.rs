//! What an operator's probes see.

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, get, scenario};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::PATIENCE;
use crate::callers::call;

const METRICS: &str = include_str!("../../docs/metrics.md");

#[tokio::test]
async fn probes_tell_alive_from_ready_and_metrics_are_named() -> anyhow::Result<()> {
    let mut daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    for path in ["/health", "/health/live", "/health/ready", "/health/startup"] {
        let (status, body) = get(daemon.http(), path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    // Whatever path somebody makes up, it makes no series of its own.
    ensure!(get(daemon.http(), "/made/up").await?.0 == 404);
    let page = daemon.metrics().await?;
    ensure!(page.contains("path=\"/health/live\",method=\"GET\",status=\"2xx\"} 1"), "{page}");
    ensure!(page.contains("path=\"other\",method=\"GET\",status=\"4xx\"} 1") && !page.contains("made"), "{page}");
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        ensure!(line.starts_with("callbox_"), "a metric must be named callbox_…: {line}");
    }
    ensure!(page.lines().count() > 20, "{page}");
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap_or((line, ""));
        let name = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        let told = ["`", "{"].into_iter().any(|end| METRICS.contains(&format!("| `{name}{end}")));
        ensure!(told, "{name} is not in docs/metrics.md");
    }

    // Without an engine it is alive but not ready, and says so before a probe would give up.
    let engine = daemon.engine().expect("ready, so there is one");
    kill_process(engine, Signal::KILL)?;
    let http = daemon.http();
    let unready = || async move { get(http, "/health/ready").await.ok().filter(|(status, _)| *status == 503) };
    eventually("/health/ready to say 503", Duration::from_secs(2), unready).await?;
    ensure!(get(http, "/health/live").await?.0 == 200, "a lost engine must not get the daemon restarted");
    daemon.ready().await?;
    ensure!(daemon.stop().await?.success(), "callboxd must end with 0 when asked to");
    Ok(())
}

#[tokio::test]
async fn a_self_test_that_failed_is_told_to_probes_and_turns_no_caller_away() -> anyhow::Result<()> {
    let mut daemon = Daemon::start(Setup::new(Engine::Scripted(crate::outbound::SCRIPT))).await?;
    let failed = json!({ "passed": false, "why": "it took the call and said nothing", "good_for_s": 8 }).to_string();
    daemon.order("POST", "/api/v1/selftest", &failed).await?;
    let (status, body) = get(daemon.http(), "/health/ready").await?;
    ensure!(status == 503 && body.contains("it took the call and said nothing"), "{status} {body}");
    ensure!(daemon.metric("callbox_selftest_passed").await? == Some(0.0), "the metric does not say so");
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(3))).await?;
    crate::callers::meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
    // Nobody has tried again, so nobody knows.
    daemon.ready().await?;
    ensure!(daemon.metric("callbox_selftest_passed").await?.is_none(), "it is believed for ever");
    Ok(())
}
