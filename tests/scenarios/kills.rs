//! Ten kills of random processes under continuous calls. A hundred, for ten minutes, are a bench: `benches/src/bin/kills.rs`.

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Engine, Setup, say};
use callbox_tests::kills::{Plan, run};
use tempfile::TempDir;

#[tokio::test]
async fn ten_random_kills_lose_no_call_no_record_and_no_resource() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let plan = Plan {
        seed: 0x000d_eadb_ea75,
        kills: 10,
        lasting: Duration::from_secs(18),
        callers: 3,
        seconds: (5, 9),
        question: say("When is breakfast served?", 0.0, 0.2, dir.path()).await?,
    };
    let report = run(&plan, Setup { log: "info", ..Setup::new(Engine::Pack("tiny")) }).await?;
    let text = report.sentences().join("\n");
    println!("{text}");
    ensure!(report.confirmed > 3, "no call but the first ones:\n{text}");
    ensure!(report.lost.is_empty() && report.records.is_empty() && report.left.is_empty(), "{text}");
    ensure!(report.integrity == "ok", "{text}");
    Ok(())
}
