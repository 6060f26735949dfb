//! Calls do not die with the daemon: it is killed, or replaced, while people talk to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use callbox::service::Slots;
use callbox_tests::harness::{Daemon, Engine, Heard, Rtp, Setup, eventually, say, scenario};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::callers::{ask, call, meanwhile, tone};
use crate::{PATIENCE, PAUSE};

const CALLS: usize = 20;

/// Without audio for so long, for 95 of 100 calls.
const GAP: Duration = Duration::from_millis(300);

const AGENT: &str = r#"
name = "desk"
numbers = ["*"]
persona = "You are kind."
facts = ["The garden is open all day."]
greeting = "Good morning."
goodbye = "Goodbye."
"#;

/// An answer of six seconds in three clauses.
const SCRIPT: &str = r#"
first_token_ms = 20
ms_per_character = 40
[[answer]]
heard = "What do you know?"
say = "Breakfast is served from seven to ten in the morning. The garden is open all day, and guests may swim until ten. Dinner is at six."
"#;

/// What the script takes for words.
fn question() -> Vec<i16> {
    tone(400.0, 0.6)
}

/// What a caller waits for between two things that happen to the daemon.
type Step = watch::Receiver<u32>;

async fn until(rtp: &mut Rtp, step: &Step, number: u32) -> anyhow::Result<()> {
    let step = step.clone();
    ensure!(rtp.run(PATIENCE, move |_| *step.borrow() >= number).await?, "step {number} did not come");
    Ok(())
}

/// The stream goes on: same source, same port, ahead by what the pause lasted, nothing twice.
fn goes_on((before, after): (Heard, Heard)) -> anyhow::Result<Duration> {
    let gap = after.at - before.at;
    ensure!((before.from, before.ssrc) == (after.from, after.ssrc), "another stream: {before:?}, {after:?}");
    let packets = after.sequence.wrapping_sub(before.sequence);
    ensure!((2..200).contains(&packets), "{packets} sequence numbers in {gap:?}");
    let samples = after.timestamp.wrapping_sub(before.timestamp);
    let time = Duration::from_micros(u64::from(samples) * 125);
    ensure!(time.abs_diff(gap) < Duration::from_millis(100), "{time:?} of timestamps in {gap:?}");
    Ok(gap)
}

async fn calls(daemon: &Daemon) -> anyhow::Result<Vec<Value>> {
    let page = daemon.api("/api/v1/calls?limit=100").await?;
    Ok(page["calls"].as_array().context("a list")?.clone())
}

