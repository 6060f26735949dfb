//! Peers that are not ours: what they say is understood, and what they hear can be understood.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{
    AGENT, Baresip, Daemon, Engine, RATE, Setup, eventually, say, scenario, share_heard, transcribe,
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::callers::{holds, tone};
use crate::outbound::{SCRIPT, agent};
use crate::{PATIENCE, converse};

const QUESTION: &str = "When is breakfast served in the morning?";

/// Of the words of the greeting and the answer, the share that ears must find in a recording of G.711.
pub(crate) const ENOUGH: f64 = 0.7;

/// The greeting as the agent's file has it.
pub(crate) fn greeting() -> anyhow::Result<String> {
    let agent: toml::Table = toml::from_str(AGENT)?;
    Ok(agent["greeting"].as_str().unwrap_or_default().to_owned())
}

/// The record says what the caller said, and the recording says what the record says.
async fn judge(daemon: &Daemon, heard: &[i16]) -> anyhow::Result<()> {
    let turns = daemon.turns().await?;
    let words = transcribe(heard, daemon.dir()).await?;
    let [_, answered, ..] = turns.as_slice() else { anyhow::bail!("no question was understood: {turns:?}") };
    let asked = share_heard(QUESTION, &answered.caller);
    ensure!(asked >= ENOUGH, "of the question, {asked:.2} was understood: {:?}", answered.caller);
    ensure!(!answered.agent.is_empty(), "the question had no answer");
    let greeted = share_heard(&greeting()?, &words);
    ensure!(greeted >= ENOUGH, "of the greeting, {greeted:.2} was heard: {words:?}");
    let spoken = share_heard(&answered.agent, &words);
    ensure!(spoken >= ENOUGH, "of the answer {:?}, {spoken:.2} was heard: {words:?}", answered.agent);
    Ok(())
}

async fn baresip_hears_the_answer(parameters: &str) -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    // Silence while the agent greets, silence while it answers.
    let question = say(QUESTION, 7.0, 14.0, dir.path()).await?;
    let heard = Baresip::new("softphone")?.call(&(daemon.uri() + parameters), &question).await?;
    judge(&daemon, &heard).await
}

#[tokio::test]
async fn baresip_hears_the_answer_over_udp() -> anyhow::Result<()> {
    baresip_hears_the_answer("").await
}

#[tokio::test]
async fn baresip_hears_the_answer_over_tcp() -> anyhow::Result<()> {
    baresip_hears_the_answer(";transport=tcp").await
}

#[tokio::test]
async fn a_softphone_holds_presses_a_key_and_follows_a_refer() -> anyhow::Result<()> {
    let office = Baresip::new("office")?;
    let mut listening = office.answer(&tone(1000.0, 30.0))?;
    let target = format!("sip:office@{}", office.address());
    let daemon =
        Daemon::start(Setup { agent: agent(&target, "blind"), ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let phone = Baresip::new("softphone")?;
    let mut calling = phone.dial(&daemon.uri(), &[0; 40 * RATE as usize])?;
    let is = |wanted: &'static str| {
        let daemon = &daemon;
        move || async move {
            let calls = daemon.api("/api/v1/calls").await.ok()?;
            (calls["calls"][0]["state"] == wanted).then_some(())
        }
    };
    eventually("the call", PATIENCE, is("listening")).await?;
    phone.press("hold").await?;
    eventually("the call to be on hold", PATIENCE, is("held")).await?;
    phone.press("resume").await?;
    eventually("the call to be back", PATIENCE, is("listening")).await?;

    phone.press("sndcode 0").await?;
    let ended = || async {
        let calls = daemon.api("/api/v1/calls").await.ok()?;
        (calls["calls"][0]["end_reason"] == "transferred").then_some(())
    };
    eventually("the end of the call, as a transfer", PATIENCE, ended).await.with_context(|| calling.log())?;
    // Long enough to hear each other.
    tokio::time::sleep(Duration::from_secs(3)).await;
    calling.stop(PATIENCE).await?;
    listening.stop(PATIENCE).await?;
    let heard = phone.recording(&calling)?;
    ensure!(holds(&heard, 1000.0) > 0.4, "the caller does not hear the office: {} samples", heard.len());
    Ok(())
}

#[tokio::test]
async fn sipp_hears_the_answer() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    let rtp = converse(&daemon, say(QUESTION, 0.0, 0.2, dir.path()).await?).await?;
    let begin = tokio::time::Instant::now() - Duration::from_secs(3600);
    judge(&daemon, &rtp.track().samples(begin)).await
}

#[tokio::test]
async fn audio_that_sipp_streams_is_understood() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    say(QUESTION, 7.0, 10.0, dir.path()).await?;
    let (wav, speech) = (dir.path().join("telephone.wav"), dir.path().join("speech.ulaw"));
    let mut encode = Command::new("sox");
    encode.arg(wav).args(["-t", "raw", "-e", "u-law", "-r", "8000", "-c", "1"]).arg(&speech);
    ensure!(encode.status().await?.success(), "sox failed");
    let call = scenario("speech").saying(&speech).lasting(Duration::from_secs(20)).start(Daemon::USER, daemon.sip())?;
    call.done(Duration::from_secs(40)).await?;
    let turns = daemon.turns().await?;
    let understood = turns.get(1).map(|turn| turn.caller.clone()).unwrap_or_default();
    ensure!(share_heard(QUESTION, &understood) >= ENOUGH, "understood: {understood:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_who_hangs_up_at_once_is_forgotten() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup::new(Engine::Pack("tiny"))).await?;
    scenario("call").times(20, 20).start(Daemon::USER, daemon.sip())?.done(Duration::from_secs(30)).await?;
    let none = || async { daemon.metric("callbox_calls_active").await.ok()?.filter(|active| *active < 0.5) };
    eventually("all calls to end", Duration::from_secs(5), none).await?;
    Ok(())
}
