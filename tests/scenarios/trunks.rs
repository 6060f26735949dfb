//! A proxy between the telephone network and the boxes, with the configuration that the pages for operators give.

use anyhow::ensure;
use callbox_tests::harness::{Baresip, Daemon, Engine, Kamailio, Setup, eventually, executable};
use tokio::process::Command;

use crate::PATIENCE;
use crate::callers::tone;

/// Hears one thing and says one thing, in tones.
const SCRIPT: &str = "ms_per_character = 20\n[[answer]]\nheard = \"is there a garden\"\nsay = \"There is.\"\n";

/// Silence while the agent greets, a question, silence while it answers.
fn question() -> Vec<i16> {
    [vec![0; 3 * 8000], tone(400.0, 1.0), vec![0; 4 * 8000]].concat()
}

async fn calls(daemon: &Daemon) -> anyhow::Result<usize> {
    Ok(daemon.api("/api/v1/calls").await?["calls"].as_array().map_or(0, Vec::len))
}

async fn drain(daemon: &Daemon, more: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(executable("callbox")?);
    command.arg("drain").args(more).arg("--config").arg(daemon.config());
    ensure!(command.status().await?.success(), "callbox drain failed");
    Ok(())
}

#[tokio::test]
async fn calls_through_kamailio_go_to_a_box_that_takes_them() -> anyhow::Result<()> {
    let first = Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await?;
    let second = Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await?;
    let kamailio = Kamailio::start(&[first.sip(), second.sip()]).await?;
    let uri = format!("sip:reception@{}", kamailio.address());

    // Drained, and Kamailio does not know it yet, or knows it from an OPTIONS: the caller notices neither.
    drain(&first, &[]).await?;
    for _ in 0..2 {
        let heard = Baresip::new("guest")?.call(&uri, &question()).await?;
        ensure!(heard.iter().any(|sample| sample.unsigned_abs() > 1000), "the caller heard nothing");
    }
    let turns = second.turns().await?;
    ensure!(turns.iter().any(|turn| turn.caller == "is there a garden" && turn.heard == "There is."), "{turns:?}");
    ensure!((calls(&first).await?, calls(&second).await?) == (0, 2), "one was answered by a box that was drained");

    // Taking calls again: Kamailio finds out by itself.
    drain(&first, &["--cancel"]).await?;
    let back = || async {
        Baresip::new("guest").ok()?.call(&uri, &question()).await.ok()?;
        (calls(&first).await.ok()? > 0).then_some(())
    };
    eventually("a call to the box that takes calls again", PATIENCE * 3, back).await
}
