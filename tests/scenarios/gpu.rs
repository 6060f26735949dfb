//! What the daemon says of NVIDIA's cards; the driver's library is a stand-in.

use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Cards, Daemon, Engine, Setup, eventually, executable};
use serde_json::Value;
use tokio::process::Command;

/// Two looks, and a busy computer.
const SOON: Duration = Duration::from_secs(20);

async fn daemon(cards: &Cards) -> anyhow::Result<Daemon> {
    let more = format!("[gpu]\nlibrary = \"{}\"\n", cards.library().display());
    Daemon::start(Setup { more, ..Setup::new(Engine::Scripted(crate::outbound::SCRIPT)) }).await
}

/// Waits until a card has these faults, or none.
async fn faults(daemon: &Daemon, card: usize, wanted: &[&str]) -> anyhow::Result<()> {
    let same = || async {
        let health = daemon.api("/health").await.ok()?;
        let faults = health["gpus"]["cards"][card]["faults"].as_array()?.clone();
        let told = |(fault, wanted): (&Value, &&str)| fault.as_str().is_some_and(|fault| fault.contains(*wanted));
        (faults.len() == wanted.len() && faults.iter().zip(wanted).all(told)).then_some(())
    };
    let seen = eventually("the card's faults", SOON, same).await;
    seen.with_context(|| format!("wanted {wanted:?}"))
}

#[tokio::test]
async fn every_card_is_shown_and_what_is_wrong_with_one_is_said_once_and_counted() -> anyhow::Result<()> {
    let cards = Cards::new("count=2\nused=8589934592\nbusy=25\ntemperature=61\nslowed=4").await?;
    let daemon = daemon(&cards).await?;
    faults(&daemon, 1, &[]).await?;
    let seen = daemon.api("/health").await?["gpus"].clone();
    let first = &seen["cards"][0];
    ensure!(seen["driver"] == "580.95.05" && seen["cards"].as_array().is_some_and(|all| all.len() == 2), "{seen}");
    ensure!(
        first["uuid"] == "GPU-00000000-0000-0000-0000-000000000000" && first["pci"] == "00000000:01:00.0",
        "{seen}"
    );
    ensure!(first["memory_used_bytes"] == 8_u64 << 30 && first["utilization"] == 0.25, "{seen}");
    ensure!(
        first["power_watts"] == 90.0 && first["power_limit_watts"].is_null(),
        "what a card does not tell is absent"
    );
    ensure!(daemon.metric("callbox_gpu_memory_used_bytes{gpu=\"1\"}").await? == Some(8_589_934_592.0));

    // A program that fails is counted, and no fault of the card; a card that breaks is.
    cards.are("count=2\nxid=31\nxid_number=1")?;
    let counted = || async { daemon.metric("callbox_gpu_xid_total{gpu=\"0\",xid=\"31\"}").await.ok()? };
    ensure!(eventually("XID 31 to be counted", SOON, counted).await? == 1.0);
    cards.are("count=2\nxid=79\nxid_number=2\necc=3\nrows_pending=1\nslowed=64")?;
    faults(
        &daemon,
        0,
        &["XID 79: the card has fallen off the bus", "3 memory errors", "waits to be replaced", "slowed down by heat"],
    )
    .await?;
    cards.are("count=2\nlost=1")?;
    faults(&daemon, 1, &["it cannot be reached"]).await?;
    faults(&daemon, 0, &["XID 79"]).await?;
    ensure!(daemon.metric("callbox_gpu_healthy{gpu=\"1\"}").await? == Some(0.0));
    ensure!(daemon.metric("callbox_gpu_temperature_celsius{gpu=\"1\"}").await?.is_none(), "nothing of it is made up");
    ensure!(daemon.api("/health/ready").await?["status"] == "ready", "calls are computed elsewhere");
    cards.are("count=2\nlost=1\nxid=43\nxid_number=3")?;
    let counted = || async { daemon.metric("callbox_gpu_xid_total{gpu=\"0\",xid=\"43\"}").await.ok()? };
    eventually("XID 43 to be counted beside a card that is lost", SOON, counted).await?;
    let mut told = Command::new(executable("callbox")?);
    let told = told.args(["health", "--config"]).arg(daemon.config()).output().await?;
    let told = String::from_utf8(told.stdout)?;
    ensure!(
        told.contains("gpu:1") && told.contains("it cannot be reached") && told.contains("NVIDIA Stand-in 1"),
        "{told}"
    );
    cards.are("count=2")?;
    faults(&daemon, 1, &[]).await?;

    let events = daemon.api("/api/v1/reports/events?since_s=600").await?;
    let kinds: Vec<&str> =
        events["rows"].as_array().context("rows")?.iter().filter_map(|row| row["kind"].as_str()).collect();
    ensure!(kinds.iter().filter(|kind| **kind == "gpu_xid").count() == 3, "{events}");
    ensure!(kinds.iter().filter(|kind| **kind == "gpu").count() >= 4, "{events}");
    Ok(())
}

#[tokio::test]
async fn a_machine_without_a_card_says_nothing_of_any() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup::new(Engine::Scripted(crate::outbound::SCRIPT))).await?;
    let health = daemon.api("/health").await?;
    ensure!(health["gpus"]["driver"].is_null() && health["gpus"]["cards"] == serde_json::json!([]), "{health}");
    ensure!(!daemon.metrics().await?.contains("callbox_gpu"), "metrics of no card");
    ensure!(!daemon.log().contains("NVIDIA") || daemon.log().contains("no NVIDIA driver"), "{}", daemon.log());
    Ok(())
}
