//! Nobody listens for some seconds: what a caller says meanwhile is answered late, and not lost.

use std::time::Duration;

use anyhow::{Context, ensure};
use callbox_tests::harness::{Daemon, Engine, RATE, Setup, Turn, say, scenario, transcribe};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::callers::{call, meanwhile};

/// One that says little.
const AGENT: &str = r#"
name = "terse"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Answer in one short sentence."
facts = ["Breakfast is served from seven to ten in the morning."]
greeting = "Good morning."
goodbye = "Goodbye."

[sampling]
max_tokens = 12
"#;

/// Longer than between "one moment" and the answer, while an engine is loaded.
const LONG: Duration = Duration::from_secs(4);

/// The turns in which the caller was understood to speak of breakfast, and was answered.
fn answered(turns: &[Turn]) -> usize {
    turns.iter().filter(|turn| turn.caller.to_lowercase().contains("breakfast") && !turn.heard.is_empty()).count()
}

#[tokio::test]
async fn a_question_is_answered_though_daemon_and_engine_die_in_the_middle_of_it() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut daemon = Daemon::serve(Setup { agent: AGENT, ..Setup::new(Engine::Pack("tiny")) }).await?;
    let question = say("Could you please tell me when breakfast is served?", 0.0, 0.3, dir.path()).await?;
    let (sipp, mut rtp) = call(&daemon, scenario("call").lasting(Duration::from_secs(45))).await?;

    // In its middle, and before anybody could have begun to answer.
    let length = Duration::from_secs(1) * u32::try_from(question.len())? / RATE;
    for (questions, after) in [(1, length / 2), (2, length)] {
        rtp.say(question.clone());
        rtp.run(after, |_| false).await?;
        let engine = daemon.engine().context("no engine")?;
        kill_process(engine, Signal::KILL)?;
        daemon.crash(|_| {}).await?;
        let killed = Instant::now();
        ensure!(rtp.listen(LONG, PATIENCE).await?, "nothing was heard after both had died");
        // On a busy machine the engine takes its time, and the first words heard only ask for patience.
        while answered(&daemon.turns_so_far().await?) < questions {
            ensure!(killed.elapsed() < PATIENCE, "question {questions} was not answered");
            rtp.run(Duration::from_secs(1), |_| false).await?;
        }
        ensure!(daemon.engines().len() == 1 && daemon.engine() != Some(engine), "not one new engine");
        println!("{:?} from the end of both to the end of the answer", killed.elapsed() - LONG);
        // The line must not fall silent for it.
        let heard = rtp.track().samples(killed);
        println!("heard: {}", meanwhile(&mut rtp, transcribe(&heard, dir.path())).await?);
    }
    meanwhile(&mut rtp, sipp.done(Duration::from_secs(60))).await?;
    let turns = daemon.turns().await?;
    ensure!(answered(&turns) == 2, "not both questions were answered: {turns:#?}");
    Ok(())
}
