//! Nobody can be recognised in the log: not by number, not by address, not by a word that was said.

use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Daemon, Engine, Rtp, Setup, say, scenario, share_heard};
use tempfile::TempDir;

use crate::{PATIENCE, PAUSE};

const NUMBER: &str = "+4915550142";
const ADDRESS: [u8; 4] = [127, 0, 0, 77];

/// Words of the question that nobody but this caller says.
const RARE: [&str; 2] = ["penelope", "balcony"];

#[tokio::test]
async fn no_caller_is_named_in_the_log() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let daemon = Daemon::start(Setup { log: "trace", ..Setup::new(Engine::Pack("tiny")) }).await?;
    let mut rtp = Rtp::bind().await?;
    let call = scenario("call").from(ADDRESS, NUMBER).audio_at(rtp.port()?).lasting(Duration::from_secs(20));
    let call = call.start(Daemon::USER, daemon.sip())?;
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
    let question = "My name is Penelope and I need a room with a balcony.";
    rtp.say(say(question, 0.0, 0.2, dir.path()).await?);
    ensure!(rtp.run(PATIENCE, Rtp::has_said_it).await?, "the question was not sent");
    ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no answer was heard");
    call.done(PATIENCE).await?;
    let turns = daemon.turns().await?;
    ensure!(turns.iter().any(|turn| share_heard(question, &turn.caller) > 0.5), "nothing was understood: {turns:?}");
    let words = turns.iter().map(|turn| turn.caller.to_lowercase()).collect::<String>();
    ensure!(RARE.iter().any(|rare| words.contains(rare)), "no word of {RARE:?} was understood: {turns:?}");
    // Stopped first: what is written at the end counts too.
    let path = daemon.dir().join("log");
    let copy = dir.path().join("log");
    std::fs::hard_link(&path, &copy)?;
    daemon.stop().await?;

    let log = std::fs::read_to_string(&copy)?;
    ensure!(log.lines().count() > 10, "there is no log to judge:\n{log}");
    let address = std::net::Ipv4Addr::from(ADDRESS).to_string();
    let mut secrets = vec![NUMBER.trim_start_matches('+').to_owned(), address];
    secrets.extend(RARE.map(str::to_owned));
    for turn in turns {
        secrets.extend(runs_of_three(&turn.caller));
        secrets.extend(runs_of_three(&turn.agent));
    }
    for line in log.lines() {
        let lower = line.to_lowercase();
        for secret in &secrets {
            ensure!(!lower.contains(secret), "the log holds {secret:?}: wrap it in base::Pii\n{line}");
        }
    }
    Ok(())
}

/// Three words in a row are a transcript; a single one that is not rare may be anybody's.
fn runs_of_three(text: &str) -> Vec<String> {
    let words: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
    words.windows(3).map(|run| run.join(" ")).collect()
}
