//! What an operator's probes see.

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, get};
use rustix::process::{Signal, kill_process};

const METRICS: &str = include_str!("../../docs/metrics.md");

#[tokio::test]
async fn probes_tell_alive_from_ready_and_metrics_are_named() -> anyhow::Result<()> {
    let mut daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    for path in ["/health", "/health/live", "/health/ready", "/health/startup"] {
        let (status, body) = get(daemon.http(), path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    let page = daemon.metrics().await?;
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
