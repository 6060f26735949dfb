//! The caller speaks into what the agent says: how soon the agent is silent, read off the audio, and what it remembers.

use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Daemon, Engine, RATE, Rtp, Setup, say, scenario};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::callers::{ask, call, tone};
use crate::{PATIENCE, PAUSE};

/// `turns.barge_in_ms` of every agent here, as the product has it by default.
const SPEECH: Duration = Duration::from_millis(300);

/// From that much speech to silence.
const BAR: Duration = Duration::from_millis(100);

/// What the script says, 12 s at 60 ms a character, in three clauses.
const SCRIPT: &str = r#"
first_token_ms = 20
[[answer]]
heard = "What do you know?"
say = "Breakfast is served from seven to ten in the morning, and on Sundays from eight to eleven. The garden is open all day, and guests may swim until ten. The kitchen makes dinner from six until nine every evening."
"#;

/// Says `speech` into what the agent says; returns how long the agent was still heard.
async fn interrupt(rtp: &mut Rtp, speech: Vec<i16>) -> anyhow::Result<Duration> {
    // An agent that stops by itself would look like one that listens.
    let now = Instant::now();
    ensure!(rtp.run(PATIENCE, |rtp| rtp.track().first_voiced(now).is_some()).await?, "nothing to interrupt");
    rtp.say(speech);
    rtp.run(Duration::from_secs(1), |_| false).await?;
    let begun = rtp.said_from().context("nothing was said")?;
    Ok(rtp.track().last_voiced(begun).map_or(Duration::ZERO, |last| last - begun))
}

#[tokio::test]
async fn the_agent_stops_for_a_caller_and_remembers_what_was_heard() -> anyhow::Result<()> {
    let daemon = Daemon::start(Setup::new(Engine::Scripted(SCRIPT))).await?;
    let (call, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(35))).await?;
    ask(&mut rtp, tone(400.0, 1.0)).await?;

    let mut rounds = Vec::new();
    for _ in 0..3 {
        let asked = Instant::now();
        ensure!(rtp.run(PATIENCE, |rtp| rtp.track().first_voiced(asked).is_some()).await?, "no answer was heard");
        let answered = Instant::now();
        rtp.run(Duration::from_secs(4), |_| false).await?;
        let spoken = answered.elapsed();
        let stopped = interrupt(&mut rtp, tone(400.0, 2.0)).await?;
        rounds.push((stopped, spoken + stopped));
        ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the interruption was not sent");
    }
    println!("from the caller's first packet to silence, and how much was heard: {rounds:?}");
    let mut times: Vec<_> = rounds.iter().map(|round| round.0).collect();
    times.sort();
    ensure!(times[0] >= SPEECH, "a cough of {:?} stopped the agent", times[0]);
    ensure!(times[1] <= SPEECH + BAR, "the agent spoke for {:?} into the caller's words", times[1]);

    call.done(PATIENCE).await?;
    let turns = daemon.turns().await?;
    let (_, said) = SCRIPT.split_once("say = \"").context("say")?;
    ensure!(turns.len() >= 4, "three answers were interrupted: {turns:?}");
    for (turn, (_, heard)) in turns.iter().skip(1).zip(rounds) {
        ensure!(turn.caller == "What do you know?", "{turn:?}");
        let kept = turn.heard.trim_end_matches(['—', '-', ' ']);
        ensure!(said.starts_with(kept), "the record is not what was said: {turn:?}");
        // 60 ms a character; a word that was half heard counts or not.
        let spoken = Duration::from_millis(60) * u32::try_from(kept.chars().count())?;
        ensure!(spoken.abs_diff(heard) < Duration::from_millis(900), "{heard:?} were heard, {spoken:?} kept: {kept:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_voice_on_the_telephone_stops_the_agent() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = Daemon::start(Setup { agent: TALKER, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let speech = say("Excuse me, please tell me when breakfast is served.", 0.0, 0.2, dir.path()).await?;
    let onset = speech.iter().position(|sample| sample.unsigned_abs() > 500).context("silence")?;
    let onset = Duration::from_secs(1) * u32::try_from(onset)? / RATE;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(20));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.run(PATIENCE, |rtp| rtp.track().packets() > 150).await?, "no greeting was heard");
    let stopped = interrupt(&mut rtp, speech).await?.saturating_sub(onset);
    println!("the agent was silent {stopped:?} after the caller's voice began");
    ensure!(stopped <= SPEECH + BAR, "the agent spoke for {stopped:?} into the caller's words");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "the question was not answered");
    call.done(PATIENCE).await?;
    let turns = daemon.turns().await?;
    ensure!(turns.iter().any(|turn| turn.caller.to_lowercase().contains("breakfast")), "not understood: {turns:?}");
    Ok(())
}

/// An agent that is still greeting when the caller loses patience.
const TALKER: &str = r#"
name = "talker"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
facts = ["Breakfast is served from seven to ten in the morning."]
goodbye = "Thank you for calling. Goodbye."
greeting = "Welcome to the garden hotel, the oldest house of our town, where every room has a view of the lake and of the mountains behind it, and where guests have felt at home for more than one hundred years. How can I help you?"

[sampling]
max_tokens = 40
"#;