#[tokio::test]
async fn a_killed_daemon_loses_no_call() -> anyhow::Result<()> {
    let mut daemon = Daemon::serve(Setup { agent: AGENT, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (steps, step) = watch::channel(0);
    let reached = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for number in 0..CALLS {
        let mut rtp = Rtp::bind().await?;
        let sipp = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(16));
        let sipp = sipp.start(Daemon::USER, daemon.sip())?;
        let (step, reached) = (step.clone(), Arc::clone(&reached));
        callers.spawn(async move {
            ensure!(rtp.listen(Duration::from_millis(300), PATIENCE).await?, "no greeting was heard");
            // Half of them are in the middle of an answer, half are thinking of a question.
            if number % 2 == 0 {
                ask(&mut rtp, question()).await?;
            }
            // Before the crash, of which the caller may hear only after it is over.
            let calm = Instant::now();
            reached.fetch_add(1, Ordering::AcqRel);
            until(&mut rtp, &step, 1).await?;
            if number % 2 == 0 {
                ensure!(rtp.listen(Duration::from_millis(800), PATIENCE).await?, "the rest was not heard");
            }
            rtp.run(Duration::from_millis(1500), |_| false).await?;
            let gap = goes_on(rtp.track().jump(calm).context("the stream did not jump")?)?;
            ask(&mut rtp, question()).await?;
            meanwhile(&mut rtp, sipp.done(PATIENCE)).await?;
            anyhow::Ok((gap, number))
        });
    }
    let all = || async { (reached.load(Ordering::Acquire) == CALLS).then_some(()) };
    tokio::select! {
        all = eventually("twenty calls", PATIENCE, all) => all?,
        Some(ended) = callers.join_next() => { ended??; }
    }
    let stored = daemon.manager().stored();
    ensure!(stored.len() == 3 * CALLS, "{stored:?}");
    let before = calls(&daemon).await?;
    steps.send_replace(1);
    daemon.crash(|_| {}).await?;
    daemon.ready().await?;

    let mut gaps = Vec::new();
    while let Some(ended) = callers.join_next().await {
        gaps.push(ended??);
    }
    gaps.sort();
    println!("RTP gaps of {CALLS} calls: {gaps:?}");
    let p95 = gaps.get(CALLS * 95 / 100 - 1).context("twenty gaps")?.0;
    println!("survival_gap_p95_ms {}", p95.as_millis());
    ensure!(p95 <= GAP, "without audio for {p95:?}");

    let over = || async { calls(&daemon).await.ok().filter(|all| all.iter().all(|call| call["state"] == "ended")) };
    let after = eventually("the ends of all calls", PATIENCE, over).await?;
    ensure!(after.len() == CALLS, "{} records of {CALLS} calls", after.len());
    for call in &after {
        let same = before.iter().find(|other| other["id"] == call["id"]).context("another id")?;
        ensure!(same["started"] == call["started"], "{same} is not {call}");
        ensure!(call["end_reason"] == "caller_hangup", "{call}");
        ensure!(call["turns"].as_u64() >= Some(1), "{call}");
    }
    let left = || async { daemon.manager().stored().is_empty().then_some(()) };
    eventually("the manager to keep nothing", PATIENCE, left).await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_goes_on_with_the_clause_that_was_cut_and_a_restart_is_as_good_as_a_crash() -> anyhow::Result<()> {
    let mut daemon = Daemon::serve(Setup { agent: AGENT, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("hungup")).await?;
    ask(&mut rtp, question()).await?;
    let asked = Instant::now();
    // Into the second clause of three: 2.2 s, 2.5 s and 0.6 s.
    rtp.run(Duration::from_secs(3), |_| false).await?;
    daemon.restart().await?;
    let restarted = Instant::now();
    ensure!(rtp.listen(Duration::from_millis(900), PATIENCE).await?, "the rest was not heard");
    let rest = rtp.track().last_voiced(restarted).context("silence")? - restarted;
    ensure!((Duration::from_millis(2400)..Duration::from_millis(4200)).contains(&rest), "{rest:?} of the rest");
    let gap = goes_on(rtp.track().jump(asked).context("the stream did not jump")?)?;
    println!("restarted: {gap:?} without audio");
    let said = daemon.manager().said();
    for line in ["READY=1", "WATCHDOG=1", "STATUS=calls are answered; 1 call"] {
        ensure!(said.iter().any(|said| said == line), "{line} was not said: {said:?}");
    }

    // BYE from our side, from a daemon that never saw the INVITE.
    let status = meanwhile(&mut rtp, daemon.stop()).await?;
    ensure!(status.success(), "{status}");
    sipp.done(PATIENCE).await
}

#[tokio::test]
async fn a_call_that_three_daemons_died_of_is_ended_and_the_others_go_on() -> anyhow::Result<()> {
    let mut daemon = Daemon::serve(Setup { agent: AGENT, ..Setup::new(Engine::Scripted(SCRIPT)) }).await?;
    let (poison, _deaf) = call(&daemon, scenario("hungup")).await?;
    let first = calls(&daemon).await?[0]["id"].as_str().context("an id")?.to_owned();
    let (innocent, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(12))).await?;
    for life in 1..=3 {
        let name = format!("call-{first}-state");
        daemon
            .crash(|manager| {
                let state = manager.descriptor(&name).and_then(|state| Slots::open(state).ok());
                state.expect("a call that goes on").0.enter();
            })
            .await?;
        daemon.ready().await?;
        let live = || async { calls(&daemon).await.ok()?.iter().any(|call| call["state"] != "ended").then_some(()) };
        eventually("calls that go on", PATIENCE, live).await?;
        let ended = calls(&daemon).await?.iter().any(|call| call["end_reason"] == "crashes");
        ensure!(life == 3 || !ended, "ended after {life} crashes");
    }
    poison.done(PATIENCE).await?;
    let end = || async {
        calls(&daemon).await.ok()?.into_iter().find(|call| call["id"] == first)?["end_reason"]
            .as_str()
            .map(str::to_owned)
    };
    ensure!(eventually("the end of the poisonous call", PATIENCE, end).await? == "crashes");
    ask(&mut rtp, question()).await?;
    innocent.done(PATIENCE).await
}

#[tokio::test]
async fn a_conversation_with_real_models_goes_on() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut daemon = Daemon::serve(Setup::new(Engine::Pack("tiny"))).await?;
    let question = say("When is breakfast served?", 0.0, 0.3, dir.path()).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(25))).await?;
    let engine = daemon.engine().context("no engine")?;
    let killed = Instant::now();
    daemon.crash(|_| {}).await?;
    meanwhile(&mut rtp, daemon.ready()).await?;
    println!("answers again {:?} after the crash", killed.elapsed());
    ensure!(daemon.engine() == Some(engine), "the engine did not outlive the daemon");
    rtp.say(question);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer was heard");
    sipp.done(PATIENCE).await?;
    let turns = daemon.turns().await?;
    let heard = turns.iter().any(|turn| turn.caller.to_lowercase().contains("breakfast") && !turn.heard.is_empty());
    ensure!(heard, "not understood: {turns:?}");
    ensure!(turns.len() >= 2, "the greeting of the first daemon is missing: {turns:?}");
    Ok(())
}
