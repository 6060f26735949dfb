//! What a daemon owes to those whose signalling was on its way when the one before it died.

use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Daemon, Engine, Setup, eventually, scenario};

use crate::PATIENCE;
use crate::callers::{ask, call, meanwhile, tone};

const AGENT: &str = r#"
name = "desk"
numbers = ["*"]
persona = "You are kind."
greeting = "Good morning."
goodbye = "Goodbye."
"#;

const RINGS: &str = r#"
name = "desk"
numbers = ["*"]
persona = "You are kind."
greeting = "Good morning."
goodbye = "Goodbye."
ring_ms = 20000
"#;

const SCRIPT: &str = r#"
first_token_ms = 20
[[answer]]
heard = "When?"
say = "The garden is open all day."
"#;

fn setup(agent: &'static str) -> Setup {
    Setup { agent, ..Setup::new(Engine::Scripted(SCRIPT)) }
}

#[tokio::test]
async fn a_call_that_rings_when_the_daemon_dies_is_refused_in_its_own_dialog() -> anyhow::Result<()> {
    let mut daemon = Daemon::serve(setup(RINGS)).await?;
    let callers = scenario("rung").times(5, 100).start(Daemon::USER, daemon.sip())?;
    let kept = || async { (daemon.manager().stored().len() == 15).then_some(()) };
    eventually("five calls to ring", PATIENCE, kept).await?;
    let rings = || async { (callers.logged().matches("rings").count() == 5).then_some(()) };
    eventually("five callers to hear it ring", PATIENCE, rings).await?;
    daemon.crash(|_| {}).await?;
    daemon.ready().await?;
    callers.done(Duration::from_secs(5)).await?;
    let left = || async { daemon.manager().stored().is_empty().then_some(()) };
    eventually("the manager to keep nothing", PATIENCE, left).await?;
    let calls = daemon.api("/api/v1/calls").await?;
    ensure!(calls["calls"].as_array().context("a list")?.is_empty(), "a call that was never answered: {calls}");
    Ok(())
}

#[tokio::test]
async fn a_call_over_tcp_goes_on_over_new_connections() -> anyhow::Result<()> {
    let mut daemon = Daemon::serve(setup(AGENT)).await?;
    let end = scenario("bye").over_tcp().answer()?;
    let begin = |id: &'static str| {
        let calls = scenario("elsewhere").over_tcp().with("contact_port", end.address().port());
        calls.with("call_id", id).lasting(Duration::from_secs(60))
    };
    let (ours, mut rtp) = call(&daemon, begin("ours")).await?;
    let (theirs, _deaf) = call(&daemon, begin("theirs")).await?;
    let logged = theirs.logged();
    let (_, tag) = logged.trim().split_once(";tag=").with_context(|| format!("no tag in {logged:?}"))?;
    daemon.crash(|_| {}).await?;
    daemon.ready().await?;
    ask(&mut rtp, tone(400.0, 0.6)).await?;

    // Theirs comes over another connection than their INVITE did,
    let hangup = scenario("hangup").over_tcp().with("call_id", "theirs").with("ours", tag);
    meanwhile(&mut rtp, hangup.start(Daemon::USER, daemon.sip())?.done(PATIENCE)).await?;
    let over = || async {
        let page = daemon.api("/api/v1/calls").await.ok()?;
        page["calls"].as_array()?.iter().any(|call| call["end_reason"] == "caller_hangup").then_some(())
    };
    eventually("the end of their call", PATIENCE, over).await?;
    // and ours opens one.
    let status = meanwhile(&mut rtp, daemon.stop()).await?;
    ensure!(status.success(), "{status}");
    end.done(Duration::from_secs(5)).await?;
    drop(ours);
    Ok(())
}
